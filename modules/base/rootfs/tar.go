package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	xattrPrefix = "SCHILY.xattr."
	capability  = "security.capability"
)

// Add takes one entry of a tar stream into the tree. Device nodes, fifos and
// sockets are left out: images have none.
func (t *Tree) Add(h *tar.Header, body io.Reader) error {
	p, err := Clean(h.Name)
	if err != nil {
		return err
	}
	mode := h.Mode & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		if n := t.Get(p); n != nil && n.Type == tar.TypeDir && !n.made {
			return nil // the first to describe a folder wins, as with dpkg
		}
		return t.put(p, &Node{Type: tar.TypeDir, Mode: mode, UID: h.Uid, GID: h.Gid})
	case tar.TypeSymlink:
		return t.addSymlink(p, h)
	case tar.TypeLink:
		return t.addLink(p, h.Linkname)
	case tar.TypeReg:
		inode, err := t.store(h.Size, body)
		if err != nil {
			return fmt.Errorf("reading %s: %w", p, err)
		}
		return t.put(p, &Node{
			Type: tar.TypeReg, Mode: mode, UID: h.Uid, GID: h.Gid, inode: inode, Xattrs: kept(h),
		})
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return nil
	default:
		return fmt.Errorf("%s: unknown kind of tar entry %q", p, h.Typeflag)
	}
}

func (t *Tree) addSymlink(p string, h *tar.Header) error {
	if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) {
		return fmt.Errorf("symlink %s leads nowhere", p)
	}
	return t.put(p, &Node{Type: tar.TypeSymlink, Mode: 0o777, UID: h.Uid, GID: h.Gid, Target: h.Linkname})
}

func (t *Tree) addLink(p, target string) error {
	n := t.Get(target)
	if n == nil || n.Type != tar.TypeReg {
		return fmt.Errorf("hard link %s to %q, which is no file", p, target)
	}
	return t.put(p, n)
}

func kept(h *tar.Header) map[string]string {
	if v, ok := h.PAXRecords[xattrPrefix+capability]; ok {
		return map[string]string{capability: v}
	}
	return nil
}

// ReadTar takes a whole tar into the tree. File contents are not copied: r must
// stay readable until the tree is written.
func (t *Tree) ReadTar(r *io.SectionReader, keep func(p string) bool) error {
	return Walk(r, func(h *tar.Header, body io.Reader, offset int64) error {
		p, err := Clean(h.Name)
		if err != nil || p == "" || !keep(p) {
			return err
		}
		return t.AddAt(h, body, r, offset)
	})
}

func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// WriteTar writes the tree. Every entry has the time epoch (Unix seconds).
func (t *Tree) WriteTar(w io.Writer, epoch int64) error {
	tw := tar.NewWriter(w)
	first := map[*content]string{}
	when := time.Unix(epoch, 0).UTC()
	for _, p := range t.Paths() {
		n := t.nodes[p]
		if err := t.stopped(); err != nil {
			return err
		}
		if err := writeNode(tw, p, n, when, first); err != nil {
			return fmt.Errorf("writing %s: %w", p, err)
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("writing tar: %w", err)
	}
	return nil
}

func writeNode(tw *tar.Writer, p string, n *Node, when time.Time, first map[*content]string) error {
	h := &tar.Header{
		Typeflag: n.Type, Name: p, Mode: n.Mode, Uid: n.UID, Gid: n.GID, ModTime: when,
		Linkname: n.Target,
	}
	switch n.Type {
	case tar.TypeDir:
		h.Name += "/"
		return tw.WriteHeader(h)
	case tar.TypeSymlink:
		return tw.WriteHeader(h)
	}
	if target, ok := first[n.inode]; ok && n.inode.size > 0 {
		h.Typeflag, h.Linkname = tar.TypeLink, target
		return tw.WriteHeader(h)
	}
	first[n.inode] = p
	h.Size = n.inode.size
	for k, v := range n.Xattrs {
		h.PAXRecords = map[string]string{xattrPrefix + k: v}
		h.Format = tar.FormatPAX
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, io.NewSectionReader(n.inode.src, n.inode.offset, n.inode.size))
	return err
}

// Within says whether path p is dir or below it.
func Within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
