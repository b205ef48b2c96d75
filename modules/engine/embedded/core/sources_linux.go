package core

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/solver"
	websource "github.com/moby/buildkit/source/http"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/worker/base"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/executor"
)

const mirrorOnly = "egress/mirror-only"

// refuseSource refuses the sources that BuildKit itself would fetch from
// anywhere; images go through registryHosts, files through the gateway.
func refuseSource(identifier string) error {
	switch scheme(identifier) {
	case srctypes.DockerImageScheme, srctypes.DockerImageBlobScheme, srctypes.LocalScheme,
		srctypes.OCIScheme, srctypes.OCIBlobScheme, srctypes.HTTPScheme, srctypes.HTTPSScheme:
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindGate, Op: "fetching", Place: identifier,
		Message: "refused by rule " + mirrorOnly + ": a build reaches the mirrors and nothing else",
		Remedy:  "put the file into the build context, or fetch it in a RUN through a mirror",
	}
}

// isWeb: the source is a file behind an address (ADD https://…).
func isWeb(identifier string) bool {
	s := scheme(identifier)
	return s == srctypes.HTTPScheme || s == srctypes.HTTPSScheme
}

// fetchThroughGateway replaces the worker's source of files behind addresses,
// which would reach out by itself, and bounds what one brings.
func fetchThroughGateway(w *base.Worker, room func(context.Context) executor.Room) error {
	source, err := websource.NewSource(websource.Opt{CacheAccessor: w.CacheMgr, Transport: executor.FetchTransport{Room: room}})
	if err != nil {
		return err
	}
	w.HTTPSource = source
	w.SourceManager.Register(source)
	return nil
}

// webOp is the fetch of a file; its requests are made for its step.
type webOp struct {
	solver.Op
	vertex executor.Vertex
}

var _ solver.Op = (*webOp)(nil)

// CacheMap may fetch: without a checksum the content is the key.
func (o *webOp) CacheMap(ctx context.Context, jc solver.JobContext, index int) (*solver.CacheMap, bool, error) {
	return o.Op.CacheMap(executor.WithFetch(ctx, o.vertex), jc, index)
}

// Exec fetches what CacheMap has not.
func (o *webOp) Exec(ctx context.Context, jc solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	return o.Op.Exec(executor.WithFetch(ctx, o.vertex), jc, inputs)
}

// registryHosts resolves BaseHost to the loopback registries of those who have
// joined and lets nothing else through but registries on loopback addresses,
// over plain HTTP.
func registryHosts(images func(context.Context) []string) docker.RegistryHosts {
	httpClient := &http.Client{Transport: &baseTransport{images: images, Transport: &http.Transport{
		Proxy:                 nil, // loopback needs none, and nothing else is reached
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
	}}}
	return func(host string) ([]docker.RegistryHost, error) {
		switch {
		case host == BaseHost && len(images(context.Background())) > 0:
		case isLoopback(host):
		default:
			return nil, &artifact.Error{
				Kind: artifact.KindGate, Op: "resolving an image of registry", Place: host,
				Message: "refused by rule " + mirrorOnly + ": images come from the catalog's bases",
				Remedy:  "name a base of the catalog in FROM, or have one added with kind oci",
			}
		}
		return []docker.RegistryHost{{
			Client: httpClient, Host: host, Scheme: "http", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}}, nil
	}
}

// baseTransport sends requests to BaseHost to one of the registries that have
// bases. What they serve is asked for by digest, so any that has it will do,
// also when another has gone.
type baseTransport struct {
	*http.Transport
	images func(context.Context) []string
}

// RoundTrip asks one after the other.
func (t *baseTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != BaseHost {
		return t.Transport.RoundTrip(r)
	}
	var resp *http.Response
	err := fmt.Errorf("no run that serves %s is left", BaseHost)
	for _, addr := range t.images(r.Context()) {
		if resp != nil {
			resp.Body.Close()
		}
		one := r.Clone(r.Context())
		one.URL.Host, one.Host = addr, addr
		resp, err = t.Transport.RoundTrip(one)
		if err == nil && resp.StatusCode != http.StatusNotFound {
			break
		}
	}
	return resp, err
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// lockedBy is the message for a state directory in use.
func lockedBy(pid string) string {
	if pid == "" {
		return "another drydock uses it"
	}
	return fmt.Sprintf("process %s uses it", pid)
}
