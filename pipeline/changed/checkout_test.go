package changed

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

// TestCheckout: the files of a commit, whatever the work tree has, under any
// umask, and neither the work tree nor the index is touched.
func TestCheckout(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	first := r.git("rev-parse", "HEAD")
	if err := os.Chmod(filepath.Join(r.dir, "cat/images/one/x.conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("cat/images/one/src/a.txt", "b\n")
	r.commit()
	second := r.git("rev-parse", "HEAD")
	r.write("cat/images/one/src/a.txt", "not committed\n")
	before := r.git("status", "--porcelain")
	req := Request{CatalogDir: filepath.Join(r.dir, "cat"), Environ: r.env}
	for commit, want := range map[string]struct {
		text string
		mode fs.FileMode
	}{first: {"a\n", 0o644}, second: {"b\n", 0o755}} {
		dir, err := Checkout(t.Context(), req, commit, "", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "images/one/src/a.txt")); err != nil || string(raw) != want.text {
			t.Errorf("%s: %q, %v", commit, raw, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "images/one/x.conf")); err != nil || info.Mode() != want.mode {
			t.Errorf("%s: %v, %v", commit, info, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "..", "main.go")); err != nil {
			t.Errorf("what is beside the catalog is not there: %v", err)
		}
	}
	if after := r.git("status", "--porcelain"); after != before {
		t.Errorf("the work tree was %q, is %q", before, after)
	}
	for want, call := range map[string]struct{ commit, folder string }{
		"does not have it":        {strings.Repeat("a", 40), ""},
		"has no folder elsewhere": {first, "elsewhere"},
		"no folder ../":           {first, "../../.."},
	} {
		_, err := Checkout(t.Context(), req, call.commit, call.folder, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), want) || artifact.ExitCode(err) != artifact.ExitUsage {
			t.Errorf("%v: %v, want %q", call, err, want)
		}
	}
}
