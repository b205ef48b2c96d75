package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"drydock/modules/steprun/steptest"
	"drydock/pipeline/stepbin"
)

// keepCache names a directory to use as the shared cache and to leave where it
// is, for whoever works on these tests.
const keepCache = "DRYDOCK_TEST_CACHE"

// dock is what tests that build share: a cache, and the step program beside
// the program under test.
type dock struct {
	root    string // removed when all tests have run
	cache   string
	program string // drydock
	leave   []func() error
}

// theDock is made by the first test that wants it. Tests that run in parallel
// share its engine; those that harm or measure something do not.
var theDock struct {
	once sync.Once
	dock *dock
	err  error
}

// openDock gives the shared cache, or skips in words where nothing can be built.
func openDock(t *testing.T) *dock {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: builds images")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the embedded engine runs on Linux only")
	}
	theDock.once.Do(func() { theDock.dock, theDock.err = makeDock(t) })
	if theDock.err != nil {
		t.Fatal(theDock.err)
	}
	return theDock.dock
}

func makeDock(t *testing.T) (*dock, error) {
	program, err := exec.LookPath("drydock")
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "drydock-e2e-")
	if err != nil {
		return nil, err
	}
	d := &dock{root: root, cache: filepath.Join(root, "cache"), program: program}
	if dir := os.Getenv(keepCache); dir != "" {
		d.cache = dir
	}
	if err := os.MkdirAll(d.cache, 0o700); err != nil {
		return nil, err
	}
	step, err := stepbin.Find(t.Context(), stepbin.Options{Cache: d.cache, Environ: os.Environ()})
	if err != nil {
		return nil, err
	}
	// Beside the program, where every run finds it whatever its cache.
	return d, copyFile(step, filepath.Join(filepath.Dir(program), stepbin.Name), 0o755)
}

// leaveDock removes the shared cache.
func leaveDock() {
	d := theDock.dock
	if d == nil {
		return
	}
	for _, f := range d.leave {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if os.Getenv(keepCache) == "" {
		if err := steptest.RemoveState(d.cache); err != nil {
			fmt.Fprintln(os.Stderr, "removing the shared engine's state:", err)
		}
	}
	if err := os.RemoveAll(d.root); err != nil {
		fmt.Fprintln(os.Stderr, "removing the shared cache:", err)
	}
}

// warm gives a cache that a script keeps to itself some of what the shared one
// has, so that mirrors are not asked for the same megabytes again: warm DIR PART...
func (d *dock) warm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: warm DIR PART...")
	}
	for _, part := range args[1:] {
		ts.Check(takeState(filepath.Join(d.cache, part), filepath.Join(ts.MkAbs(args[0]), part), linkBlob))
	}
}

// copyState copies files of a cache, which other processes may be writing:
// they write beside and rename.
func copyState(from, dir string) error { return takeState(from, dir, copyFile) }

// linkBlob links what is written once and named by its digest, where it can, and
// copies other files.
func linkBlob(from, to string, mode os.FileMode) error {
	if strings.Contains(from, "/sha256/") && os.Link(from, to) == nil {
		return nil
	}
	return copyFile(from, to, mode)
}

func takeState(from, dir string, take func(from, to string, mode os.FileMode) error) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return absent(err)
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		if e.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			return absent(err)
		}
		if err := take(path, to, info.Mode().Perm()); err != nil {
			return absent(err)
		}
		return os.Chtimes(to, info.ModTime(), info.ModTime())
	})
}

// absent is no error of a file that was gone before it was read.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// gitEnviron makes git work the same whoever runs it.
var gitEnviron = []string{
	"GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_SYSTEM=" + os.DevNull,
	"GIT_AUTHOR_NAME=test", "GIT_AUTHOR_EMAIL=test@drydock.invalid",
	"GIT_COMMITTER_NAME=test", "GIT_COMMITTER_EMAIL=test@drydock.invalid",
}

// clientEnviron is the ordinary client configuration of whoever runs the tests,
// as variables: scripts have a home of their own.
func clientEnviron(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, name := range []string{
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "npm_config_registry",
	} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	if home, err := os.UserHomeDir(); err == nil && os.Getenv("NETRC") == "" {
		if file := filepath.Join(home, ".netrc"); exists(file) {
			out = append(out, "NETRC="+file)
		}
	}
	names := []string{"GOPROXY", "GOMODCACHE", "GOCACHE", "GOFLAGS", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE"}
	raw, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	for i, v := range strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n") {
		if v != "" {
			out = append(out, names[i]+"="+v)
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func copyFile(from, to string, mode os.FileMode) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, mode)
}

// copyCatalog copies the shipped catalog's data to dir, which may have files
// of its own; with its images or without.
func copyCatalog(dir string, images bool) error {
	from := filepath.Join("..", "catalog")
	return filepath.Walk(from, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		switch {
		case info.IsDir() && (rel == "images" || rel == "locks") && !images:
			return filepath.SkipDir
		case info.IsDir():
			return os.MkdirAll(to, 0o755)
		case strings.HasSuffix(rel, ".go") || rel == "testdata" || exists(to):
			return nil
		}
		return copyFile(path, to, 0o644)
	})
}

// commitAll makes dir a repository whose work tree is clean.
func commitAll(dir string) error {
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "--all"}, {"commit", "--quiet", "--allow-empty", "--message=state"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), gitEnviron...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}
