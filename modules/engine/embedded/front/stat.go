//go:build linux

package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// statRecord is a file's status as the API says it.
func statRecord(name string, st *fstypes.Stat) object {
	mode := os.FileMode(st.Mode)
	kind := "UNKNOWN"
	switch {
	case mode.IsRegular():
		kind = "REGULAR"
	case mode.IsDir():
		kind = "DIRECTORY"
	case mode&os.ModeSymlink != 0:
		kind = "SYMLINK"
	}
	return newRecord("Stat", args{
		"name": path.Base(name), "size": st.Size, "permissions": int64(mode.Perm()), "fileType": kind,
	})
}

// statAt answers the fields stat.
func (c *call) statAt(ctx context.Context, d *directory, at string) (any, error) {
	var out *fstypes.Stat
	err := c.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		var err error
		out, err = c.look(ctx, ref, at)
		if errors.Is(err, fs.ErrNotExist) {
			return notExist(at)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return statRecord(at, out), nil
}

// mustBeFree checks that a link can be made at a path. BuildKit would follow a
// link that is there and make the new one where it leads.
func (c *call) mustBeFree(ctx context.Context, d *directory, at, target string) error {
	if d.state.Output() == nil {
		return nil
	}
	return c.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		_, err := lstat(ctx, ref, at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		return usage(fmt.Sprintf("symlink %s %s: file exists", target, at), "remove it first, with withoutFile")
	})
}

// containerStatFields are the fields by which a container's files are looked at.
func containerStatFields() map[string]field {
	return map[string]field{
		"stat": on("path:s! doNotFollowSymlinks:b", func(ctx context.Context, k *call, c *container) (any, error) {
			dir, at, err := c.locate(c.abs(k.str("path")))
			if err != nil {
				return nil, err
			}
			return k.statAt(ctx, dir, at)
		}),
	}
}

func directoryStatFields() map[string]field {
	return map[string]field{
		"stat": on("path:s! doNotFollowSymlinks:b", func(ctx context.Context, c *call, d *directory) (any, error) {
			if c.str("path") == "" {
				return nil, usage("Directory.stat: there is no path: no such file or directory", "")
			}
			return c.statAt(ctx, d, d.within(c.str("path")))
		}),
		"findUp": on("name:s! start:s", directoryFindUp),
		"diff": on("other:o!", func(ctx context.Context, c *call, d *directory) (any, error) {
			other, err := objectArg[*directory](ctx, c, "other")
			if err != nil {
				return nil, err
			}
			st := llb.Diff(d.rooted(), other.rooted(), llb.WithCustomName("diff"))
			return &directory{state: st, path: "/", platform: d.platform}, nil
		}),
		"withError": on("err:s!", func(_ context.Context, c *call, d *directory) (any, error) {
			if text := c.str("err"); text != "" {
				return nil, errors.New(text)
			}
			return d.at(d.state), nil
		}),
	}
}

// directoryFindUp looks for a name in a directory and above it, up to the root
// of the tree.
func directoryFindUp(ctx context.Context, c *call, d *directory) (any, error) {
	name := c.str("name")
	if name == "" || path.Base(name) != name {
		return nil, usage(fmt.Sprintf("Directory.findUp: %q is not a file name", name), "")
	}
	var found any
	err := c.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		for at := path.Join("/", c.str("start")); ; at = path.Dir(at) {
			_, err := c.look(ctx, ref, d.within(path.Join(at, name)))
			if err == nil {
				found = strings.TrimPrefix(path.Join(at, name), "/")
				return nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if at == "/" {
				return nil
			}
		}
	})
	return found, err
}

func fileStatFields() map[string]field {
	return map[string]field{
		"stat": on("", func(ctx context.Context, c *call, f *file) (any, error) {
			st, err := c.statFile(ctx, f)
			if err != nil {
				return nil, err
			}
			return statRecord(f.path, &fstypes.Stat{Mode: st.mode, Size: st.size}), nil
		}),
		"search":       on(strings.TrimSuffix(searchParams, " paths:l globs:l"), searchFile),
		"withReplaced": on("search:s! replacement:s! all:b firstFrom:i", withReplaced),
	}
}

// withReplaced replaces a text: once when it is there once, the first from a
// line on, or everywhere.
func withReplaced(ctx context.Context, c *call, f *file) (any, error) {
	search, replacement := c.str("search"), c.str("replacement")
	if search == "" {
		return nil, usage("File.withReplaced: there is nothing to search for", "")
	}
	var buf bytes.Buffer
	if err := c.copyOut(ctx, f, &limited{w: &buf, left: maxContents, name: f.path}); err != nil {
		return nil, err
	}
	st, err := c.statFile(ctx, f)
	if err != nil {
		return nil, err
	}
	text, from := buf.String(), 0
	if line := c.num("firstFrom"); line > 1 {
		from = len(strings.Join(strings.SplitAfterN(text, "\n", line)[:min(line-1, strings.Count(text, "\n")+1)], ""))
	}
	switch n := strings.Count(text[from:], search); {
	case c.flag("all"):
		text = text[:from] + strings.ReplaceAll(text[from:], search, replacement)
	case n == 0:
		return nil, usage("search string not found", "")
	case n > 1 && !c.has("firstFrom"):
		return nil, usage(fmt.Sprintf("search string found %d times", n), "set all, or firstFrom")
	default:
		text = text[:from] + strings.Replace(text[from:], search, replacement, 1)
	}
	name := "/" + f.base()
	out := llb.Scratch().File(llb.Mkfile(name, os.FileMode(st.mode).Perm(), []byte(text), llb.ChownOpt{
		User: &llb.UserOpt{UID: int(st.uid)}, Group: &llb.UserOpt{UID: int(st.gid)},
	}), llb.WithCustomName("write "+f.base()))
	return &file{state: out, path: name, platform: f.platform}, nil
}
