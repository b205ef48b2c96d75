//go:build linux

package front

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// node is what every object has: how it was made.
type node struct{ recipe *recipe }

func (n node) made() *recipe { return n.recipe }

// directory is a directory in a state that may not have been made yet.
type directory struct {
	node
	state    llb.State
	path     string // absolute, within state
	platform ocispecs.Platform
}

func (*directory) typeName() string { return "Directory" }

func (d *directory) withRecipe(r *recipe) object {
	c := *d
	c.recipe = r
	return &c
}

// at is the directory with another state, made by nobody yet.
func (d *directory) at(st llb.State) *directory {
	return &directory{state: st, path: d.path, platform: d.platform}
}

// within joins a path given by a query onto the directory; it cannot leave it.
func (d *directory) within(p string) string { return path.Join(d.path, path.Join("/", p)) }

// rooted is the state in which the directory is the root.
func (d *directory) rooted() llb.State {
	if d.path == "/" || d.state.Output() == nil {
		return d.state
	}
	return llb.Scratch().File(llb.Copy(d.state, d.path, "/", &llb.CopyInfo{CopyDirContentsOnly: true, FollowSymlinks: true}),
		llb.WithCustomName("copy "+d.path))
}

// parents makes sure that the directory a path lies in is there.
func parents(st llb.State, p string) llb.State {
	dir := path.Dir(p)
	if dir == "/" || dir == "." {
		return st
	}
	return st.File(llb.Mkdir(dir, 0o755, llb.WithParents(true)), llb.WithCustomName("mkdir "+dir))
}

// put is what a copy into a directory may ask for.
type put struct {
	include, exclude []string
	owner            *owner
	mode             *int
	at               *time.Time
}

func (o put) info(contents bool) *llb.CopyInfo {
	info := &llb.CopyInfo{
		CopyDirContentsOnly: contents, CreateDestPath: true,
		IncludePatterns: o.include, ExcludePatterns: o.exclude,
		AlwaysReplaceExistingDestPaths: true, // a directory takes a file's place, a file an empty or full directory's
		ChownOpt:                       o.owner.opt(), CreatedTime: o.at,
	}
	if o.mode != nil {
		info.Mode = &llb.ChmodOpt{Mode: os.FileMode(*o.mode)}
	}
	return info
}

// copyDir puts the contents of src at an absolute path of st.
func copyDir(st llb.State, dest string, src *directory, o put) llb.State {
	if dest != "/" {
		mode, opts := os.FileMode(0o755), []llb.MkdirOption{llb.WithParents(true)}
		if o.mode != nil {
			mode = os.FileMode(*o.mode)
		}
		if c := o.owner.opt(); c != nil {
			opts = append(opts, *c)
		}
		st = parents(st, dest).File(llb.Mkdir(dest, mode, opts...), llb.WithCustomName("mkdir "+dest))
	}
	if src.state.Output() == nil {
		return st
	}
	info := o.info(true)
	info.FollowSymlinks = src.path != "/" // of the directory itself
	return st.File(llb.Copy(src.state, src.path, dest, info), llb.WithCustomName("copy to "+dest))
}

// owned is a copy of the directory that belongs to somebody, itself included.
func (d *directory) owned(who *owner) *directory {
	const at = "/dir"
	out := &directory{path: at, platform: d.platform}
	if d.state.Output() == nil {
		out.state = llb.Scratch().File(llb.Mkdir(at, 0o755, *who.opt()), llb.WithCustomName("mkdir "+at))
		return out
	}
	info := put{owner: who}.info(false)
	info.FollowSymlinks = true
	out.state = llb.Scratch().File(llb.Copy(d.state, d.path, at, info), llb.WithCustomName("chown "+d.path))
	return out
}

// copyFileTo puts a file at an absolute path of st.
func copyFileTo(st llb.State, dest string, src *file, o put) llb.State {
	if strings.HasSuffix(dest, "/") {
		dest = path.Join(dest, src.base())
	}
	info := o.info(false)
	info.FollowSymlinks = true
	return parents(st, dest).File(llb.Copy(src.state, src.path, dest, info), llb.WithCustomName("copy to "+dest))
}

