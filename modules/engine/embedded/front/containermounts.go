//go:build linux

package front

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
)

// containerMountFields are the fields about mounts and secrets.
func containerMountFields() map[string]field {
	return map[string]field{
		"withMountedDirectory": on("path:s! source:o! owner:s readOnly:b expand:b", withMountedDirectory),
		"withMountedFile":      on("path:s! source:o! owner:s expand:b", withMountedFile),
		"withMountedTemp": on("path:s! size:i expand:b", func(_ context.Context, k *call, c *container) (any, error) {
			return c.mount(k, mountPoint{tmpfs: true, size: int64(k.num("size"))})
		}),
		"withMountedCache":  on("path:s! cache:o! source:o sharing:s owner:s expand:b", withMountedCache),
		"withMountedSecret": on("path:s! source:o! owner:s mode:i expand:b", withMountedSecret),
		"withUnixSocket": on("path:s! source:o! owner:s expand:b", func(ctx context.Context, k *call, c *container) (any, error) {
			s, err := objectArg[*socket](ctx, k, "source")
			if err != nil {
				return nil, err
			}
			who, err := k.owner(ctx, c.root(), k.str("owner"))
			if err != nil {
				return nil, err
			}
			return c.mount(k, mountPoint{socket: s, owner: who})
		}),
		"withoutUnixSocket": on("path:s! expand:b", withoutMount),
		"withoutMount":      on("path:s! expand:b", withoutMount),
		"withSecretVariable": on("name:s! secret:o!", func(ctx context.Context, k *call, c *container) (any, error) {
			s, err := objectArg[*secret](ctx, k, "secret")
			if err != nil {
				return nil, err
			}
			d := c.clone()
			d.dropSecretVariable(k.str("name"))
			d.secretEnv = append(d.secretEnv, secretVariable{name: k.str("name"), secret: s})
			return d, nil
		}),
		"withoutSecretVariable": edit("name:s!", func(k *call, c *container) error {
			c.dropSecretVariable(k.str("name"))
			return nil
		}),
	}
}

func withoutMount(_ context.Context, k *call, c *container) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	d := c.clone()
	d.mounts = slices.DeleteFunc(d.mounts, func(m mountPoint) bool { return m.target == p })
	return d, nil
}

func (c *container) dropSecretVariable(name string) {
	c.secretEnv = slices.DeleteFunc(c.secretEnv, func(s secretVariable) bool { return s.name == name })
}

// mount adds a mount at the path argument, in the place of one that is there.
func (c *container) mount(k *call, m mountPoint) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	if p == "/" {
		return nil, usage(fmt.Sprintf("%s.%s: nothing can be mounted over /", k.typ, k.field), "use withRootfs")
	}
	d := c.clone()
	m.target = p
	// what is mounted below is hidden by the new one, as mount(8) would
	d.mounts = append(slices.DeleteFunc(d.mounts, func(o mountPoint) bool { return o.target == p || strings.HasPrefix(o.target, p+"/") }), m)
	return d, nil
}

func withMountedDirectory(ctx context.Context, k *call, c *container) (any, error) {
	src, err := objectArg[*directory](ctx, k, "source")
	if err != nil {
		return nil, err
	}
	who, err := k.owner(ctx, c.root(), k.str("owner"))
	if err != nil {
		return nil, err
	}
	source := directory{state: src.state, path: src.path}
	if who != nil {
		source = *src.owned(who)
	}
	return c.mount(k, mountPoint{source: source, readonly: k.flag("readOnly")})
}

func withMountedFile(ctx context.Context, k *call, c *container) (any, error) {
	src, err := objectArg[*file](ctx, k, "source")
	if err != nil {
		return nil, err
	}
	who, err := k.owner(ctx, c.root(), k.str("owner"))
	if err != nil {
		return nil, err
	}
	source := directory{state: src.state, path: src.path}
	if who != nil {
		source.state = copyFileTo(llb.Scratch(), "/"+src.base(), src, put{owner: who})
		source.path = "/" + src.base()
	}
	return c.mount(k, mountPoint{source: source, isFile: true})
}

func withMountedCache(ctx context.Context, k *call, c *container) (any, error) {
	volume, err := objectArg[*cacheVolume](ctx, k, "cache")
	if err != nil {
		return nil, err
	}
	m := mountPoint{cache: volume.key, source: directory{state: llb.Scratch(), path: "/"}}
	who := k.str("owner")
	if who == "" {
		who = volume.owner
	}
	if m.owner, err = k.owner(ctx, c.root(), who); err != nil {
		return nil, err
	}
	sharing := k.str("sharing")
	if sharing == "" {
		sharing = volume.sharing
	}
	modes := map[string]llb.CacheMountSharingMode{
		"": llb.CacheMountShared, "SHARED": llb.CacheMountShared,
		"PRIVATE": llb.CacheMountPrivate, "LOCKED": llb.CacheMountLocked,
	}
	mode, ok := modes[sharing]
	if !ok {
		return nil, usage(fmt.Sprintf("%q is not a way to share a cache", sharing), "")
	}
	m.sharing = mode
	if sharing != "" { // as in Dagger: a volume for each way of sharing that is given
		m.cache += " (" + sharing + ")"
	}
	src, err := objectArg[*directory](ctx, k, "source")
	if err != nil {
		return nil, err
	}
	if src == nil {
		src = volume.source
	}
	if src == nil {
		src = &directory{state: llb.Scratch(), path: "/"}
	}
	m.source = directory{state: src.state, path: src.path}
	if m.owner != nil {
		m.source = *src.owned(m.owner)
	}
	return c.mount(k, m)
}

func withMountedSecret(ctx context.Context, k *call, c *container) (any, error) {
	s, err := objectArg[*secret](ctx, k, "source")
	if err != nil {
		return nil, err
	}
	who, err := k.owner(ctx, c.root(), k.str("owner"))
	if err != nil {
		return nil, err
	}
	mode := 0o400
	if k.has("mode") {
		mode = k.num("mode")
	}
	return c.mount(k, mountPoint{secret: s, owner: who, mode: mode})
}
