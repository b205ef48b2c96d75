//go:build linux

package front

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// query is the root of every query.
type query struct{ node }

func (*query) typeName() string            { return "Query" }
func (q *query) withRecipe(*recipe) object { return q }

// hostObject is the host of the client.
type hostObject struct{ node }

func (*hostObject) typeName() string              { return "Host" }
func (h *hostObject) withRecipe(r *recipe) object { return &hostObject{node{r}} }

// cacheVolume is a directory that outlives containers.
type cacheVolume struct {
	node
	key, sharing string
	source       *directory // what it starts with; nil is nothing
	owner        string
}

func (*cacheVolume) typeName() string { return "CacheVolume" }

func (v *cacheVolume) withRecipe(r *recipe) object {
	c := *v
	c.recipe = r
	return &c
}

func queryFields() map[string]field {
	fields := map[string]field{
		"container": on("platform:s", func(_ context.Context, c *call, _ *query) (any, error) {
			p, err := c.platformArg()
			return c.newContainer(p), err
		}),
		"directory": on("", func(_ context.Context, c *call, _ *query) (any, error) { return c.emptyDirectory(), nil }),
		"file":      on("name:s! contents:s! permissions:i", queryFile),
		"host":      on("", func(context.Context, *call, *query) (any, error) { return &hostObject{}, nil }),
		"cacheVolume": on("key:s! source:o sharing:s owner:s", func(ctx context.Context, c *call, _ *query) (any, error) {
			if c.str("key") == "" {
				return nil, usage("cacheVolume: the key is empty", "")
			}
			src, err := objectArg[*directory](ctx, c, "source")
			return &cacheVolume{key: c.str("key"), sharing: c.str("sharing"), source: src, owner: c.str("owner")}, err
		}),
		"setSecret": on("name:s! plaintext:s key:s", setSecret).with(keepPlaintext),
		"secret":    on("uri:s! cacheKey:s", secretFromURI),
		"defaultPlatform": on("", func(_ context.Context, c *call, _ *query) (any, error) {
			return platforms.Format(c.platform), nil
		}),
		"error": on("message:s!", func(_ context.Context, c *call, _ *query) (any, error) {
			return newRecord("Error", args{"message": c.str("message")}), nil
		}),
		"checkVersionCompatibility": on("version:s!", func(context.Context, *call, *query) (any, error) { return true, nil }),
		"version":                   on("", func(context.Context, *call, *query) (any, error) { return Version, nil }),
		"node": on("id:s!", func(ctx context.Context, c *call, _ *query) (any, error) {
			return c.loadID(ctx, c.str("id"), "")
		}),
	}
	types := []string{"Container", "Directory", "File", "Host", "Secret", "CacheVolume", "Service", "Socket"}
	for _, typ := range append(types, sortedKeys(recordTypes())...) {
		fields["load"+typ+"FromID"] = on("id:s!", func(ctx context.Context, c *call, _ *query) (any, error) {
			return c.loadID(ctx, c.str("id"), typ)
		})
	}
	return merged(fields, recordLoaders())
}

// platformArg is the argument platform, or the engine's own.
func (c *call) platformArg() (ocispecs.Platform, error) {
	if c.str("platform") == "" {
		return c.platform, nil
	}
	p, err := platforms.Parse(c.str("platform"))
	if err != nil {
		return p, usage(fmt.Sprintf("%s.%s: %q is not a platform", c.typ, c.field, c.str("platform")), "write for example linux/amd64")
	}
	return platforms.Normalize(p), nil
}

func queryFile(_ context.Context, c *call, _ *query) (any, error) {
	name := c.str("name")
	if name == "" || strings.Contains(name, "/") {
		return nil, usage(fmt.Sprintf("file: %q is not a file name", name), "")
	}
	mode := os.FileMode(0o644)
	if m := permissions(c); m != nil {
		mode = os.FileMode(*m)
	}
	st := llb.Scratch().File(llb.Mkfile("/"+name, mode, []byte(c.str("contents"))), llb.WithCustomName("write "+name))
	return &file{state: st, path: "/" + name, platform: c.platform}, nil
}

func hostFields() map[string]field {
	return map[string]field{
		"directory": on("path:s! exclude:l include:l noCache:b gitignore:b seen:s", hostDirectory).with(hostSeen(hostPath)),
		"file":      on("path:s! noCache:b seen:s", hostFile).with(hostSeen(hostPath)),
		"findUp":    on("name:s! noCache:b seen:s", hostFindUp).with(hostSeen(hostWorkdir)),

		"unixSocket": on("path:s!", hostSocket).with(hostPath),
		"service":    on("ports:m! host:s", hostService),
		"tunnel":     on("service:o! ports:m native:b", hostTunnel),
	}
}
