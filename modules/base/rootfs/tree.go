// Package rootfs holds a root filesystem as a tree of entries, fills it from
// tar streams and writes it as one deterministic tar: sorted, every time the
// same, numeric owners, nothing that depends on the machine it runs on.
//
// Nothing is ever extracted to this machine's filesystem: contents go to one
// spool file, owners, modes and device numbers stay data. So a tree for any
// architecture can be made by any user, and no path can lead outside.
package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

const maxLinks = 40 // symlinks followed for one path, as Linux does

// Node is one file, folder or link.
type Node struct {
	Type   byte // tar.TypeReg, TypeDir or TypeSymlink
	Mode   int64
	UID    int
	GID    int
	Target string            // of a symlink
	Xattrs map[string]string // by name, security.capability only
	inode  *content          // of a file; hard links share it
	made   bool              // a folder nobody described yet, only something in it
}

type content struct {
	src    io.ReaderAt
	offset int64
	size   int64
}

// Tree is a root filesystem. The zero value is not usable: see New.
type Tree struct {
	nodes  map[string]*Node // by clean relative path; the root is not in it
	dir    string           // where temporary files are made
	spool  *os.File
	end    int64
	spools []*os.File // of Spools

	// Stop, if not nil, is asked before every file that is stored or written;
	// its error ends the work.
	Stop func() error
}

// New makes an empty tree that keeps file contents in a temporary file in dir.
func New(dir string) (*Tree, error) {
	f, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{nodes: map[string]*Node{}, dir: dir, spool: f}, nil
}

// unnamed is a temporary file that outlives its name: nothing is left behind
// whatever happens.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "rootfs-*")
	if err != nil {
		return nil, fmt.Errorf("making a spool file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("making a spool file: %w", err), f.Close())
	}
	return f, nil
}

