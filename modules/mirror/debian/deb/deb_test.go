package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"
)

type part struct{ name, data string }

func ar(parts ...part) []byte {
	var buf bytes.Buffer
	buf.WriteString(magic)
	for _, p := range parts {
		fmt.Fprintf(&buf, "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", p.name, 0, 0, 0, 0o100644, len(p.data), p.data)
		if len(p.data)%2 == 1 {
			buf.WriteByte('\n')
		}
	}
	return buf.Bytes()
}

func tgz(t testing.TB, names ...string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, n := range names {
		name, body, _ := strings.Cut(n, "=")
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func good(t testing.TB) []byte {
	return ar(part{"debian-binary", "2.0\n"}, part{"control.tar.gz/", tgz(t, "./control=Package: a\nversion: 1\nDescription: x\n more\n\n")},
		part{"_gpgorigin", "x"}, part{"data.tar.gz", tgz(t, "./usr/bin/a=program")})
}

func TestOpen(t *testing.T) {
	data := good(t)
	p, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if p.Field("Package") != "a" || p.Field("Version") != "1" || p.Field("Nothing") != "" {
		t.Errorf("control %q", p.Control["control"])
	}
	if s, err := p.Stanza(); err != nil || s != "Package: a\nversion: 1\nDescription: x\n more" {
		t.Errorf("stanza %q, %v", s, err)
	}
	var seen []string
	err = p.Walk(func(h *tar.Header, r io.Reader) error {
		b, err := io.ReadAll(r)
		seen = append(seen, h.Name+"="+string(b))
		return err
	})
	if err != nil || strings.Join(seen, " ") != "./usr/bin/a=program" {
		t.Errorf("got %v, %v", seen, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	control, data := part{"control.tar.gz", tgz(t, "./control=Package: a\n")}, part{"data.tar.gz", tgz(t)}
	for name, bytesOf := range map[string][]byte{
		"empty":               {},
		"not ar":              []byte("PK\x03\x04 not a package at all"),
		"no data":             ar(part{"debian-binary", "2.0\n"}, control, part{"_x", ""}),
		"wrong order":         ar(control, part{"debian-binary", "2.0\n"}, data),
		"future format":       ar(part{"debian-binary", "3.0\n"}, control, data),
		"strange member":      ar(part{"debian-binary", "2.0\n"}, control, part{"other", "x"}, data),
		"unknown compression": ar(part{"debian-binary", "2.0\n"}, part{"control.tar.lzma", "x"}, data),
		"broken compression":  ar(part{"debian-binary", "2.0\n"}, part{"control.tar.gz", "no gzip"}, data),
		"control in a folder": ar(part{"debian-binary", "2.0\n"}, part{"control.tar.gz", tgz(t, "./a/control=x")}, data),
		"cut short":           good(t)[:120],
		"size beyond the end": bytes.Replace(good(t), []byte("4         `"), []byte("999999999 `"), 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(bytes.NewReader(bytesOf), int64(len(bytesOf))); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(good(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		n := 0
		_ = p.Walk(func(*tar.Header, io.Reader) error { // must not panic; errors are fine
			if n++; n > 1000 {
				return io.EOF
			}
			return nil
		})
	})
}