func permissions(c *call) *int {
	if !c.has("permissions") {
		return nil
	}
	n := c.num("permissions")
	return &n
}

func (s *Server) emptyDirectory() *directory {
	return &directory{state: llb.Scratch(), path: "/", platform: s.platform}
}

// directoryFields are the fields that make directories and files of one.
func directoryFields() map[string]field {
	return map[string]field{
		"directory": on("path:s!", func(_ context.Context, c *call, d *directory) (any, error) {
			return &directory{state: d.state, path: d.within(c.str("path")), platform: d.platform}, nil
		}),
		"file": on("path:s!", func(_ context.Context, c *call, d *directory) (any, error) {
			return &file{state: d.state, path: d.within(c.str("path")), platform: d.platform}, nil
		}),
		"withDirectory": on("path:s! source:o! include:l exclude:l owner:s permissions:i gitignore:b", withDirectory),
		"withFile":      on("path:s! source:o! permissions:i owner:s", withFile),
		"withFiles":     on("path:s! sources:O! permissions:i", withFiles),
		"withNewFile": on("path:s! contents:s! permissions:i", func(_ context.Context, c *call, d *directory) (any, error) {
			st, err := newFile(d.state, d.within(c.str("path")), c, nil)
			return d.at(st), err
		}),
		"withNewDirectory": on("path:s! permissions:i", func(_ context.Context, c *call, d *directory) (any, error) {
			mode := os.FileMode(0o755)
			if p := permissions(c); p != nil {
				mode = os.FileMode(*p)
			}
			p := d.within(c.str("path"))
			if clean := path.Clean(c.str("path")); clean == ".." || strings.HasPrefix(clean, "../") {
				return nil, usage("cannot create directory outside parent: "+clean, "")
			}
			if p == "/" {
				return d.at(d.state), nil
			}
			return d.at(parents(d.state, p).File(llb.Mkdir(p, mode, llb.WithParents(true)), llb.WithCustomName("mkdir "+p))), nil
		}),
		"withSymlink": on("target:s! linkName:s!", func(ctx context.Context, c *call, d *directory) (any, error) {
			p := d.within(c.str("linkName"))
			if err := c.mustBeFree(ctx, d, p, c.str("target")); err != nil {
				return nil, err
			}
			return d.at(parents(d.state, p).File(llb.Symlink(c.str("target"), p), llb.WithCustomName("link "+p))), nil
		}),
		"withoutDirectory": on("path:s!", func(_ context.Context, c *call, d *directory) (any, error) {
			return d.without([]string{c.str("path")})
		}),
		"withoutFile": on("path:s!", func(_ context.Context, c *call, d *directory) (any, error) {
			return d.without([]string{c.str("path")})
		}),
		"withoutFiles": on("paths:l!", func(_ context.Context, c *call, d *directory) (any, error) {
			return d.without(c.strs("paths"))
		}),
		"withTimestamps": on("timestamp:i!", func(_ context.Context, c *call, d *directory) (any, error) {
			at := time.Unix(int64(c.num("timestamp")), 0)
			return &directory{state: copyDir(llb.Scratch(), "/", d, put{at: &at}), path: "/", platform: d.platform}, nil
		}),
		"filter": on("include:l exclude:l gitignore:b", func(ctx context.Context, c *call, d *directory) (any, error) {
			o := put{include: c.strs("include"), exclude: c.strs("exclude")}
			if c.flag("gitignore") {
				ignored, err := c.gitIgnores(ctx, d)
				if err != nil {
					return nil, err
				}
				o.exclude = append(o.exclude, ignored...)
			}
			return &directory{state: copyDir(llb.Scratch(), "/", d, o), path: "/", platform: d.platform}, nil
		}),
		"chown":       on("path:s! owner:s!", chownDirectory),
		"search":      on(searchParams, searchDirectory),
		"dockerBuild": on("dockerfile:s platform:s buildArgs:m target:s secrets:O noInit:b ssh:o", dockerBuild),
	}
}

