package initproc

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func newTree(t *testing.T) (tree, string) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return tree{f}, dir
}

func TestPlaceStaysInside(t *testing.T) {
	tr, dir := newTree(t)
	outside := t.TempDir()
	for link, target := range map[string]string{
		"abs": "/real", "up": "../../../../../../real", "away": outside, "dangling": "/not/there/yet", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, made string
		dir        bool
	}{
		{"/a/b/c", "a/b/c", true},
		{"x/file", "x/file", false},
		{"/abs/d", "real/d", true},
		{"/up/e", "real/e", true},
		{"/away/f", filepath.Join(outside, "f")[1:], true},
		{"/dangling", "not/there/yet", false},
		{"/../../../../g", "g", false},
	} {
		f, err := tr.place(c.name, c.dir)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		f.Close()
		fi, err := os.Lstat(filepath.Join(dir, c.made))
		if err != nil || fi.IsDir() != c.dir {
			t.Errorf("%s: %v, %v", c.name, fi, err)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if _, err := tr.place("/loop/x", true); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/tool", nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/data", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	spec := func(name string) Process {
		return Process{Args: []string{name}, Cwd: dir, Env: []string{"PATH=/nonexistent:" + dir}}
	}
	if p, err := lookPath(spec("tool")); err != nil || p != dir+"/tool" {
		t.Errorf("got %s, %v", p, err)
	}
	if p, err := lookPath(spec("./x/y")); err != nil || p != "./x/y" {
		t.Errorf("got %s, %v", p, err)
	}
	for _, name := range []string{"data", "absent"} {
		if _, err := lookPath(spec(name)); err == nil {
			t.Errorf("%s was found", name)
		}
	}
	if _, err := lookPath(Process{}); err == nil {
		t.Error("no command was accepted")
	}
}

func TestEnding(t *testing.T) {
	if r := ending(unix.WaitStatus(3 << 8)); r.Code != 3 || r.Signal != 0 || !r.Exited {
		t.Errorf("got %+v", r)
	}
	if r := ending(unix.WaitStatus(9)); r.Code != 137 || r.Signal != 9 {
		t.Errorf("got %+v", r)
	}
}
