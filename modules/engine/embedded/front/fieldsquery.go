//go:build linux

package front

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
		"directory": on("path:s! exclude:l include:l noCache:b gitignore:b", hostDirectory).with(hostPath),
		"file":      on("path:s! noCache:b", hostFile).with(hostPath),
		"findUp":    on("name:s! noCache:b", hostFindUp),

		"unixSocket": on("path:s!", hostSocket).with(hostPath),
		"service":    on("ports:m! host:s", hostService),
		"tunnel":     on("service:o! ports:m native:b", hostTunnel),
	}
}

// hostDirectory reads the tree's state now, every time: a host directory is
// never served from memory, so noCache changes nothing.
func hostDirectory(ctx context.Context, c *call, _ *hostObject) (any, error) {
	p := c.str("path")
	if err := mustBe(p, true); err != nil {
		return nil, err
	}
	var keep func(string, bool) bool
	if c.flag("gitignore") {
		ignored, err := hostIgnores(p)
		if err != nil {
			return nil, hostFault("reading .gitignore files of "+p, err)
		}
		if ignored("", true) {
			return nil, usage(fmt.Sprintf("%s: no such file or directory: a .gitignore file above it leaves it out", p), "")
		}
		keep = func(name string, dir bool) bool { return !ignored(name, dir) }
	}
	st, err := c.host.directory(ctx, p, c.strs("include"), c.strs("exclude"), keep)
	if err != nil {
		return nil, hostFault("reading host directory "+p, err)
	}
	return &directory{state: st, path: "/", platform: c.platform}, nil
}

func hostFile(ctx context.Context, c *call, _ *hostObject) (any, error) {
	p := c.str("path")
	if err := mustBe(p, false); err != nil {
		return nil, err
	}
	st, err := c.host.file(ctx, p)
	if err != nil {
		return nil, hostFault("reading host file "+p, err)
	}
	return &file{state: st, path: "/" + filepath.Base(p), platform: c.platform, artifact: p}, nil
}

// hostFindUp looks for a name in the working directory and above it.
func hostFindUp(_ context.Context, c *call, _ *hostObject) (any, error) {
	name := c.str("name")
	if name == "" || filepath.Base(name) != name {
		return nil, usage(fmt.Sprintf("Host.findUp: %q is not a file name", name), "")
	}
	if !filepath.IsAbs(c.workdir) {
		return nil, usage("Host.findUp: the client did not say what its working directory is", "")
	}
	for dir := c.workdir; ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			rel, err := filepath.Rel(c.workdir, filepath.Join(dir, name))
			return rel, err
		}
		if dir == filepath.Dir(dir) {
			return nil, nil
		}
	}
}

// mustBe checks what a host path is before anything is read.
func mustBe(p string, dir bool) error {
	st, err := os.Stat(p)
	switch {
	case os.IsNotExist(err):
		return usage(fmt.Sprintf("%s: no such file or directory", p), "")
	case err != nil:
		return hostFault("reading "+p, err)
	case dir && !st.IsDir():
		return usage(fmt.Sprintf("%s is not a directory", p), "")
	case !dir && !st.Mode().IsRegular():
		return usage(fmt.Sprintf("%s is not a regular file", p), "")
	}
	return nil
}
