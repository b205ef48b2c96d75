//go:build linux

package core

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// bzipped is b/file of 7:8 in a tar.bz2: Go has no writer of bzip2.
const bzipped = "QlpoOTFBWSZTWYEwp1YAAJJ7gPGQABBAAP+AABFzJF4QBAggAHISlDQyGgGgDJ6gkoNInqeUNqDAEP2M/FKDJAdbgSIjkhDWWD4kStoEBCHCwfM2HmRBjyOBJx7+SAqxY7ESmzSOhJ4064Mg2xzYDNxxUhE4Ujz6siQoop48RA/F3JFOFCQgTCnVgA=="

// archivesDockerfile adds archives of every compression, and what is none.
const archivesDockerfile = `FROM scratch AS base
COPY . /
RUN mkdir -p /real/deep && ln -s /real /linked && ln -s / /all && echo mine > /real/kept

FROM base
ADD plain.tar /plain/
ADD z.tar.gz /gz/sub/
ADD b.tar.bz2 /bz
ADD x.tar.xz /xz/
ADD s.tar.zst /zst/
ADD --chown=app:extra plain.tar /named/
ADD --chown=55 x.tar.xz /numbered
ADD z.tar.gz notes.gz no*e /several/
ADD plain.tar /linked/deep/
ADD out.tar /all/real/deep/
RUN cd / && find plain gz bz xz zst named numbered several real all/etc/passwd | sort | while read f; do stat -c '%n %u:%g %a %F %Y' $f; done; cat /real/kept /several/none /plain/tree/file
`

// TestArchives: ADD unpacks the same whoever builds, with nothing of the host's.
func TestArchives(t *testing.T) {
	needModes(t)
	dir := ownersContext(t, archivesDockerfile)
	if err := writeArchives(filepath.Join(dir, "context")); err != nil {
		t.Fatal(err)
	}
	want := ownersAs(t, dir, 0, 0, "")
	if want.Mode != modeRoot || want.Err != "" {
		t.Fatalf("as root: %+v", want)
	}
	lines := strings.Split(want.Logs, "\n")
	for _, line := range []string{
		"plain/tree/file 1000:2000 4755 regular file 1600000000", "plain/tree/link 3:4 777 symbolic link 1600000000", "plain/tree 5:6 2750 directory 1600000000",
		"gz/sub/tree/hard 1000:2000 4755 regular file 1600000000", "bz/b/file 7:8 644 regular file 1600000000", "xz/tree/file 1000:2000 4755 regular file 1600000000",
		"zst/tree/file 1000:2000 4755 regular file 1600000000", "named/tree 1000:2000 2750 directory 1600000000", "numbered/tree 55:55 2750 directory 1600000000",
		"several/tree/file 1000:2000 4755 regular file 1600000000", "real/deep/tree/pipe 0:0 600 fifo 1600000000",
		"real/deep/out 0:0 777 symbolic link 1600000000", "mine", "no archive", "of the archive",
	} {
		if !slices.Contains(lines, line) {
			t.Errorf("as root, the log lacks %q", line)
		}
	}
	for _, name := range []string{"several/notes.gz", "several/none", "real/deep/etc/pwned"} {
		if !strings.Contains(want.Logs, "\n"+name+" 0:0 ") {
			t.Errorf("as root, there is no %s", name)
		}
	}
	if t.Failed() {
		t.Log(want.Logs)
	}
	inOtherModes(t, dir, want)
}

// writeArchives makes what archivesDockerfile adds.
func writeArchives(dir string) error {
	at := time.Unix(1600000000, 0)
	plain, err := tarOf([]tar.Header{
		{Name: "tree/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 5, Gid: 6, ModTime: at},
		{Name: "tree/file", Mode: 0o4755, Uid: 1000, Gid: 2000, ModTime: at, Size: int64(len("of the archive\n"))},
		{Name: "tree/hard", Typeflag: tar.TypeLink, Linkname: "tree/file", Mode: 0o4755, Uid: 1000, Gid: 2000, ModTime: at},
		{Name: "tree/link", Typeflag: tar.TypeSymlink, Linkname: "/tree/file", Mode: 0o777, Uid: 3, Gid: 4, ModTime: at},
		{Name: "tree/pipe", Typeflag: tar.TypeFifo, Mode: 0o600, ModTime: at},
	})
	if err != nil {
		return err
	}
	// through a link that leads out: into the folder it is added to, and nowhere else
	out, err := tarOf([]tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at},
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc", Mode: 0o777, ModTime: at},
		{Name: "out/pwned", Mode: 0o644, ModTime: at, Size: int64(len("of the archive\n"))},
	})
	if err != nil {
		return err
	}
	bz, err := base64.StdEncoding.DecodeString(bzipped)
	if err != nil {
		return err
	}
	files := map[string][]byte{"plain.tar": plain, "out.tar": out, "b.tar.bz2": bz, "none": []byte("no archive\n")}
	for name, with := range map[string]func(io.Writer) (io.WriteCloser, error){
		"z.tar.gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"x.tar.xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		"s.tar.zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	} {
		if files[name], err = packed(plain, with); err != nil {
			return err
		}
	}
	if files["notes.gz"], err = packed([]byte("only notes\n"), func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }); err != nil {
		return err
	}
	for name, b := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	return err
}

func packed(b []byte, with func(io.Writer) (io.WriteCloser, error)) ([]byte, error) {
	var buf bytes.Buffer
	w, err := with(&buf)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(b)
	err = errors.Join(err, w.Close())
	return buf.Bytes(), err
}

// tarOf is an archive whose files, where they hold anything, hold one line.
func tarOf(headers []tar.Header) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, "of the archive\n"); err != nil {
				return nil, err
			}
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
