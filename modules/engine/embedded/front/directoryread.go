//go:build linux

package front

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/patternmatcher"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// directoryReadFields are the fields that make the engine work.
func directoryReadFields() map[string]field {
	return map[string]field{
		"entries": on("path:s", func(ctx context.Context, c *call, d *directory) (any, error) {
			return c.entries(ctx, d, d.within(c.str("path")))
		}),
		"glob": on("pattern:s!", func(ctx context.Context, c *call, d *directory) (any, error) {
			return c.glob(ctx, d, c.str("pattern"))
		}),
		"exists": on("path:s! expectedType:s doNotFollowSymlinks:b", func(ctx context.Context, c *call, d *directory) (any, error) {
			if c.str("path") == "" {
				return false, nil
			}
			return c.exists(ctx, d, d.within(c.str("path")))
		}),
		"digest": on("", func(ctx context.Context, c *call, d *directory) (any, error) { return c.treeDigest(ctx, d) }),
		"name": on("", func(ctx context.Context, c *call, d *directory) (any, error) {
			if d.path == "/" {
				return "/", nil
			}
			err := c.mustBeDirectory(ctx, d)
			return path.Base(d.path) + "/", err
		}),
		"sync": on("", func(ctx context.Context, c *call, d *directory) (any, error) {
			if err := c.mustBeDirectory(ctx, d); err != nil {
				return nil, err
			}
			return d.made().id()
		}),
		"export": on("path:s! wipe:b", func(ctx context.Context, c *call, d *directory) (any, error) {
			if err := c.mustBeDirectory(ctx, d); err != nil {
				return nil, err
			}
			return c.exportDirectory(ctx, d, c.str("path"), c.flag("wipe"))
		}).with(hostPath),
	}
}

func (s *Server) mustBeDirectory(ctx context.Context, d *directory) error {
	st, err := s.stat(ctx, d, d.path)
	if err != nil {
		return err
	}
	if !os.FileMode(st.Mode).IsDir() {
		return usage(fmt.Sprintf("%s is not a directory", d.path), "")
	}
	return nil
}

// readDir lists one directory of a solved state.
func readDir(ctx context.Context, ref gateway.Reference, at string) ([]*fstypes.Stat, error) {
	if ref == nil {
		if at == "/" {
			return nil, nil
		}
		return nil, notExist(at)
	}
	list, err := ref.ReadDir(ctx, gateway.ReadDirRequest{Path: at})
	if err != nil {
		return nil, missing(at, err)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return list, nil
}

// entries are the names in a directory, those of directories with a slash.
func (s *Server) entries(ctx context.Context, d *directory, at string) ([]string, error) {
	names := []string{}
	err := s.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		list, err := readDir(ctx, ref, at)
		for _, st := range list {
			name := path.Base(st.Path)
			if os.FileMode(st.Mode).IsDir() {
				name += "/"
			}
			names = append(names, name)
		}
		return err
	})
	return names, err
}

func (s *Server) glob(ctx context.Context, d *directory, pattern string) ([]string, error) {
	m, err := patternmatcher.New([]string{pattern})
	if err != nil || len(m.Patterns()) != 1 {
		return nil, usage(fmt.Sprintf("glob pattern %q cannot be read", pattern), "")
	}
	found := []string{}
	err = s.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		var walk func(string) error
		walk = func(rel string) error {
			list, err := readDir(ctx, ref, path.Join(d.path, rel))
			if err != nil {
				return err
			}
			for _, st := range list {
				name, isDir := path.Join(rel, path.Base(st.Path)), os.FileMode(st.Mode).IsDir()
				// the pattern itself, not a parent of it: "a" does not find "a/b"
				match, err := m.MatchesUsingParentResult(name, false)
				if err != nil {
					return err
				}
				switch {
				case match && isDir:
					found = append(found, name+"/")
				case match:
					found = append(found, name)
				}
				if isDir {
					if err := walk(name); err != nil {
						return err
					}
				}
			}
			return nil
		}
		return walk("")
	})
	return found, err
}

// exists answers the fields of that name.
func (c *call) exists(ctx context.Context, d *directory, at string) (bool, error) {
	found := false
	err := c.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		st, err := c.look(ctx, ref, at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := os.FileMode(st.Mode)
		switch c.str("expectedType") {
		case "":
			found = true
		case "REGULAR_TYPE":
			found = mode.IsRegular()
		case "DIRECTORY_TYPE":
			found = mode.IsDir()
		case "SYMLINK_TYPE":
			found = mode&os.ModeSymlink != 0
		default:
			return usage(fmt.Sprintf("%q is not a type of file", c.str("expectedType")), "")
		}
		return nil
	})
	return found, err
}

