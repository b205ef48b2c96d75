//go:build linux

package front

import (
	"context"
	"slices"

	"github.com/moby/buildkit/client/llb"
)

// containerFileFields are the fields about files of the container.
func containerFileFields() map[string]field {
	return map[string]field{
		"directory": on("path:s! expand:b", func(_ context.Context, k *call, c *container) (any, error) {
			p, err := c.at(k, "path")
			if err != nil {
				return nil, err
			}
			dir, at, err := c.locate(p)
			if err != nil {
				return nil, err
			}
			dir.path = at
			return dir, nil
		}),
		"file": on("path:s! expand:b", func(_ context.Context, k *call, c *container) (any, error) {
			p, err := c.at(k, "path")
			if err != nil {
				return nil, err
			}
			dir, at, err := c.locate(p)
			if err != nil {
				return nil, err
			}
			return &file{state: dir.state, path: at, platform: c.platform}, nil
		}),
		"exists": on("path:s! expectedType:s doNotFollowSymlinks:b expand:b", func(ctx context.Context, k *call, c *container) (any, error) {
			p, err := c.at(k, "path")
			if err != nil {
				return nil, err
			}
			dir, at, err := c.locate(p)
			if err != nil {
				return nil, err
			}
			return k.exists(ctx, dir, at)
		}),
		"withDirectory": on("path:s! source:o! include:l exclude:l owner:s permissions:i gitignore:b expand:b", containerWithDirectory),
		"withFile":      on("path:s! source:o! permissions:i owner:s expand:b", containerWithFile),
		"withFiles":     on("path:s! sources:O! permissions:i owner:s expand:b", containerWithFiles),
		"withNewFile":   on("path:s! contents:s! permissions:i owner:s expand:b", containerWithNewFile),
		"withSymlink": on("target:s! linkName:s! expand:b", func(ctx context.Context, k *call, c *container) (any, error) {
			p, err := c.at(k, "linkName")
			if err != nil {
				return nil, err
			}
			target, err := c.expand(k, k.str("target"))
			if err != nil {
				return nil, err
			}
			return c.change(p, func(st llb.State, at string) (llb.State, error) {
				if err := k.mustBeFree(ctx, &directory{state: st, path: "/", platform: c.platform}, at, target); err != nil {
					return st, err
				}
				return parents(st, at).File(llb.Symlink(target, at), llb.WithCustomName("link "+p)), nil
			})
		}),
		"withoutDirectory": on("path:s! expand:b", containerWithout),
		"withoutFile":      on("path:s! expand:b", containerWithout),
		"withoutFiles": on("paths:l! expand:b", func(_ context.Context, k *call, c *container) (any, error) {
			var err error
			for _, p := range k.strs("paths") {
				if p, err = c.expand(k, p); err != nil {
					return nil, err
				}
				if c, err = c.remove(c.abs(p)); err != nil {
					return nil, err
				}
			}
			return c.clone(), nil
		}),
	}
}

func containerWithDirectory(ctx context.Context, k *call, c *container) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	src, o, err := k.directoryToPut(ctx, c.root())
	if err != nil {
		return nil, err
	}
	return c.change(p, func(st llb.State, at string) (llb.State, error) { return copyDir(st, at, src, o), nil })
}

func containerWithFile(ctx context.Context, k *call, c *container) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	src, err := objectArg[*file](ctx, k, "source")
	if err != nil {
		return nil, err
	}
	who, err := k.owner(ctx, c.root(), k.str("owner"))
	if err != nil {
		return nil, err
	}
	return c.change(p, func(st llb.State, at string) (llb.State, error) {
		return copyFileTo(st, trailing(k.str("path"), at), src, put{owner: who, mode: permissions(k)}), nil
	})
}

func containerWithFiles(ctx context.Context, k *call, c *container) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	files, err := objectArgs[*file](ctx, k, "sources")
	if err != nil {
		return nil, err
	}
	who, err := k.owner(ctx, c.root(), k.str("owner"))
	if err != nil {
		return nil, err
	}
	return c.change(p, func(st llb.State, at string) (llb.State, error) {
		for _, f := range files {
			st = copyFileTo(st, at+"/"+f.base(), f, put{owner: who, mode: permissions(k)})
		}
		return st, nil
	})
}

func containerWithNewFile(ctx context.Context, k *call, c *container) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	who, err := k.owner(ctx, c.root(), k.str("owner"))
	if err != nil {
		return nil, err
	}
	return c.change(p, func(st llb.State, at string) (llb.State, error) { return newFile(st, at, k, who) })
}

func containerWithout(_ context.Context, k *call, c *container) (any, error) {
	p, err := c.at(k, "path")
	if err != nil {
		return nil, err
	}
	return c.remove(p)
}

// remove removes what is at a path, mounts that are just there included.
func (c *container) remove(p string) (*container, error) {
	d := c.clone()
	d.mounts = slices.DeleteFunc(d.mounts, func(m mountPoint) bool { return m.target == p })
	return d.change(p, func(st llb.State, at string) (llb.State, error) {
		if st.Output() == nil {
			return st, nil
		}
		return removeFrom(st, at, p), nil
	})
}
