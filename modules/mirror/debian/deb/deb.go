// Package deb reads binary packages (deb(5)): an ar archive of debian-binary,
// control.tar and data.tar. It trusts nothing it reads: sizes are checked, and
// no member is kept in memory whole but the control files.
package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

const (
	magic      = "!<arch>\n"
	headerSize = 60
	maxControl = 16 << 20 // all control files of one package
	maxWindow  = 256 << 20
)

// Package is an opened binary package.
type Package struct {
	Control map[string][]byte // control files by name: control, md5sums, conffiles, postinst, …
	r       io.ReaderAt
	data    member
}

type member struct {
	name        string
	start, size int64
}

// Open reads the members and the control files of a package of that size.
func Open(r io.ReaderAt, size int64) (*Package, error) {
	members, err := list(r, size)
	if err != nil {
		return nil, err
	}
	if len(members) < 3 || members[0].name != "debian-binary" {
		return nil, errors.New("not a Debian package: no debian-binary first")
	}
	if err := checkFormat(r, members[0]); err != nil {
		return nil, err
	}
	p := &Package{r: r, Control: map[string][]byte{}}
	var control member
	for _, m := range members[1:] {
		switch {
		case strings.HasPrefix(m.name, "control.tar") && control.name == "":
			control = m
		case strings.HasPrefix(m.name, "data.tar") && p.data.name == "":
			p.data = m
		case !strings.HasPrefix(m.name, "_"): // deb(5): those are to be ignored
			return nil, fmt.Errorf("unexpected member %q", m.name)
		}
	}
	if control.name == "" || p.data.name == "" {
		return nil, errors.New("not a Debian package: control or data is missing")
	}
	if err := p.readControl(control); err != nil {
		return nil, fmt.Errorf("reading %s: %w", control.name, err)
	}
	return p, nil
}

// checkFormat refuses packages of another major format version.
func checkFormat(r io.ReaderAt, m member) error {
	version := make([]byte, min(m.size, 16))
	if _, err := r.ReadAt(version, m.start); err != nil && err != io.EOF {
		return fmt.Errorf("reading debian-binary: %w", err)
	}
	if !strings.HasPrefix(string(version), "2.") {
		return fmt.Errorf("unknown package format %q", strings.TrimSpace(string(version)))
	}
	return nil
}

// list walks the ar headers (the common format; deb(5) uses no long names).
func list(r io.ReaderAt, size int64) ([]member, error) {
	head := make([]byte, len(magic))
	if _, err := r.ReadAt(head, 0); err != nil || string(head) != magic {
		return nil, errors.New("not a Debian package: no ar archive")
	}
	var out []member
	for off := int64(len(magic)); off < size; {
		h := make([]byte, headerSize)
		if _, err := r.ReadAt(h, off); err != nil {
			return nil, fmt.Errorf("reading ar header: %w", io.ErrUnexpectedEOF)
		}
		if h[58] != '`' || h[59] != '\n' {
			return nil, errors.New("broken ar header")
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
		if err != nil || n < 0 || off+headerSize+n > size {
			return nil, errors.New("broken ar header: impossible size")
		}
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		out = append(out, member{name: name, start: off + headerSize, size: n})
		if len(out) > 16 {
			return nil, errors.New("too many ar members")
		}
		off += headerSize + n + n%2
	}
	return out, nil
}

func (p *Package) readControl(m member) error {
	return p.walk(m, func(h *tar.Header, body io.Reader) error {
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		if strings.Contains(name, "/") {
			return fmt.Errorf("control file in a folder: %q", h.Name)
		}
		if h.Size > maxControl {
			return fmt.Errorf("control file %s is too large", name)
		}
		data, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		p.Control[name] = data
		return nil
	})
}

// Data is the tar of the package's files, decompressed as it is read. The
// function gives back what decompressing takes.
func (p *Package) Data() (io.Reader, func(), error) {
	r, done, err := decompress(p.data.name, io.NewSectionReader(p.r, p.data.start, p.data.size))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", p.data.name, err)
	}
	return r, done, nil
}

// Walk calls fn for each entry of the package's files, in archive order.
func (p *Package) Walk(fn func(*tar.Header, io.Reader) error) error {
	if err := p.walk(p.data, fn); err != nil {
		return fmt.Errorf("reading %s: %w", p.data.name, err)
	}
	return nil
}

func (p *Package) walk(m member, fn func(*tar.Header, io.Reader) error) error {
	raw := io.NewSectionReader(p.r, m.start, m.size)
	stream, done, err := decompress(m.name, raw)
	if err != nil {
		return err
	}
	defer done()
	tr := tar.NewReader(stream)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(h, tr); err != nil {
			return err
		}
	}
}

func decompress(name string, r io.Reader) (io.Reader, func(), error) {
	nothing := func() {}
	switch ext := path.Ext(name); ext {
	case ".tar":
		return r, nothing, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		return z, nothing, err
	case ".xz":
		z, err := xz.NewReader(r, maxWindow)
		return z, nothing, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nothing, err
		}
		return z, z.Close, nil
	default:
		return nil, nothing, fmt.Errorf("unknown compression %q", ext)
	}
}

// Stanza is the package's control file without the trailing blank lines, its
// fields in order.
func (p *Package) Stanza() (string, error) {
	s := strings.TrimRight(string(bytes.ReplaceAll(p.Control["control"], []byte("\r\n"), []byte("\n"))), "\n")
	if s == "" || strings.Contains(s, "\n\n") {
		return "", errors.New("the control file is not one stanza")
	}
	return s, nil
}

// Field is one field of the control file, its first line only.
func (p *Package) Field(name string) string {
	for _, line := range strings.Split(string(p.Control["control"]), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
