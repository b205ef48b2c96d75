package compare

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// file is one file of a layer; its content stays where it is.
type file struct {
	header *tar.Header
	sum    string // sha256 of the content, in hex
	offset int64
}

// files is an unpacked layer.
type files struct {
	tar    *os.File
	byPath map[string]file
}

func (f *files) close() {
	_ = f.tar.Close()
	_ = os.Remove(f.tar.Name())
}

// list reads all headers and hashes all contents.
func (f *files) list(limit int) error {
	f.byPath = map[string]file{}
	for r := tar.NewReader(f.tar); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(f.byPath) >= limit {
			return fmt.Errorf("more than %d files", limit)
		}
		one := file{header: h}
		if one.offset, err = f.tar.Seek(0, io.SeekCurrent); err != nil {
			return err
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return err
		}
		one.sum = hex.EncodeToString(sum.Sum(nil))
		f.byPath[strings.TrimPrefix(path.Clean("/"+h.Name), "/")] = one
	}
}

// content reads a file of the layer.
func (f *files) content(name string) *io.SectionReader {
	one := f.byPath[name]
	return io.NewSectionReader(f.tar, one.offset, one.header.Size)
}

// difference is how one path differs; nil when it does not.
func difference(name string, was, now *files) (*artifact.FileDiff, error) {
	before, had := was.byPath[name]
	after, has := now.byPath[name]
	d := &artifact.FileDiff{Path: name}
	switch {
	case !had:
		d.Changes, d.Now = []string{"added"}, describe(after)
	case !has:
		d.Changes, d.Was = []string{"removed"}, describe(before)
	default:
		compareHeaders(d, before, after)
	}
	if len(d.Changes) == 0 {
		return nil, nil
	}
	d.Hint = hint(name, d.Changes, was, now)
	return d, nil
}

// describe is what is there, in short.
func describe(f file) string {
	h := f.header
	switch h.Typeflag {
	case tar.TypeDir:
		return fmt.Sprintf("directory %04o %d:%d", h.Mode&0o7777, h.Uid, h.Gid)
	case tar.TypeSymlink, tar.TypeLink:
		return kind(h) + " to " + h.Linkname
	case tar.TypeReg:
		return fmt.Sprintf("file %04o %d:%d, %s", h.Mode&0o7777, h.Uid, h.Gid, body(f))
	}
	return kind(h)
}

func body(f file) string { return fmt.Sprintf("%d bytes sha256:%s", f.header.Size, f.sum) }

func kind(h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeReg:
		return "file"
	case tar.TypeDir:
		return "directory"
	case tar.TypeSymlink:
		return "symbolic link"
	case tar.TypeLink:
		return "hard link"
	case tar.TypeFifo:
		return "pipe"
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	}
	return "entry"
}

// compareHeaders notes every way in which two files differ.
func compareHeaders(d *artifact.FileDiff, was, now file) {
	var before, after []string
	note := func(change, w, n string) {
		d.Changes = append(d.Changes, change)
		before, after = append(before, w), append(after, n)
	}
	w, n := was.header, now.header
	both := w.Typeflag == n.Typeflag
	if !both {
		note("type", kind(w), kind(n))
	}
	if both && w.Typeflag == tar.TypeReg && was.sum != now.sum {
		note("content", body(was), body(now))
	}
	if both && w.Linkname != n.Linkname {
		note("link", w.Linkname, n.Linkname)
	}
	if w.Mode&0o7777 != n.Mode&0o7777 {
		note("mode", fmt.Sprintf("%04o", w.Mode&0o7777), fmt.Sprintf("%04o", n.Mode&0o7777))
	}
	if w.Uid != n.Uid || w.Gid != n.Gid {
		note("owner", fmt.Sprintf("%d:%d", w.Uid, w.Gid), fmt.Sprintf("%d:%d", n.Uid, n.Gid))
	}
	if !w.ModTime.Equal(n.ModTime) {
		note("time", w.ModTime.UTC().Format(time.RFC3339Nano), n.ModTime.UTC().Format(time.RFC3339Nano))
	}
	if x, y := attributes(w), attributes(n); x != y {
		note("xattr", x, y)
	}
	if both && (w.Devmajor != n.Devmajor || w.Devminor != n.Devminor) {
		note("device", fmt.Sprintf("%d,%d", w.Devmajor, w.Devminor), fmt.Sprintf("%d,%d", n.Devmajor, n.Devminor))
	}
	d.Was, d.Now = strings.Join(before, ", "), strings.Join(after, ", ")
}

// attributes are a file's extended attributes, as text.
func attributes(h *tar.Header) string {
	var out []string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			out = append(out, fmt.Sprintf("%s=%q", name, short(v, 100)))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
