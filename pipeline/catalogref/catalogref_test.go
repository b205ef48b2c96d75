package catalogref

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"drydock/modules/artifact"
)

func TestParse(t *testing.T) {
	commit, digest := strings.Repeat("a1", 20), "sha256:"+strings.Repeat("b", 64)
	for spec, want := range map[string]Ref{
		"catalog":                          {Dir: "catalog"},
		"../ops/catalog":                   {Dir: "../ops/catalog"},
		"https://h.test/ops.git@" + commit: {Git: "https://h.test/ops.git", Commit: commit},
		"git+https://h.test/ops@" + commit + ":a/b": {Git: "https://h.test/ops", Commit: commit, Folder: "a/b"},
		"ssh://git@h.test/ops@" + commit:            {Git: "ssh://git@h.test/ops", Commit: commit},
		"git@h.test:ops/c.git@" + commit:            {Git: "git@h.test:ops/c.git", Commit: commit},
		"h.test:5000/ops/catalog@" + digest:         {OCI: "h.test:5000/ops/catalog", Digest: artifact.Digest(digest)},
		"oci:h.test/ops/catalog:v1@" + digest:       {OCI: "h.test/ops/catalog", Digest: artifact.Digest(digest)},
	} {
		if got, err := Parse(spec, ""); got != want || err != nil {
			t.Errorf("%s: %+v %v", spec, got, err)
		}
	}
	for spec, want := range map[string]string{
		"https://h.test/ops.git@main":              `"main" is no commit`,
		"https://h.test/ops.git@a1a1a1a":           "is no commit",
		"https://h.test/ops.git":                   "without a commit",
		"ssh://git@h.test/ops":                     "without a commit",
		"https://me:word@h.test/ops.git@" + commit: "credentials",
		"https://h.test/ops@" + commit + ":../x":   "is no folder",
		"oci:h.test/ops/catalog:v1":                "without a digest",
		"h.test/ops/catalog@sha256:12":             "not a digest",
		"catalog@" + digest:                        "registry is missing",
		"":                                         "no catalog is named",
	} {
		_, err := Parse(spec, "drydock.yaml:2")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "drydock.yaml:2") || len(artifact.Remedies(err)) == 0 {
			t.Errorf("%s: %v", spec, err)
		}
		if err != nil && strings.Contains(err.Error()+strings.Join(artifact.Remedies(err), ""), "word") {
			t.Error("shows a password:", err)
		}
	}
}

// repository makes a git repository with a catalog in folder and returns its
// URL and the commit.
func repository(t *testing.T, folder string) (url, commit string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"mirrors.yaml": "version: 1\n", "bases/locks/a.json": "{}", "README.md": "text\r\nmore\n"} {
		file := filepath.Join(dir, folder, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull, "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t.test", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t.test")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet", "--initial-branch=main")
	git("add", "--all")
	git("commit", "--quiet", "--message=one")
	commit = git("rev-parse", "HEAD")
	if err := os.WriteFile(filepath.Join(dir, folder, "mirrors.yaml"), []byte("version: 1\n# later\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	git("commit", "--quiet", "--all", "--message=two")
	return "file://" + dir, commit
}

func TestGit(t *testing.T) {
	for _, folder := range []string{"", "catalog", "ops/it"} {
		url, commit := repository(t, folder)
		named := ""
		if folder == "ops/it" {
			named = folder
		}
		o := Options{Cache: t.TempDir(), Environ: os.Environ()}
		r := Ref{Git: url, Commit: commit, Folder: named}
		dir, err := Open(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "mirrors.yaml"))
		if err != nil || string(text) != "version: 1\n" {
			t.Fatalf("%q %v: not as that commit has it", text, err)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, "README.md")); string(text) != "text\r\nmore\n" {
			t.Errorf("%q: not the bytes of the commit", text)
		}
		// Whatever happens to the cache, what is used is the commit.
		if err := os.WriteFile(filepath.Join(dir, "mirrors.yaml"), []byte("version: 1\n# poisoned\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "more.yaml"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		o.Offline = true
		if dir, err = Open(t.Context(), r, o); err != nil {
			t.Fatal("from the cache alone:", err)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, "mirrors.yaml")); string(text) != "version: 1\n" {
			t.Errorf("a poisoned copy was used: %q", text)
		}
		if _, err := os.Stat(filepath.Join(dir, "more.yaml")); err == nil {
			t.Error("a file that is not in the commit was left there")
		}
		poisonObjects(t, o.Cache)
		if _, err := Open(t.Context(), r, o); artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "not in the cache") {
			t.Error("poisoned objects:", err)
		}
		o.Offline = false
		if dir, err = Open(t.Context(), r, o); err != nil {
			t.Fatal("fetched again:", err)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, "mirrors.yaml")); string(text) != "version: 1\n" {
			t.Errorf("%q", text)
		}
	}
}

