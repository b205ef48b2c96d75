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

// spot is what a mount is put in place of: a name in an open directory.
type spot struct {
	dir  *os.File
	base string
	real string // path in the tree, with no link in it
}

// locate finds where name leads, making there what a mount point is made of: a
// directory or an empty file, and what is missing above.
func (t *rootTree) locate(name string, dir bool) (*spot, error) {
	f, err := initproc.Place(t.dir, name, dir)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	real := t.inside(f)
	f.Close()
	switch {
	case err != nil:
		return nil, err
	case dir != (st.Mode&unix.S_IFMT == unix.S_IFDIR): // as mount(2)
		return nil, unix.ENOTDIR
	}
	switch real {
	case "":
		return nil, &os.PathError{Op: "locate", Path: name, Err: unix.ENOENT}
	case "/":
		return nil, errors.New("nothing can be mounted over the root")
	}
	at, err := initproc.OpenIn(t.dir, path.Dir(real), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &spot{dir: at, base: path.Base(real), real: real}, nil
}
