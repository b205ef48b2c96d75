package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
)

// Spool keeps whole tars for a tree in a temporary file of its own, so that
// several can be unpacked at a time; what the tree takes from them stays there.
type Spool struct {
	file *os.File
	end  int64
}

// Spools makes n of them beside the tree's own file. They are closed with it.
func (t *Tree) Spools(n int) ([]*Spool, error) {
	out := make([]*Spool, n)
	for i := range out {
		f, err := unnamed(t.dir)
		if err != nil {
			return nil, err
		}
		t.spools = append(t.spools, f)
		out[i] = &Spool{file: f}
	}
	return out, nil
}

// Keep stores a stream. It is for one goroutine at a time.
func (s *Spool) Keep(r io.Reader) (*io.SectionReader, error) {
	n, err := io.Copy(io.NewOffsetWriter(s.file, s.end), r)
	if err != nil {
		return nil, err
	}
	section := io.NewSectionReader(s.file, s.end, n)
	s.end += n
	return section, nil
}

// Walk calls fn for every entry of a kept tar, with where its content begins.
func Walk(r *io.SectionReader, fn func(h *tar.Header, body io.Reader, offset int64) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading tar: %w", err)
		}
		offset, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("reading tar: %w", err)
		}
		if err := fn(h, tr, offset); err != nil {
			return err
		}
	}
}

// AddAt is Add of an entry whose content lies at an offset of r: it is not
// copied, and r must stay readable until the tree is written.
func (t *Tree) AddAt(h *tar.Header, body io.Reader, r io.ReaderAt, offset int64) error {
	if h.Typeflag != tar.TypeReg || isSparse(h) {
		return t.Add(h, body)
	}
	if err := t.stopped(); err != nil {
		return err
	}
	return t.put(h.Name, &Node{
		Type: tar.TypeReg, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Xattrs: kept(h),
		inode: &content{src: r, offset: offset, size: h.Size},
	})
}