func poisonObjects(t *testing.T, cache string) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(cache, "catalogs", "git", "*"))
	if len(files) < 4 {
		t.Fatal("no objects kept", files)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, append(raw, ' '), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGitRefuses(t *testing.T) {
	url, commit := repository(t, "elsewhere")
	o := Options{Cache: t.TempDir(), Environ: os.Environ()}
	for want, r := range map[string]Ref{
		"has no commit":      {Git: url, Commit: strings.Repeat("0", 39) + "1"},
		"there is no folder": {Git: url, Commit: commit},
		"no folder nope":     {Git: url, Commit: commit, Folder: "nope"},
		"fetching catalog":   {Git: "file:///nowhere/at/all", Commit: commit},
	} {
		if _, err := Open(t.Context(), r, o); err == nil || !strings.Contains(err.Error(), want) || len(artifact.Remedies(err)) == 0 {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestOCI(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	push := func(name string, gz bool, entries ...*tar.Header) Ref {
		t.Helper()
		var raw bytes.Buffer
		w := tar.NewWriter(&raw)
		for _, h := range entries {
			h.Size = int64(len("version: 1\n"))
			if h.Typeflag != tar.TypeReg {
				h.Size = 0
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				_, _ = w.Write([]byte("version: 1\n"))
			}
		}
		_ = w.Close()
		data, mt := raw.Bytes(), types.OCIUncompressedLayer
		if gz {
			var z bytes.Buffer
			g := gzip.NewWriter(&z)
			_, _ = g.Write(data)
			_ = g.Close()
			data, mt = z.Bytes(), types.OCILayer
		}
		img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(data, mt))
		if err != nil {
			t.Fatal(err)
		}
		ref := strings.TrimPrefix(s.URL, "http://") + "/ops/" + name
		if err := crane.Push(img, ref+":v1"); err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		r, err := Parse(ref+"@"+d.String(), "")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	file := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	o := Options{Cache: t.TempDir(), Environ: []string{"HOME=" + t.TempDir()}}
	for _, gz := range []bool{false, true} {
		r := push("catalog", gz, &tar.Header{Name: "./", Typeflag: tar.TypeDir}, file("./mirrors.yaml"), file("./bases/a.yaml"))
		dir, err := Open(t.Context(), r, o)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := os.ReadFile(filepath.Join(dir, "bases", "a.yaml")); string(text) != "version: 1\n" {
			t.Errorf("%q", text)
		}
		off := o
		off.Offline = true
		if _, err := Open(t.Context(), r, off); err != nil {
			t.Error("from the cache alone:", err)
		}
	}
	for want, r := range map[string]Ref{
		"neither a file nor a folder": push("link", false, file("mirrors.yaml"), &tar.Header{Name: "x", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"there is no mirrors.yaml":    push("other", false, file("stages.yaml")),
		"neither a file nor":          push("out", false, file("../mirrors.yaml")),
	} {
		if _, err := Open(t.Context(), r, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	gone := Ref{OCI: strings.TrimPrefix(s.URL, "http://") + "/ops/catalog", Digest: artifact.Digest("sha256:" + strings.Repeat("0", 64))}
	if _, err := Open(t.Context(), gone, o); err == nil {
		t.Error("a digest that is not there")
	}
	o.Offline = true
	if _, err := Open(context.Background(), gone, o); err == nil || !strings.Contains(err.Error(), "--offline") {
		t.Error(err)
	}
}