// Close gives the spool files back. The tree is of no use after it.
func (t *Tree) Close() error {
	err := t.spool.Close()
	for _, f := range t.spools {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Clean turns an absolute or relative path into the form the tree uses. A path
// with ".." in it is refused.
func Clean(p string) (string, error) {
	if slices.Contains(strings.Split(p, "/"), "..") || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("path %q leads outside", p)
	}
	return strings.TrimPrefix(path.Clean("/"+p), "/"), nil
}

// Resolve follows the symlinks in a path's folders, inside the tree, and gives
// where the path really is. The last element itself is not followed.
func (t *Tree) Resolve(p string) (string, error) {
	p, err := Clean(p)
	if err != nil {
		return "", err
	}
	return t.resolve(p, 0)
}

func (t *Tree) resolve(p string, depth int) (string, error) {
	if depth > maxLinks {
		return "", fmt.Errorf("path %q: too many symlinks", p)
	}
	elements := strings.Split(p, "/")
	at := ""
	for _, e := range elements[:len(elements)-1] {
		at = path.Join(at, e)
		n := t.nodes[at]
		if n == nil || n.Type != tar.TypeSymlink {
			continue
		}
		to, err := t.follow(at, n, depth)
		if err != nil {
			return "", err
		}
		at = to
	}
	return path.Join(at, elements[len(elements)-1]), nil
}

// follow is where a symlink leads, itself resolved to the end.
func (t *Tree) follow(at string, n *Node, depth int) (string, error) {
	to := n.Target
	if !path.IsAbs(to) {
		to = path.Join("/", path.Dir(at), to) // Join keeps ".." at the root, as the kernel does
	}
	to = strings.TrimPrefix(path.Clean(to), "/")
	if to == "" {
		return "", nil
	}
	to, err := t.resolve(to, depth+1)
	if err != nil {
		return "", err
	}
	if next := t.nodes[to]; next != nil && next.Type == tar.TypeSymlink {
		return t.follow(to, next, depth+1)
	}
	return to, nil
}

// Get is the node at a path, following symlinks in its folders, or nil.
func (t *Tree) Get(p string) *Node {
	r, err := t.Resolve(p)
	if err != nil {
		return nil
	}
	return t.nodes[r]
}

// Read is the content of the regular file at a path, following symlinks all
// the way.
func (t *Tree) Read(p string) ([]byte, error) {
	r, err := t.Resolve(p)
	if err != nil {
		return nil, err
	}
	n := t.nodes[r]
	if n != nil && n.Type == tar.TypeSymlink {
		if r, err = t.follow(r, n, 0); err != nil {
			return nil, err
		}
		n = t.nodes[r]
	}
	if n == nil || n.Type != tar.TypeReg {
		return nil, fmt.Errorf("reading %s: %w", p, os.ErrNotExist)
	}
	buf := make([]byte, n.inode.size)
	if _, err := n.inode.src.ReadAt(buf, n.inode.offset); err != nil && (err != io.EOF || len(buf) > 0) {
		return nil, fmt.Errorf("reading %s: %w", p, err)
	}
	return buf, nil
}

// Paths lists every path, sorted.
func (t *Tree) Paths() []string {
	out := make([]string, 0, len(t.nodes))
	for p := range t.nodes {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Mkdir adds a folder, or gives an existing one that mode and owner.
func (t *Tree) Mkdir(p string, mode int64, uid, gid int) error {
	return t.put(p, &Node{Type: tar.TypeDir, Mode: mode, UID: uid, GID: gid})
}

// Symlink adds a symbolic link.
func (t *Tree) Symlink(p, target string) error {
	return t.put(p, &Node{Type: tar.TypeSymlink, Mode: 0o777, Target: target})
}

// WriteFile adds a regular file owned by root.
func (t *Tree) WriteFile(p string, mode int64, data []byte) error {
	return t.AddFile(p, mode, 0, 0, int64(len(data)), bytes.NewReader(data))
}

// AddFile adds a regular file of that size.
func (t *Tree) AddFile(p string, mode int64, uid, gid int, size int64, r io.Reader) error {
	inode, err := t.store(size, r)
	if err != nil {
		return fmt.Errorf("reading %s: %w", p, err)
	}
	return t.put(p, &Node{Type: tar.TypeReg, Mode: mode, UID: uid, GID: gid, inode: inode})
}

func (t *Tree) store(size int64, r io.Reader) (*content, error) {
	if err := t.stopped(); err != nil {
		return nil, err
	}
	w := io.NewOffsetWriter(t.spool, t.end)
	n, err := io.Copy(w, io.LimitReader(r, size))
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, io.ErrUnexpectedEOF
	}
	c := &content{src: t.spool, offset: t.end, size: size}
	t.end += n
	return c, nil
}

func (t *Tree) stopped() error {
	if t.Stop == nil {
		return nil
	}
	return t.Stop()
}

// put places a node, making missing folders. A folder where a symlink to a
// folder already is stays that symlink: so packages with files in /bin unpack
// into a merged /usr.
func (t *Tree) put(p string, n *Node) error {
	at, err := t.Resolve(p)
	if err != nil {
		return err
	}
	if at == "" {
		return nil // the root itself
	}
	if err := t.parents(at); err != nil {
		return err
	}
	old := t.nodes[at]
	if old != nil && n.Type == tar.TypeDir {
		switch old.Type {
		case tar.TypeSymlink:
			return t.throughLink(at, old)
		case tar.TypeDir:
			old.Mode, old.UID, old.GID, old.made = n.Mode, n.UID, n.GID, false
			return nil
		default:
			return fmt.Errorf("folder %s is already a file", p)
		}
	}
	if old != nil && old.Type == tar.TypeDir {
		return fmt.Errorf("%s is already a folder", p)
	}
	t.nodes[at] = n
	return nil
}

func (t *Tree) throughLink(at string, link *Node) error {
	to, err := t.follow(at, link, 0)
	if err != nil {
		return err
	}
	n := t.nodes[to]
	switch {
	case to == "" || n != nil && n.Type == tar.TypeDir:
		return nil
	case n != nil:
		return fmt.Errorf("folder %s is a symlink to a file", at)
	}
	return t.Mkdir(to, 0o755, 0, 0)
}

func (t *Tree) parents(at string) error {
	for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
		n := t.nodes[dir]
		if n == nil {
			t.nodes[dir] = &Node{Type: tar.TypeDir, Mode: 0o755, made: true}
			continue
		}
		if n.Type != tar.TypeDir {
			return fmt.Errorf("%s is in %s, which is no folder", at, dir)
		}
		break
	}
	return nil
}

// Remove takes a path, and everything below it, out of the tree.
func (t *Tree) Remove(p string) {
	at, err := t.Resolve(p)
	if err != nil || at == "" {
		return
	}
	delete(t.nodes, at)
	for q := range t.nodes {
		if strings.HasPrefix(q, at+"/") {
			delete(t.nodes, q)
		}
	}
}

// Each calls fn for every node in path order; false from fn removes the node.
func (t *Tree) Each(fn func(p string, n *Node) bool) {
	for _, p := range t.Paths() {
		if !fn(p, t.nodes[p]) {
			delete(t.nodes, p)
		}
	}
}
