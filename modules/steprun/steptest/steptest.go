// Package steptest gives tests of the rooms above an engine and the step
// program, built from this source.
package steptest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"drydock/modules/engine"
)

// Main is TestMain of a package that uses Engine: the test program is
// re-executed as the engine.
func Main(m *testing.M) int {
	if handled, exit := engine.Child(os.Args); handled {
		return exit
	}
	return m.Run()
}

// Binary is the path of the step program for this host's architecture. It is
// built on first use and kept in the user's cache, where the go command sees
// that it is up to date.
func Binary(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: builds the step program")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the step program runs on Linux only")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache directory to build the step program in: " + err.Error())
	}
	dir := filepath.Join(cache, "drydock-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(filepath.Join(dir, ".lock"))
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Unlock() }()
	built := filepath.Join(dir, "drydock-step")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", built, "drydock/pipeline/step")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the step program: %v\n%s", err, out)
	}
	// A copy: another checkout's tests may build theirs while ours run.
	own := filepath.Join(t.TempDir(), "drydock-step")
	raw, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	return own
}

// Engine is an embedded engine with state of its own, closed when the test
// ends; the test skips where none can run.
func Engine(t testing.TB) *engine.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	e, err := engine.Connect(ctx, engine.Config{Kind: engine.KindEmbedded, CacheDir: dir})
	if err != nil {
		t.Skip("no engine runs here: " + err.Error())
	}
	t.Cleanup(func() {
		_ = e.Close()
		// without root, what steps made belongs to subordinate ids
		if err := RemoveState(dir); err != nil {
			t.Error(err)
		}
	})
	return e
}

// RemoveState removes the state of an engine that is about to end, also what
// belongs to subordinate ids. The rest of the cache directory is left.
func RemoveState(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := engine.Remove(ctx, dir)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
