package normalize

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/ociarchive"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	maxName        = 4096
)

// entry is one file of a layer; its content stays where it is.
type entry struct {
	path   string // clean, no leading slash; "" is the root
	key    string // sort key
	header *tar.Header
	offset int64  // of the content in the unpacked layer
	data   []byte // content that replaces it
}

// rewrite normalizes one layer.
func (n *normalizer) rewrite(i int, d ociarchive.Descriptor, diffID artifact.Digest) (wire.Layer, ociarchive.Content, error) {
	none := wire.Layer{}
	plain, err := n.unpack(i, d, diffID)
	if err != nil {
		return none, ociarchive.Content{}, err
	}
	defer func() { _ = plain.Close(); _ = os.Remove(plain.Name()) }()
	entries, err := readEntries(plain, plain, n.MaxEntries)
	if err != nil {
		return none, ociarchive.Content{}, err
	}
	n.dirs.remove(entries)
	kept, err := n.arrange(entries, plain)
	if err != nil {
		return none, ociarchive.Content{}, err
	}
	n.dirs.add(entries)
	return n.pack(i, kept, plain)
}

// unpack writes a layer's tar to a file and checks it against its diff id.
func (n *normalizer) unpack(i int, d ociarchive.Descriptor, diffID artifact.Digest) (*os.File, error) {
	blob, err := n.archive.Blob(d)
	if err != nil {
		return nil, err
	}
	r, _, err := ociarchive.Decompress(blob, n.budget)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	f, err := os.Create(filepath.Join(n.work, fmt.Sprintf("%d.tar", i)))
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, sum), r)
	if err == nil {
		if got := artifact.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))); got != diffID {
			err = fmt.Errorf("content is %s, configuration says %s", got, diffID)
		}
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// readEntries lists a layer's files. With a seeker it notes where each
// content starts.
func readEntries(r io.Reader, s io.Seeker, limit int) ([]entry, error) {
	var out []entry
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		e, err := newEntry(h)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		if len(out) >= limit {
			return nil, fmt.Errorf("more than %d files in one layer", limit)
		}
		if s != nil {
			if e.offset, err = s.Seek(0, io.SeekCurrent); err != nil {
				return nil, err
			}
		}
		out = append(out, *e)
	}
}

func newEntry(h *tar.Header) (*entry, error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
	case tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, fmt.Errorf("%q has the unknown type %q", h.Name, h.Typeflag)
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return nil, fmt.Errorf("%q is a sparse file, which image layers do not have", h.Name)
		}
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return nil, err
	}
	if h.Typeflag == tar.TypeLink {
		if h.Linkname, err = cleanName(h.Linkname); err != nil {
			return nil, fmt.Errorf("hard link %q: %w", h.Name, err)
		}
	}
	return &entry{path: name, key: sortKey(name), header: h}, nil
}

