package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

func newTree(t *testing.T) *Tree {
	t.Helper()
	tree, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func file(name, data string) (*tar.Header, io.Reader) {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}, strings.NewReader(data)
}

func add(t *testing.T, tree *Tree, h *tar.Header, r io.Reader) {
	t.Helper()
	if err := tree.Add(h, r); err != nil {
		t.Fatal(err)
	}
}

// dump is the tree as a tar lists it.
func dump(t *testing.T, tree *Tree) string {
	t.Helper()
	var buf bytes.Buffer
	must(t, tree.WriteTar(&buf, 1700000000))
	var out []string
	tr := tar.NewReader(&buf)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		if h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s has time %v", h.Name, h.ModTime)
		}
		body, err := io.ReadAll(tr)
		must(t, err)
		out = append(out, fmt.Sprintf("%c %s %o %d:%d %s%s", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Linkname, body))
	}
	return strings.Join(out, "\n")
}

func TestMergedUsr(t *testing.T) {
	tree := newTree(t)
	must(t, tree.Mkdir("usr/bin", 0o755, 0, 0), tree.Symlink("bin", "usr/bin"))
	add(t, tree, &tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o700}, nil)
	add(t, tree, &tar.Header{Typeflag: tar.TypeDir, Name: "./bin/", Mode: 0o755}, nil)
	h, r := file("./bin/sh", "shell")
	add(t, tree, h, r)
	add(t, tree, &tar.Header{Typeflag: tar.TypeLink, Name: "./bin/dash", Linkname: "./bin/sh"}, nil)
	add(t, tree, &tar.Header{Typeflag: tar.TypeSymlink, Name: "./bin", Linkname: "usr/bin"}, nil) // trixie's base-files
	want := `2 bin 777 0:0 usr/bin
5 usr/ 755 0:0 
5 usr/bin/ 755 0:0 
0 usr/bin/dash 644 0:0 shell
1 usr/bin/sh 644 0:0 usr/bin/dash`
	if got := dump(t, tree); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if data, err := tree.Read("/bin/sh"); err != nil || string(data) != "shell" {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestAddRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		h    tar.Header
	}{
		{"climbing out", tar.Header{Typeflag: tar.TypeReg, Name: "../../etc/passwd"}},
		{"climbing out inside", tar.Header{Typeflag: tar.TypeReg, Name: "usr/../../x"}},
		{"file for a folder", tar.Header{Typeflag: tar.TypeReg, Name: "dir"}},
		{"folder for a file", tar.Header{Typeflag: tar.TypeDir, Name: "file"}},
		{"file in a file", tar.Header{Typeflag: tar.TypeReg, Name: "file/x"}},
		{"hard link to nothing", tar.Header{Typeflag: tar.TypeLink, Name: "x", Linkname: "nothing"}},
		{"hard link outside", tar.Header{Typeflag: tar.TypeLink, Name: "x", Linkname: "../x"}},
		{"symlink loop", tar.Header{Typeflag: tar.TypeReg, Name: "loop/x"}},
		{"unknown kind", tar.Header{Typeflag: 'Z', Name: "x"}},
		{"short body", tar.Header{Typeflag: tar.TypeReg, Name: "x", Size: 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := newTree(t)
			must(t, tree.Mkdir("dir", 0o755, 0, 0), tree.WriteFile("file", 0o644, nil), tree.Symlink("loop", "loop"))
			if err := tree.Add(&c.h, strings.NewReader("")); err == nil {
				t.Errorf("accepted; the tree is\n%s", dump(t, tree))
			}
		})
	}
}

// A symlink that leads outside leads to the tree's own root, as in a chroot.
func TestSymlinksStayInside(t *testing.T) {
	tree := newTree(t)
	must(t, tree.Symlink("out", "../../etc"), tree.Symlink("abs", "/etc"))
	for _, p := range []string{"out/passwd", "abs/group"} {
		h, r := file(p, p)
		add(t, tree, h, r)
	}
	for _, p := range []string{"etc/passwd", "etc/group"} {
		if tree.Get(p) == nil {
			t.Errorf("no %s", p)
		}
	}
}

func TestDevicesAreLeftOut(t *testing.T) {
	tree := newTree(t)
	for _, kind := range []byte{tar.TypeChar, tar.TypeBlock, tar.TypeFifo} {
		add(t, tree, &tar.Header{Typeflag: kind, Name: "dev/x"}, nil)
	}
	if got := dump(t, tree); got != "" {
		t.Errorf("got %s", got)
	}
}

// The first to describe a folder decides its mode, but a folder that was only
// made for what is in it is still to be described.
func TestFolderModes(t *testing.T) {
	tree := newTree(t)
	h, r := file("tmp/x", "")
	add(t, tree, h, r)
	add(t, tree, &tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777, Gid: 8}, nil)
	add(t, tree, &tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o755}, nil)
	if n := tree.Get("tmp"); n.Mode != 0o1777 || n.GID != 8 {
		t.Errorf("got %o %d", n.Mode, n.GID)
	}
}

func TestReadTarRoundTrip(t *testing.T) {
	tree := newTree(t)
	must(t, tree.Mkdir("a/b", 0o2755, 3, 4), tree.WriteFile("a/b/c", 0o4755, []byte("data")), tree.Symlink("a/l", "b/c"))
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: "ping", Mode: 0o755, Size: 1,
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00", "SCHILY.xattr.user.x": "y"},
	}
	add(t, tree, h, strings.NewReader("p"))
	long, r := file(strings.Repeat("long/", 60)+"name", "far")
	add(t, tree, long, r)
	var first, second bytes.Buffer
	must(t, tree.WriteTar(&first, 7))
	again := newTree(t)
	must(t, again.ReadTar(io.NewSectionReader(bytes.NewReader(first.Bytes()), 0, int64(first.Len())), func(string) bool { return true }))
	must(t, again.WriteTar(&second, 7))
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("reading what was written and writing it again gives other bytes")
	}
	if bytes.Contains(first.Bytes(), []byte("user.x")) || !bytes.Contains(first.Bytes(), []byte("security.capability")) {
		t.Error("of extended attributes exactly the capabilities are kept")
	}
}

func TestRemove(t *testing.T) {
	tree := newTree(t)
	must(t, tree.WriteFile("a/b/c", 0o644, nil), tree.WriteFile("a/bc", 0o644, nil))
	tree.Remove("a/b")
	if got := strings.Join(tree.Paths(), " "); got != "a a/bc" {
		t.Errorf("got %q", got)
	}
}

func FuzzReadTar(f *testing.F) {
	var seed bytes.Buffer
	tw := tar.NewWriter(&seed)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "usr/bin/", Mode: 0o755},
		{Typeflag: tar.TypeSymlink, Name: "bin", Linkname: "usr/bin"},
		{Typeflag: tar.TypeLink, Name: "x", Linkname: "bin/y"},
	} {
		if err := tw.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := newTree(t)
		if tree.ReadTar(io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), func(string) bool { return true }) != nil {
			return
		}
		for _, p := range tree.Paths() {
			if strings.HasPrefix(p, "/") || strings.Contains("/"+p+"/", "/../") {
				t.Errorf("path %q", p)
			}
		}
	})
}
