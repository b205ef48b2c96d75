package image

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/steprun/steptest"
	"drydock/modules/steprun/wire"
)

func TestMain(m *testing.M) { os.Exit(steptest.Main(m)) }

// native is what the engine here executes.
func native() artifact.Platform { return artifact.Platform{OS: "linux", Architecture: runtime.GOARCH} }

func source(t *testing.T, at time.Time, extra map[string]string) Source {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"a/one": "1", "a/two": "2", "README": "read", "Dockerfile": "FROM nothing"}
	for k, v := range extra {
		files[k] = v
	}
	for name, body := range files {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(body), 0o644), os.Chtimes(p, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	return Source{
		Name: "image-test", ContextDir: dir, Ignore: []string{"**/*.log", ".git", "!keep.log"}, Platform: native(), Epoch: 1763600000,
		Dockerfile: []byte("FROM scratch\nARG GREETING=none\nLABEL greeting=$GREETING\nCOPY . /src/\nUSER 1000\n"),
		Args:       map[string]string{"GREETING": "hello"},
	}
}

// names are the files of an archive's last layer.
func names(t *testing.T, archive string, layer wire.Layer) []string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("layer %s: %v", layer.Digest, err)
		}
		if h.Name != "blobs/sha256/"+layer.Digest.Hex() {
			continue
		}
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for l := tar.NewReader(z); ; {
			h, err := l.Next()
			if errors.Is(err, io.EOF) {
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, h.Name)
		}
	}
}

func TestBuildIsReproducible(t *testing.T) {
	t.Parallel()
	step := steptest.Binary(t)
	first := steptest.Engine(t)
	a, err := Build(t.Context(), first.Client, step, source(t, time.Now(), nil))
	if err != nil {
		t.Fatal(err)
	}
	if a.Platform != native() || a.Config.User != "1000" || a.Config.Labels["greeting"] != "hello" || len(a.Layers) != 1 {
		t.Errorf("built %+v", a.Image)
	}
	archive := filepath.Join(t.TempDir(), "a.tar")
	if err := a.Export(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	got := names(t, archive, a.Layers[0])
	if want := []string{"src/", "src/Dockerfile", "src/README", "src/a/", "src/a/one", "src/a/two"}; !slices.Equal(got, want) {
		t.Errorf("the image holds %v, want %v", got, want)
	}
	layout := filepath.Join(t.TempDir(), "layout")
	if out, err := Assemble(layout, []Part{{native(), archive, a.Manifest}}); err != nil || out.Digest != a.Manifest {
		t.Errorf("assembled %+v, %v", out, err)
	}
	// Another engine, other times, and files that .dockerignore names.
	second := steptest.Engine(t)
	b, err := Build(t.Context(), second.Client, step, source(t, time.Unix(1e9, 0), map[string]string{"x.log": "noise", ".git/HEAD": "ref"}))
	if err != nil {
		t.Fatal(err)
	}
	if a.Manifest != b.Manifest {
		t.Errorf("manifests %s and %s", a.Manifest, b.Manifest)
	}
	changed, err := Build(t.Context(), second.Client, step, source(t, time.Now(), map[string]string{"a/one": "other"}))
	if err != nil {
		t.Fatal(err)
	}
	if changed.Manifest == a.Manifest {
		t.Error("other content has the same digest")
	}
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	step := steptest.Binary(t)
	e := steptest.Engine(t)
	for name, c := range map[string]struct {
		change func(*Source)
		want   string
	}{
		"no such file":   {func(s *Source) { s.Dockerfile = []byte("FROM scratch\nCOPY nothing /\n") }, "nothing"},
		"no such target": {func(s *Source) { s.Target = "nowhere" }, "nowhere"},
		"bad Dockerfile": {func(s *Source) { s.Dockerfile = []byte("FORM scratch\n") }, "FORM"},
	} {
		t.Run(name, func(t *testing.T) {
			s := source(t, time.Now(), nil)
			c.change(&s)
			_, err := Build(t.Context(), e.Client, step, s)
			if err == nil || !strings.Contains(err.Error(), c.want) || artifact.ExitCode(err) == artifact.ExitInternal {
				t.Errorf("exit %d: %v", artifact.ExitCode(err), err)
			}
		})
	}
}
