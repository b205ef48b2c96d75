package results

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sum(t *testing.T, k *Key) string {
	t.Helper()
	d, err := k.Sum()
	if err != nil {
		t.Fatal(err)
	}
	return string(d)
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := WriteFile(path, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func TestKeysDoNotCollideAcrossFields(t *testing.T) {
	a := sum(t, NewKey("k").Text("a", "bc").Text("d", ""))
	b := sum(t, NewKey("k").Text("a", "b").Text("cd", ""))
	c := sum(t, NewKey("k").Text("a", "bc").Text("d", ""))
	if a == b || a != c {
		t.Errorf("a %s b %s c %s", a, b, c)
	}
}

func TestTreeSeesContentModeAndLinksOnly(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "one")
	put(t, filepath.Join(dir, "skip/g"), "x")
	keep := func(p string, _ fs.DirEntry) bool { return !strings.HasPrefix(p, "skip") }
	key := func() string { return sum(t, NewKey("k").Tree("ctx", dir, keep)) }
	first := key()
	put(t, filepath.Join(dir, "skip/g"), "y")
	put(t, filepath.Join(dir, "f"), "one") // new inode, new time
	if key() != first {
		t.Error("a file that does not count, or a time, changed the key")
	}
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(filepath.Join(dir, "f"), []byte("two"), 0o644) },
		"mode":    func() error { return os.Chmod(filepath.Join(dir, "f"), 0o755) },
		"link":    func() error { return os.Symlink("f", filepath.Join(dir, "l")) },
	} {
		before := key()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if key() == before {
			t.Errorf("%s: key did not change", name)
		}
	}
	if _, err := NewKey("k").Tree("ctx", filepath.Join(dir, "absent"), nil).Sum(); err == nil {
		t.Error("an absent tree gave a key")
	}
}

func TestRecordHoldsOnlyWhileWhatItLeftIsThere(t *testing.T) {
	dir := t.TempDir()
	s := Store{Dir: filepath.Join(dir, "results")}
	blob := filepath.Join(dir, "blob")
	put(t, blob, "b")
	key, _ := NewKey("k").Sum()
	files := map[string][]byte{"sbom/a.json": []byte("{}")}
	for range 2 { // the second replaces the first
		if err := s.Put(key, map[string]int{"n": 7}, files, []string{blob}); err != nil {
			t.Fatal(err)
		}
	}
	r, ok := s.Get(key)
	if !ok || string(r.Value) == "" {
		t.Fatal("the record is not there")
	}
	out := filepath.Join(dir, "out")
	if err := s.Restore(r, out); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(out, "sbom/a.json")); string(b) != "{}" {
		t.Errorf("restored %q", b)
	}
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get(key); ok {
		t.Error("the record holds although its blob is gone")
	}
	put(t, filepath.Join(s.folder(key), "record.json"), "{half")
	if _, ok := s.Get(key); ok {
		t.Error("a corrupt record was believed")
	}
}

func TestProgramIsKnownByItsBuildID(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	id, err := Program(self)
	if err != nil || id == "" {
		t.Fatalf("%q %v", id, err)
	}
	text := filepath.Join(t.TempDir(), "script")
	put(t, text, "#!/bin/sh\n")
	if id, err := Program(text); err != nil || strings.HasPrefix(id, "go:") {
		t.Errorf("a script: %q %v", id, err)
	}
}
