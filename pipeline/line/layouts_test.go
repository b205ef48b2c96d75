package line

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLayouts: runs on one cache keep their layouts apart, and what a killed
// one left is removed by the next.
func TestLayouts(t *testing.T) {
	cache := t.TempDir()
	all := filepath.Join(cache, "layouts")
	left := filepath.Join(all, "run-1", "image", "default")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	var dirs []string
	var lines []*Line
	for range 2 {
		l := New(t.Context(), Config{Cache: cache})
		dir, err := l.layoutDir("group/image", "")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		dirs, lines = append(dirs, dir), append(lines, l)
	}
	if dirs[0] == dirs[1] {
		t.Errorf("both write %s", dirs[0])
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a run removed another's: %v", err)
		}
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what a killed run left: %v", err)
	}
	for _, l := range lines {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if there, err := os.ReadDir(all); err != nil || len(there) > 0 {
		t.Errorf("%v stayed, %v", there, err)
	}
}