// look is stat or, when asked not to follow links (or for one), lstat.
func (c *call) look(ctx context.Context, ref gateway.Reference, at string) (*fstypes.Stat, error) {
	if ref == nil {
		if at == "/" {
			return &fstypes.Stat{Path: "/", Mode: uint32(os.ModeDir | 0o755)}, nil
		}
		return nil, fs.ErrNotExist
	}
	if at != "/" && (c.flag("doNotFollowSymlinks") || c.str("expectedType") == "SYMLINK_TYPE") {
		return lstat(ctx, ref, at)
	}
	st, err := ref.StatFile(ctx, gateway.StatRequest{Path: at})
	return st, absent(at, err)
}

// lstat does not follow a link at the path itself.
func lstat(ctx context.Context, ref gateway.Reference, at string) (*fstypes.Stat, error) {
	list, err := ref.ReadDir(ctx, gateway.ReadDirRequest{Path: path.Dir(at)})
	if err != nil {
		return nil, absent(at, err)
	}
	for _, st := range list {
		if path.Base(st.Path) == path.Base(at) {
			return st, nil
		}
	}
	return nil, fs.ErrNotExist
}

// absent makes every way of saying "not there" fs.ErrNotExist. As in Dagger, a
// path through a file is an error of its own.
func absent(at string, err error) error {
	if err != nil && strings.Contains(err.Error(), "no such file or directory") {
		return fs.ErrNotExist
	}
	return missing(at, err)
}

func containsAny(text string, parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(text, p) {
			return true
		}
	}
	return false
}

// exportTree sends the directory through an exporter of the engine.
func (s *Server) exportTree(ctx context.Context, d *directory, e client.ExportEntry) error {
	return s.build(ctx, job{exports: []client.ExportEntry{e}}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		res := gateway.NewResult()
		st := d.rooted()
		if st.Output() == nil {
			return res, nil
		}
		ref, err := solveState(ctx, gw, st, d.platform)
		if err != nil {
			return nil, err
		}
		res.SetRef(ref)
		return res, nil
	})
}

// hostPath makes the path argument absolute, so that an id with it means the
// same in a request from elsewhere.
func hostPath(c *call) error {
	p := c.str("path")
	if !filepath.IsAbs(p) {
		if !filepath.IsAbs(c.workdir) {
			return usage(fmt.Sprintf("%s.%s: %q is relative, and the client did not say to what", c.typ, c.field, p), "give an absolute path")
		}
		p = filepath.Join(c.workdir, p)
	}
	c.args["path"] = filepath.Clean(p)
	return nil
}

// exportDirectory writes a directory to the host: first beside its
// destination, then in its place. Without wipe, files of the destination that
// the directory does not have stay.
func (s *Server) exportDirectory(ctx context.Context, d *directory, dest string, wipe bool) (string, error) {
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return "", hostFault("exporting to "+dest, err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dest), ".drydock-export-*")
	if err != nil {
		return "", hostFault("exporting to "+dest, err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", hostFault("exporting to "+dest, err)
	}
	if err := s.exportTree(ctx, d, client.ExportEntry{Type: client.ExporterLocal, OutputDir: temp}); err != nil {
		return "", err
	}
	if wipe {
		err = replaceDirectory(temp, dest)
	} else {
		err = mergeDirectory(temp, dest)
	}
	return dest, hostFault("exporting to "+dest, err)
}

// replaceDirectory puts temp in dest's place.
func replaceDirectory(temp, dest string) error {
	old := temp + ".old"
	err := os.Rename(dest, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.RemoveAll(old)
	return os.Rename(temp, dest)
}

// mergeDirectory moves what is in temp into dest, file by file.
func mergeDirectory(temp, dest string) error {
	if err := os.Rename(temp, dest); err == nil {
		return nil // dest was not there, or empty
	}
	entries, err := os.ReadDir(temp)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(temp, e.Name()), filepath.Join(dest, e.Name())
		have, err := os.Lstat(to)
		switch {
		case err == nil && e.IsDir() && have.IsDir():
			err = mergeDirectory(from, to)
		case err == nil && e.IsDir() != have.IsDir():
			if err = os.RemoveAll(to); err == nil {
				err = os.Rename(from, to)
			}
		default:
			err = os.Rename(from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hostFault is an error of the host's file system.
func hostFault(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &fault{message: doing + ": " + err.Error(), ext: map[string]any{"kind": "fault"}, err: err}
}
