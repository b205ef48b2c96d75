package wholefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// only fails unless the folder holds the one file, with that content and mode.
func only(t *testing.T, path, want string, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q (%v), want %q", path, got, err, want)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm() != mode {
		t.Errorf("%s has mode %v, want %v", path, st.Mode().Perm(), mode)
	}
	alone(t, filepath.Dir(path), 1)
}

// alone fails unless the folder holds that many entries: nothing is left over.
func alone(t *testing.T, dir string, n int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != n {
		t.Errorf("%s holds %v (%v), want %d entries", dir, entries, err, n)
	}
}

func TestWrite(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		mode fs.FileMode
	}{
		"zero options": {Options{}, 0o600},
		"mode":         {Options{Mode: 0o644}, 0o644},
		"no write bit": {Options{Mode: 0o500}, 0o500},
		"synced":       {Options{Sync: true}, 0o600},
		"pattern":      {Options{Pattern: ".layer-*"}, 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			for _, text := range []string{"first", "second, longer", "3", ""} {
				if err := Write(path, []byte(text), c.o); err != nil {
					t.Fatal(err)
				}
				only(t, path, text, c.mode)
			}
		})
	}
}

func TestFolders(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "f")
	if err := Write(path, []byte("x"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a folder that is not there: %v", err)
	}
	alone(t, dir, 0)
	if err := Write(path, []byte("x"), Options{DirMode: 0o700}); err != nil {
		t.Fatal(err)
	}
	only(t, path, "x", 0o600)
	if st, err := os.Stat(filepath.Dir(path)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v (%v), want 0700", st.Mode(), err)
	}
}

// A writer that fails half way leaves what was there.
func TestKeptOnFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	broken := errors.New("the transfer broke off")
	half := func(w io.Writer) error {
		_, err := io.WriteString(w, "half of i")
		return errors.Join(err, broken)
	}
	if err := Fill(path, Options{}, half); !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
	alone(t, filepath.Dir(path), 0)
	if err := Write(path, []byte("old"), Options{}); err != nil {
		t.Fatal(err)
	}
	if err := Fill(path, Options{}, half); !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
	only(t, path, "old", 0o600)
}

// What cannot be renamed leaves nothing: the place is a folder that is not empty.
func TestNoPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "f", "in it"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "f"), []byte("x"), Options{}); err == nil {
		t.Fatal("a folder was replaced by a file")
	}
	alone(t, dir, 1)
	alone(t, filepath.Join(dir, "f"), 1)
}

func TestNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := Write(path, []byte("mine"), Options{New: true, Sync: true}); err != nil {
		t.Fatal(err)
	}
	only(t, path, "mine", 0o600)
	if err := Write(path, []byte("yours"), Options{New: true, Sync: true}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a second new file: %v", err)
	}
	only(t, path, "mine", 0o600)
}

// A file named by what it holds; another program may have written it.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	f, err := Begin(dir, Options{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(f.Name()), os.WriteFile(f.Name(), []byte("built"), 0o600)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "by-digest")
	if err := f.Commit(path); err != nil {
		t.Fatal(err)
	}
	f.Discard() // after Commit it does nothing
	only(t, path, "built", 0o755)

	f, err = Begin(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f.Discard()
	only(t, path, "built", 0o755)
}

// Whoever reads while others write finds one whole file or another.
func TestReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	texts := []string{strings.Repeat("a", 100_000), strings.Repeat("b", 70_000)}
	if err := Write(path, []byte(texts[0]), Options{}); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for _, text := range texts {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for range 100 {
				if err := Write(path, []byte(text), Options{}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for range 200 {
		got, err := os.ReadFile(path)
		if err != nil || (string(got) != texts[0] && string(got) != texts[1]) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	writers.Wait()
	alone(t, filepath.Dir(path), 1)
}
