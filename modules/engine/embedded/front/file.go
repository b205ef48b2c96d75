//go:build linux

package front

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/wholefile"
)

// file is a file in a state that may not have been made yet.
type file struct {
	node
	state    llb.State
	path     string // absolute, within state
	platform ocispecs.Platform
	artifact artifact
}

// artifact is a file with the same bytes beside the engine's own store.
type artifact struct {
	path  string // "" if there is none
	stamp string // what it looked like then, of one that others may change
}

// open gives the artifact while it is what it was, nil otherwise.
func (a artifact) open() (*os.File, error) {
	if a.path == "" {
		return nil, nil
	}
	f, err := os.Open(a.path)
	if a.stamp == "" || err == nil && stamp(f) == a.stamp {
		return f, err
	}
	if err == nil {
		_ = f.Close()
	}
	return nil, nil
}

// still makes sure that the artifact did not change while it was read.
func (a artifact) still(f *os.File) error {
	if a.stamp != "" && stamp(f) != a.stamp {
		return fmt.Errorf("%s changed while it was read; run again when nothing writes to it", a.path)
	}
	return nil
}

func (*file) typeName() string { return "File" }

func (f *file) withRecipe(r *recipe) object {
	c := *f
	c.recipe = r
	return &c
}

func (f *file) base() string { return path.Base(f.path) }

// maxContents is the longest file that File.contents gives.
const maxContents = 128 << 20

func fileFields() map[string]field {
	return map[string]field{
		"contents": on("offsetLines:i limitLines:i", func(ctx context.Context, c *call, f *file) (any, error) {
			var buf bytes.Buffer
			if err := c.copyOut(ctx, f, &limited{w: &buf, left: maxContents, name: f.path}); err != nil {
				return nil, err
			}
			return lines(buf.String(), c.num("offsetLines"), c.num("limitLines")), nil
		}),
		"digest": on("excludeMetadata:b", func(ctx context.Context, c *call, f *file) (any, error) {
			return c.fileDigest(ctx, f, !c.flag("excludeMetadata"))
		}),
		"name": on("", func(_ context.Context, _ *call, f *file) (any, error) { return f.base(), nil }),
		"size": on("", func(ctx context.Context, c *call, f *file) (any, error) {
			st, err := c.statFile(ctx, f)
			return st.size, err
		}),
		"sync": on("", func(ctx context.Context, c *call, f *file) (any, error) {
			if _, err := c.statFile(ctx, f); err != nil {
				return nil, err
			}
			return f.made().id()
		}),
		"export": on("path:s! allowParentDirPath:b", func(ctx context.Context, c *call, f *file) (any, error) {
			return c.exportFile(ctx, f, c.str("path"), c.flag("allowParentDirPath"))
		}).with(hostPath),
		"withName": on("name:s!", func(_ context.Context, c *call, f *file) (any, error) {
			name := c.str("name")
			if name == "" || path.Base(name) != name {
				return nil, usage(fmt.Sprintf("File.withName: %q is not a file name", name), "")
			}
			st := copyFileTo(llb.Scratch(), "/"+name, f, put{})
			return &file{state: st, path: "/" + name, platform: f.platform, artifact: f.artifact}, nil
		}),
		"withTimestamps": on("timestamp:i!", func(_ context.Context, c *call, f *file) (any, error) {
			at := time.Unix(int64(c.num("timestamp")), 0)
			st := copyFileTo(llb.Scratch(), "/"+f.base(), f, put{at: &at})
			return &file{state: st, path: "/" + f.base(), platform: f.platform, artifact: f.artifact}, nil
		}),
		"chown": on("owner:s!", func(ctx context.Context, c *call, f *file) (any, error) {
			who, err := c.owner(ctx, &directory{state: f.state, path: "/", platform: f.platform}, c.str("owner"))
			if err != nil {
				return nil, err
			}
			st := copyFileTo(llb.Scratch(), "/"+f.base(), f, put{owner: who})
			return &file{state: st, path: "/" + f.base(), platform: f.platform}, nil
		}),
	}
}

// lines are those after the first offset ones, at most limit of them if limit
// is not 0.
func lines(text string, offset, limit int) string {
	if offset <= 0 && limit <= 0 {
		return text
	}
	all := strings.SplitAfter(text, "\n")
	all = all[min(max(offset, 0), len(all)):]
	if limit > 0 {
		all = all[:min(limit, len(all))]
	}
	return strings.Join(all, "")
}

// limited refuses what is too long to be given at once.
type limited struct {
	w    io.Writer
	left int
	name string
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, usage(fmt.Sprintf("%s is longer than %d bytes, too long for contents", l.name, maxContents), "export it instead")
	}
	return l.w.Write(p)
}

// copyOut writes a file's bytes to w.
func (s *Server) copyOut(ctx context.Context, f *file, w io.Writer) error {
	in, err := f.artifact.open()
	if err != nil {
		return hostFault("reading "+f.base(), err)
	}
	if in != nil {
		defer in.Close()
		if _, err := io.Copy(w, in); err != nil {
			return err
		}
		return f.artifact.still(in)
	}
	return s.withRef(ctx, f.state, f.platform, func(ctx context.Context, ref gateway.Reference) error {
		_, err := copyFile(ctx, ref, f.path, w)
		return err
	})
}

type fileStat struct {
	size int64
	mode uint32
	uid  uint32
	gid  uint32

	xattrs map[string][]byte
}

func (s *Server) statFile(ctx context.Context, f *file) (fileStat, error) {
	in, err := f.artifact.open()
	if err != nil {
		return fileStat{}, hostFault("reading "+f.base(), err)
	}
	if in != nil {
		defer in.Close()
		st, err := in.Stat()
		if err != nil {
			return fileStat{}, hostFault("reading "+f.base(), err)
		}
		return fileStat{size: st.Size(), mode: uint32(st.Mode())}, nil
	}
	st, err := s.stat(ctx, &directory{state: f.state, platform: f.platform}, f.path)
	if err != nil {
		return fileStat{}, err
	}
	if os.FileMode(st.Mode).IsDir() {
		return fileStat{}, usage(fmt.Sprintf("%s is a directory, not a file", f.path), "")
	}
	return fileStat{size: st.Size, mode: st.Mode, uid: st.Uid, gid: st.Gid, xattrs: st.Xattrs}, nil
}

// exportFile writes a file to the host: beside its destination, then renamed.
func (s *Server) exportFile(ctx context.Context, f *file, dest string, intoParent bool) (string, error) {
	if st, err := os.Stat(dest); err == nil && st.IsDir() {
		if !intoParent {
			return "", usage(fmt.Sprintf("File.export: %s is a directory", dest), "give the path of a file, or allowParentDirPath")
		}
		dest = filepath.Join(dest, f.base())
	}
	st, err := s.statFile(ctx, f)
	if err != nil {
		return "", err
	}
	err = writeAtomically(dest, os.FileMode(st.mode).Perm(), func(w io.Writer) error { return s.copyOut(ctx, f, w) })
	return dest, err
}

// writeAtomically makes a file that is either whole or not there.
func writeAtomically(dest string, mode os.FileMode, fill func(io.Writer) error) error {
	f, err := wholefile.Begin(filepath.Dir(dest), wholefile.Options{Mode: mode, DirMode: 0o755})
	if err != nil {
		return hostFault("writing "+dest, err)
	}
	defer f.Discard()
	if err := fill(f); err != nil {
		return err
	}
	return hostFault("writing "+dest, f.Commit(dest))
}
