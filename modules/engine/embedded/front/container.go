//go:build linux

package front

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// container is an image that may not have been made yet, and what its next
// commands see beside it.
type container struct {
	node
	fs          llb.State
	platform    ocispecs.Platform
	image       dockerspec.DockerOCIImage // configuration; history and rootfs as the base had them
	mounts      []mountPoint
	secretEnv   []secretVariable
	built       []*secret // of the build that made it, which may be in its files
	annotations map[string]string
	ports       []port // exposed by calls, in their order
	bindings    []binding
	logins      []login
	imageRef    string
	last        *llb.State // meta mount of the last exec
}

func (*container) typeName() string { return "Container" }

func (c *container) withRecipe(r *recipe) object {
	d := *c
	d.recipe = r
	return &d
}

// clone is a copy to change: made by nobody, sharing no map or list that the
// fields change.
func (c *container) clone() *container {
	d := *c
	d.recipe = nil
	d.imageRef = ""
	d.mounts = slices.Clone(c.mounts)
	d.secretEnv = slices.Clone(c.secretEnv)
	d.built = slices.Clone(c.built)
	d.ports = slices.Clone(c.ports)
	d.bindings = slices.Clone(c.bindings)
	d.logins = slices.Clone(c.logins)
	d.annotations = maps.Clone(c.annotations)
	d.image.Config.Env = slices.Clone(c.image.Config.Env)
	d.image.Config.Labels = maps.Clone(c.image.Config.Labels)
	d.image.Config.ExposedPorts = maps.Clone(c.image.Config.ExposedPorts)
	return &d
}

func (c *container) root() *directory {
	return &directory{state: c.fs, path: "/", platform: c.platform}
}

// abs is a path given by a query: relative ones start at the working directory.
func (c *container) abs(p string) string {
	return path.Join("/", func() string {
		if path.IsAbs(p) {
			return p
		}
		return path.Join(c.image.Config.WorkingDir, p)
	}())
}

// expand replaces variables when the call asks for it.
func (c *container) expand(k *call, text string) (string, error) {
	if !k.flag("expand") {
		return text, nil
	}
	var secret string
	out := os.Expand(text, func(name string) string {
		if slices.ContainsFunc(c.secretEnv, func(s secretVariable) bool { return s.name == name }) {
			secret = name
		}
		v, _ := lookupEnv(c.image.Config.Env, name)
		return v
	})
	if secret != "" {
		return "", usage(fmt.Sprintf("expand cannot be used with secret env variable %q", secret), "")
	}
	return out, nil
}

// at is abs and expand of an argument.
func (c *container) at(k *call, name string) (string, error) {
	p, err := c.expand(k, k.str(name))
	return c.abs(p), err
}

func lookupEnv(env []string, name string) (string, bool) {
	for _, pair := range slices.Backward(env) {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v, true
		}
	}
	return "", false
}

// setEnv changes a variable in its place, or adds it.
func setEnv(env []string, name, value string) []string {
	for i, pair := range env {
		if k, _, _ := strings.Cut(pair, "="); k == name {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}

func (s *Server) newContainer(p ocispecs.Platform) *container {
	c := &container{fs: llb.Scratch(), platform: p}
	c.image.Platform = p
	return c
}

// mountPoint is one mount of a container. state is what is seen there; for a
// cache, what it starts with.
type mountPoint struct {
	target   string
	source   directory // state and path; the platform is the container's
	isFile   bool
	readonly bool
	cache    string // id of a cache volume
	sharing  llb.CacheMountSharingMode
	tmpfs    bool
	size     int64
	secret   *secret
	socket   *socket
	owner    *owner
	mode     int
}

// find is the deepest mount that has a path, nil for the root file system, and
// the absolute path within the mount's state.
func (c *container) find(p string) (*mountPoint, string, error) {
	m := c.deepest(p)
	if m == nil {
		return nil, p, nil
	}
	for kind, is := range map[string]bool{"tmpfs": m.tmpfs, "cache": m.cache != "", "secret": m.secret != nil, "socket": m.socket != nil} {
		if is {
			return nil, "", usage(fmt.Sprintf("%s: cannot retrieve path from %s", p, kind), "")
		}
	}
	return m, path.Join(m.source.path, strings.TrimPrefix(p, m.target)), nil
}

// deepest is the mount that has a path, nil for the root file system.
func (c *container) deepest(p string) *mountPoint {
	best := -1
	for i, m := range c.mounts {
		if (p == m.target || strings.HasPrefix(p, m.target+"/") || m.target == "/") && (best < 0 || len(m.target) >= len(c.mounts[best].target)) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	return &c.mounts[best]
}

// locate is the directory tree a path lies in and the path there.
func (c *container) locate(p string) (*directory, string, error) {
	m, at, err := c.find(p)
	if err != nil {
		return nil, "", err
	}
	if m == nil {
		return c.root(), at, nil
	}
	return &directory{state: m.source.state, path: "/", platform: c.platform}, at, nil
}

// change applies fn to the state a path lies in: that of a mount or the root.
func (c *container) change(p string, fn func(llb.State, string) (llb.State, error)) (*container, error) {
	d := c.clone()
	m, at, err := d.find(p)
	if err != nil {
		return nil, err
	}
	st := &d.fs
	if m != nil {
		st = &m.source.state
	}
	*st, err = fn(*st, at)
	return d, err
}

// containerFields are the fields about the whole container.
func containerFields() map[string]field {
	return map[string]field{
		"rootfs": on("", func(_ context.Context, _ *call, c *container) (any, error) { return c.root(), nil }),
		"withRootfs": on("directory:o!", func(ctx context.Context, k *call, c *container) (any, error) {
			dir, err := objectArg[*directory](ctx, k, "directory")
			if err != nil {
				return nil, err
			}
			d := c.clone()
			d.fs = dir.rooted()
			return d, nil
		}),
		"sync": on("", func(ctx context.Context, k *call, c *container) (any, error) {
			if err := k.evaluate(ctx, c); err != nil {
				return nil, err
			}
			return c.made().id()
		}),
		"platform": on("", func(_ context.Context, _ *call, c *container) (any, error) {
			return platforms.Format(c.platform), nil
		}),
		"imageRef": on("", func(_ context.Context, _ *call, c *container) (any, error) {
			if c.imageRef == "" {
				return nil, usage("Image reference can only be retrieved immediately after the 'Container.From' call", "")
			}
			return c.imageRef, nil
		}),
		"mounts": on("", func(_ context.Context, _ *call, c *container) (any, error) {
			out := []string{}
			for _, m := range c.mounts {
				out = append(out, m.target)
			}
			return out, nil
		}),
		"withError": on("err:s!", func(_ context.Context, k *call, c *container) (any, error) {
			if text := k.str("err"); text != "" {
				return nil, errors.New(text)
			}
			return c.clone(), nil
		}),
	}
}

// evaluate makes the engine do everything the container consists of.
func (s *Server) evaluate(ctx context.Context, c *container) error {
	states := []llb.State{c.fs}
	for _, m := range c.mounts {
		if m.persists() || m.readonly {
			states = append(states, m.source.state)
		}
	}
	if c.last != nil {
		states = append(states, *c.last)
	}
	return s.build(ctx, job{}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		for _, st := range states {
			if st.Output() == nil {
				continue
			}
			if _, err := solveState(ctx, gw, st, c.platform); err != nil {
				return nil, err
			}
		}
		return gateway.NewResult(), nil
	})
}