// cleanName refuses names that lead out of the layer.
func cleanName(name string) (string, error) {
	if len(name) > maxName || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("name %.80q is not a path", name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("name %q leads out of the layer", name)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// sortKey orders a directory before what is in it, and the whiteouts of a
// directory before the rest of it.
func sortKey(name string) string {
	dir, base := path.Split(name)
	if strings.HasPrefix(base, whiteoutPrefix) {
		base = "\x00" + base
	}
	return strings.ReplaceAll(dir, "/", "\x01") + base
}

// drops says whether an entry says nothing of the image: a trace of the build,
// or a directory that is below already.
func (n *normalizer) drops(e entry) bool {
	return !n.KeepTraces && drift(e) || e.header.Typeflag == tar.TypeDir && n.dirs.has(e)
}

// steady replaces the content of what holds the day or the machine of the build.
func (n *normalizer) steady(plain io.ReaderAt, e entry) (data []byte, err error) {
	switch {
	case e.header.Typeflag != tar.TypeReg:
	case e.path == shadowFile:
		return steadyShadow(plain, e, n.Epoch)
	case !n.KeepTraces && isMachineID(plain, e):
		return []byte{}, nil
	case !n.KeepTraces && pnpmFile.MatchString(e.path):
		return steadyPnpm(plain, e, n.Epoch)
	case !n.KeepTraces && isTrustStore(e):
		return steadyTrustStore(plain, e, n.Epoch)
	}
	return nil, nil
}

// arrange chooses and orders what is kept of a layer.
func (n *normalizer) arrange(entries []entry, plain io.ReaderAt) ([]entry, error) {
	last := map[string]int{}
	for i, e := range entries {
		last[e.path] = i // of two entries for a path, the later holds
	}
	kept := make([]entry, 0, len(entries))
	for i, e := range entries {
		if last[e.path] != i || e.path == "" {
			continue
		}
		for dir := path.Dir(e.path); dir != "."; dir = path.Dir(dir) {
			if j, ok := last[dir]; ok && entries[j].header.Typeflag != tar.TypeDir {
				return nil, fmt.Errorf("%q lies below %q, which is not a directory", e.path, dir)
			}
		}
		if n.drops(e) {
			continue
		}
		var err error
		if e.data, err = n.steady(plain, e); err != nil {
			return nil, err
		}
		kept = append(kept, e)
	}
	sort.Slice(kept, func(i, j int) bool {
		if kept[i].key != kept[j].key {
			return kept[i].key < kept[j].key
		}
		return kept[i].path < kept[j].path
	})
	return relink(entries, last, kept)
}

// relink gives a group of hard links its content at the path that comes
// first, so that the order the layer was written in does not matter.
func relink(entries []entry, last map[string]int, kept []entry) ([]entry, error) {
	root := func(e entry) (entry, bool, error) {
		for range 100 {
			if e.header.Typeflag != tar.TypeLink {
				return e, e.header.Typeflag == tar.TypeReg, nil
			}
			j, ok := last[e.header.Linkname]
			if !ok {
				return e, false, nil // to a file of a lower layer
			}
			e = entries[j]
		}
		return e, false, fmt.Errorf("hard links of %q go round in a circle", e.path)
	}
	first := map[string]string{} // content's path in the layer -> path that carries it
	for i, e := range kept {
		target, here, err := root(e)
		if err != nil {
			return nil, err
		}
		if !here {
			continue
		}
		h := *target.header
		if carrier, ok := first[target.path]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, carrier, 0
			kept[i].data = nil
		} else {
			first[target.path] = e.path
			h.Linkname = ""
			kept[i].offset = target.offset
		}
		kept[i].header = &h
	}
	return kept, nil
}

// pack writes the kept files as a layer and describes it.
func (n *normalizer) pack(i int, kept []entry, plain io.ReaderAt) (_ wire.Layer, _ ociarchive.Content, err error) {
	name := filepath.Join(n.work, fmt.Sprintf("%d.tar.gz", i))
	f, err := os.Create(name)
	if err != nil {
		return wire.Layer{}, ociarchive.Content{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blobSum, diffSum := sha256.New(), sha256.New()
	size := new(counter)
	// The standard library's gzip at its default level, header without name or
	// time: the bytes depend on the Go release only, which go.mod pins.
	z := gzip.NewWriter(io.MultiWriter(f, blobSum, size))
	w := tar.NewWriter(io.MultiWriter(z, diffSum))
	for _, e := range kept {
		if err := writeEntry(w, e, n.Epoch, plain); err != nil {
			return wire.Layer{}, ociarchive.Content{}, fmt.Errorf("writing %q: %w", e.path, err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return wire.Layer{}, ociarchive.Content{}, err
	}
	l := wire.Layer{
		Digest:    artifact.Digest("sha256:" + hex.EncodeToString(blobSum.Sum(nil))),
		DiffID:    artifact.Digest("sha256:" + hex.EncodeToString(diffSum.Sum(nil))),
		Size:      size.n,
		MediaType: ociarchive.MediaTypeLayerGzip,
	}
	desc := ociarchive.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	return l, ociarchive.Content{Descriptor: desc, Open: func() (io.ReadCloser, error) { return os.Open(name) }}, nil
}

// writeEntry writes one file with its time set, its owner's names dropped and
// of the extended records only the attributes that are part of the file.
func writeEntry(w *tar.Writer, e entry, epoch time.Time, plain io.ReaderAt) error {
	h := tar.Header{
		Typeflag: e.header.Typeflag, Name: e.path, Linkname: e.header.Linkname,
		Size: e.header.Size, Mode: e.header.Mode & 0o7777, Uid: e.header.Uid, Gid: e.header.Gid,
		ModTime: epoch, Devmajor: e.header.Devmajor, Devminor: e.header.Devminor,
		PAXRecords: attributes(e.header),
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if h.Typeflag != tar.TypeReg {
		h.Size = 0
	}
	if e.data != nil {
		h.Size = int64(len(e.data))
	}
	if err := w.WriteHeader(&h); err != nil {
		return err
	}
	if h.Size == 0 {
		return nil
	}
	var r io.Reader = io.NewSectionReader(plain, e.offset, h.Size)
	if e.data != nil {
		r = bytes.NewReader(e.data)
	}
	_, err := io.Copy(w, r)
	return err
}

// attributes are the extended attributes of a file, file capabilities mostly.
func attributes(h *tar.Header) map[string]string {
	var out map[string]string
	for k, v := range h.PAXRecords {
		if k == "SCHILY.xattr.security.selinux" {
			continue // the host's policy, not the image's
		}
		if strings.HasPrefix(k, "SCHILY.xattr.") && !strings.HasPrefix(k, "SCHILY.xattr.trusted.overlay.") && !strings.HasPrefix(k, "SCHILY.xattr.user.overlay.") {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
