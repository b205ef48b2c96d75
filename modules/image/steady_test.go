package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSteady: whatever the umask of a checkout, the context is the same.
func TestSteady(t *testing.T) {
	t.Parallel()
	dir, tmp := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755), os.WriteFile(filepath.Join(dir, "sub", "run"), []byte("x"), 0o755),
		os.WriteFile(filepath.Join(dir, "plain"), []byte("y"), 0o644), os.Symlink("plain", filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(dir, "left.log"), []byte("z"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	keep := func(path string, _ fs.DirEntry) bool { return !strings.HasSuffix(path, ".log") }
	if got, done, err := Steady(dir, tmp, keep); err != nil || got != dir {
		t.Fatalf("a steady context was copied to %s: %v", got, err)
	} else {
		done()
	}
	for path, mode := range map[string]fs.FileMode{"sub": 0o700, "sub/run": 0o770, "plain": 0o666} {
		if err := os.Chmod(filepath.Join(dir, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	got, done, err := Steady(dir, tmp, keep)
	if err != nil || got == dir {
		t.Fatalf("%s, %v", got, err)
	}
	for path, want := range map[string]fs.FileMode{"sub": 0o755 | fs.ModeDir, "sub/run": 0o755, "plain": 0o644} {
		if info, err := os.Stat(filepath.Join(got, path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(got, "link")); err != nil || to != "plain" {
		t.Errorf("link to %q, %v", to, err)
	}
	if _, err := os.Stat(filepath.Join(got, "left.log")); err == nil {
		t.Error("what is left out was copied")
	}
	done()
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("left behind %v", left)
	}
}
