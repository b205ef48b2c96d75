package executor

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// rootTree is the root of a contained step. Every path in it is resolved
// inside it by the kernel, whatever links the image has.
type rootTree struct {
	dir  *os.File
	path string // as the kernel says it
}

func openTree(dir string) (*rootTree, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p, err := os.Readlink(fdPath(f))
	if err != nil {
		f.Close()
		return nil, err
	}
	return &rootTree{f, p}, nil
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// inside is the path of an open file in the tree, "" when it is not in it.
func (t *rootTree) inside(f *os.File) string {
	p, err := os.Readlink(fdPath(f))
	if err != nil {
		return ""
	}
	if p == t.path {
		return "/"
	}
	in, ok := strings.CutPrefix(p, strings.TrimSuffix(t.path, "/")+"/")
	if !ok || strings.HasSuffix(p, " (deleted)") {
		return ""
	}
	return "/" + in
}

// spot is a place in the tree: a name in an open directory.
type spot struct {
	dir    *os.File
	base   string
	exists bool
	real   string // path in the tree, with no link in it
	made   []string
}

// locate finds where name leads. With follow, a link at its end is followed.
// Directories on the way are made when missing.
func (t *rootTree) locate(name string, follow bool) (*spot, error) {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil, errors.New("nothing can be mounted over the root")
	}
	if follow {
		f, err := initproc.OpenIn(t.dir, name, unix.O_PATH)
		if err == nil {
			real := t.inside(f)
			f.Close()
			if real == "" || real == "/" {
				return nil, &os.PathError{Op: "locate", Path: name, Err: unix.ENOENT}
			}
			name = real
		} else if !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	dir, made, err := t.directory(path.Dir(name))
	if err != nil {
		return nil, err
	}
	s := &spot{dir: dir, base: path.Base(name), made: made}
	s.real = path.Join(t.inside(dir), s.base)
	var st unix.Stat_t
	s.exists = unix.Fstatat(int(dir.Fd()), s.base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
	return s, nil
}

// directory opens a directory, making it and those above it when missing, and
// lists what it made, outermost first.
func (t *rootTree) directory(name string) (*os.File, []string, error) {
	f, err := initproc.OpenIn(t.dir, name, unix.O_PATH|unix.O_DIRECTORY)
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return f, nil, err
	}
	parent, made, err := t.directory(path.Dir(name))
	if err != nil {
		return nil, made, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(name), 0o755); err != nil {
		return nil, made, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	made = append(made, path.Join(t.inside(parent), path.Base(name)))
	f, err = initproc.OpenIn(t.dir, name, unix.O_PATH|unix.O_DIRECTORY)
	return f, made, err
}
