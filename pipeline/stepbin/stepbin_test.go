package stepbin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
)

func write(t *testing.T, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tree is a module like ours, small.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "go.mod"), "module drydock\n\ngo 1.26\n")
	write(t, filepath.Join(root, "go.sum"), "")
	write(t, filepath.Join(root, "pipeline/step/main.go"), "package main\n\nimport \"drydock/modules/a\"\n\nfunc main() { println(a.A) }\n")
	write(t, filepath.Join(root, "modules/a/a.go"), "package a\n\nconst A = 1\n")
	write(t, filepath.Join(root, "modules/b/b.go"), "package b\n")
	return root
}

func TestSourceKey(t *testing.T) {
	t.Parallel()
	root := tree(t)
	key := func(arch string) string {
		k, err := sourceKey(root, arch)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key("amd64")
	write(t, filepath.Join(root, "modules/b/b.go"), "package b // not linked\n")
	write(t, filepath.Join(root, "modules/a/a_test.go"), "package a\n")
	if key("amd64") != first {
		t.Error("what is not linked changed the key")
	}
	if key("arm64") == first {
		t.Error("the architecture does not change the key")
	}
	write(t, filepath.Join(root, "modules/a/a.go"), "package a\n\nconst A = 2\n")
	second := key("amd64")
	if second == first {
		t.Error("a changed dependency does not change the key")
	}
	write(t, filepath.Join(root, "go.sum"), "x v1 h1:y\n")
	if key("amd64") == second {
		t.Error("go.sum does not change the key")
	}
}

func TestOwnKeyIsQuick(t *testing.T) {
	t.Parallel()
	root, err := source(Options{Dir: "."})
	if err != nil {
		t.Skip("the source is not here: " + err.Error())
	}
	start := time.Now()
	if _, err := sourceKey(root, "amd64"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("the key took %s", d)
	}
}

func TestBesideTheProgram(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the test program is no Linux program")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, Name)); err != nil {
		t.Fatal(err)
	}
	got, err := Find(t.Context(), Options{Executable: filepath.Join(dir, "drydock"), Cache: t.TempDir()})
	if err != nil || got != filepath.Join(dir, Name) {
		t.Errorf("found %q, %v", got, err)
	}
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	if fits(filepath.Join(dir, Name), other) {
		t.Error("a program for another architecture fits")
	}
}

func TestBuildOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: runs the compiler")
	}
	root, cache := tree(t), t.TempDir()
	built := filepath.Join(cache, "step", "k", Name)
	said := 0
	o := Options{Arch: runtime.GOARCH, Environ: os.Environ(), Cache: cache, Progress: func(string) { said++ }}
	if err := build(t.Context(), o, root, built); err != nil {
		t.Fatal(err)
	}
	if !fits(built, runtime.GOARCH) || said != 1 {
		t.Errorf("fits %v, said %d", fits(built, runtime.GOARCH), said)
	}
	left, _ := os.ReadDir(filepath.Dir(built))
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	t.Run("no go command", func(t *testing.T) {
		t.Parallel()
		err := build(t.Context(), Options{Environ: []string{"PATH=" + t.TempDir()}}, tree(t), filepath.Join(t.TempDir(), "x", Name))
		if artifact.ExitCode(err) != artifact.ExitUsage || len(artifact.Remedies(err)) == 0 {
			t.Errorf("error %v", err)
		}
	})
	t.Run("source does not compile", func(t *testing.T) {
		t.Parallel()
		root := tree(t)
		write(t, filepath.Join(root, "modules/a/a.go"), "package a\n\nvar A = nothing\n")
		built := filepath.Join(t.TempDir(), "x", Name)
		err := build(t.Context(), Options{Arch: runtime.GOARCH, Environ: os.Environ()}, root, built)
		if artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "nothing") {
			t.Errorf("error %v", err)
		}
		if _, err := os.Stat(built); err == nil {
			t.Error("a program was left")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(artifact.ErrInterrupted)
		err := build(ctx, Options{Arch: runtime.GOARCH, Environ: os.Environ()}, tree(t), filepath.Join(t.TempDir(), "x", Name))
		if !errors.Is(err, artifact.ErrInterrupted) {
			t.Errorf("error %v", err)
		}
	})
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, name := range []string{"a", "b", "c", "d", "current"} {
		write(t, filepath.Join(dir, name, Name), name)
		at := time.Unix(int64(1000*i), 0)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	prune(dir, "current")
	var left []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if strings.Join(left, " ") != "c current d" {
		t.Errorf("left %v", left)
	}
}
