package core

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	srctypes "github.com/moby/buildkit/source/types"

	"drydock/modules/artifact"
)

const mirrorOnly = "egress/mirror-only"

// refuseSource refuses the sources that BuildKit itself would fetch from
// anywhere; images go through registryHosts.
func refuseSource(identifier string) error {
	switch scheme(identifier) {
	case srctypes.DockerImageScheme, srctypes.DockerImageBlobScheme, srctypes.LocalScheme,
		srctypes.OCIScheme, srctypes.OCIBlobScheme:
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindGate, Op: "fetching", Place: identifier,
		Message: "refused by rule " + mirrorOnly + ": a build reaches the mirrors and nothing else",
		Remedy:  "put the file into the build context, or fetch it in a RUN through a mirror",
	}
}

// registryHosts resolves BaseHost to the loopback registry and lets nothing
// else through but registries on loopback addresses, over plain HTTP.
func registryHosts(imagesAddr string) docker.RegistryHosts {
	httpClient := &http.Client{Transport: &http.Transport{
		Proxy:                 nil, // loopback needs none, and nothing else is reached
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout: time.Minute,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
	}}
	return func(host string) ([]docker.RegistryHost, error) {
		target := host
		switch {
		case host == BaseHost && imagesAddr != "":
			target = imagesAddr
		case isLoopback(host):
		default:
			return nil, &artifact.Error{
				Kind: artifact.KindGate, Op: "resolving an image of registry", Place: host,
				Message: "refused by rule " + mirrorOnly + ": images come from the catalog's bases",
				Remedy:  "name a base of the catalog in FROM, or have one added with kind oci",
			}
		}
		return []docker.RegistryHost{{
			Client: httpClient, Host: target, Scheme: "http", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}}, nil
	}
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