func withDirectory(ctx context.Context, c *call, d *directory) (any, error) {
	src, o, err := c.directoryToPut(ctx, d)
	if err != nil {
		return nil, err
	}
	return d.at(copyDir(d.state, d.within(c.str("path")), src, o)), nil
}

// directoryToPut reads the arguments of the fields called withDirectory.
func (c *call) directoryToPut(ctx context.Context, root *directory) (*directory, put, error) {
	src, err := objectArg[*directory](ctx, c, "source")
	if err != nil {
		return nil, put{}, err
	}
	o := put{include: c.strs("include"), exclude: c.strs("exclude"), mode: permissions(c)}
	if c.flag("gitignore") {
		ignored, err := c.gitIgnores(ctx, src)
		if err != nil {
			return nil, put{}, err
		}
		o.exclude = append(o.exclude, ignored...)
	}
	o.owner, err = c.owner(ctx, root, c.str("owner"))
	return src, o, err
}

func withFile(ctx context.Context, c *call, d *directory) (any, error) {
	src, err := objectArg[*file](ctx, c, "source")
	if err != nil {
		return nil, err
	}
	who, err := c.owner(ctx, d, c.str("owner"))
	if err != nil {
		return nil, err
	}
	return d.at(copyFileTo(d.state, trailing(c.str("path"), d.within(c.str("path"))), src, put{owner: who, mode: permissions(c)})), nil
}

// trailing keeps the slash that asks for a copy into a directory.
func trailing(given, joined string) string {
	if strings.HasSuffix(given, "/") && joined != "/" {
		return joined + "/"
	}
	return joined
}

func withFiles(ctx context.Context, c *call, d *directory) (any, error) {
	files, err := objectArgs[*file](ctx, c, "sources")
	if err != nil {
		return nil, err
	}
	st := d.state
	for _, f := range files {
		st = copyFileTo(st, path.Join(d.within(c.str("path")), f.base()), f, put{mode: permissions(c)})
	}
	return d.at(st), nil
}

// newFile writes the contents a call gives.
func newFile(st llb.State, p string, c *call, who *owner) (llb.State, error) {
	if p == "/" {
		return st, usage(fmt.Sprintf("%s.%s: %q is not the path of a file", c.typ, c.field, c.str("path")), "")
	}
	mode := os.FileMode(0o644)
	if m := permissions(c); m != nil {
		mode = os.FileMode(*m)
	}
	var opts []llb.MkfileOption
	if o := who.opt(); o != nil {
		opts = append(opts, *o)
	}
	return parents(st, p).File(llb.Mkfile(p, mode, []byte(c.str("contents")), opts...), llb.WithCustomName("write "+p)), nil
}

func (d *directory) without(paths []string) (any, error) {
	st := d.state
	for _, p := range paths {
		at := d.within(p)
		if at == d.path {
			return &directory{state: llb.Scratch(), path: "/", platform: d.platform}, nil
		}
		if st.Output() != nil {
			st = removeFrom(st, at, p)
		}
	}
	return d.at(st), nil
}

// removeFrom removes what is at a path of st, which may be none. A star in what
// the query gave makes it a pattern; other signs of patterns alone do not.
func removeFrom(st llb.State, at, given string) llb.State {
	return st.File(llb.Rm(at, llb.WithAllowNotFound(true), llb.WithAllowWildcard(strings.Contains(given, "*"))), llb.WithCustomName("remove "+at))
}

func chownDirectory(ctx context.Context, c *call, d *directory) (any, error) {
	who, err := c.owner(ctx, d, c.str("owner"))
	if err != nil {
		return nil, err
	}
	at := d.within(c.str("path"))
	return d.at(d.state.File(llb.Copy(d.state, at, at, put{owner: who}.info(true)), llb.WithCustomName("chown "+at))), nil
}
