package conformance

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dagger.io/dagger"
	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

func TestMain(m *testing.M) {
	if handled, exit := engine.Child(os.Args); handled {
		os.Exit(exit)
	}
	code := m.Run()
	for _, e := range engines.all {
		if err := e.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "closing the engine:", err)
			code = 1
		}
	}
	if engines.dir != "" {
		if err := removeState(engines.dir); err != nil {
			fmt.Fprintln(os.Stderr, "removing the engine's state:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// removeState removes what the engine left, which without root belongs to
// subordinate ids; the engine itself ends a moment after its last connection.
func removeState(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := engine.Remove(ctx, dir)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// engines are started once for all tests.
var engines struct {
	once sync.Once
	all  map[string]*engine.Engine
	dir  string
	err  error
	log  bytes.Buffer

	images string // host:port of a registry on loopback
}

func startEngines() {
	engines.all = map[string]*engine.Engine{}
	engines.dir, engines.err = os.MkdirTemp("", "drydock-conformance-*")
	if engines.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	handler := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}})
	engines.images = strings.TrimPrefix(httptest.NewServer(handler).URL, "http://") // ends with the process
	embedded, err := engine.Connect(ctx, engine.Config{
		Kind: engine.KindEmbedded, CacheDir: engines.dir, Tier: os.Getenv("DRYDOCK_TEST_TIER"), Images: engines.images, Environ: os.Environ(), Log: &engines.log,
		LookupEnv: os.LookupEnv,
	})
	if err != nil {
		engines.err = err
		return
	}
	engines.all[engine.KindEmbedded] = embedded
	if os.Getenv("DAGGER_SESSION_PORT") == "" && os.Getenv("_EXPERIMENTAL_DAGGER_RUNNER_HOST") == "" {
		return
	}
	other, err := engine.Connect(ctx, engine.Config{Kind: engine.KindDagger, Images: engines.images, Environ: os.Environ()})
	if err != nil {
		engines.err = err
		return
	}
	engines.all[engine.KindDagger] = other
}

// each runs a test on every engine there is.
func each(t *testing.T, test func(*testing.T, *dagger.Client)) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs containers: left out by -short")
	}
	engines.once.Do(startEngines)
	if engines.err != nil {
		t.Fatalf("starting the engines: %v\n%s", engines.err, engines.log.String())
	}
	for _, kind := range []string{engine.KindEmbedded, engine.KindDagger} {
		if e := engines.all[kind]; e != nil {
			t.Run(kind, func(t *testing.T) { test(t, e.Client) })
		}
	}
}

// imageRef is how the engine under test spells an image of the registry.
func imageRef(t *testing.T, repository, digest string) string {
	t.Helper()
	kind := engine.KindDagger
	if isEmbedded(t) {
		kind = engine.KindEmbedded
	}
	return engines.all[kind].ImageRef(repository, artifact.Digest(digest))
}

// busyboxPath is a statically linked busybox of this host, or why there is none.
func busyboxPath() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("no busybox on this host: install the package busybox-static")
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		return "", fmt.Errorf("the busybox of this host is not statically linked: install the package busybox-static")
	}
	return path, nil
}

// busybox is a container with a small root of static busybox.
func busybox(t *testing.T, c *dagger.Client) *dagger.Container {
	t.Helper()
	path, err := busyboxPath()
	if err != nil {
		t.Skip(err)
	}
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"bin", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "bin/busybox"), string(program), 0o755)
	for _, name := range strings.Fields("sh cat echo ls mkdir rm sleep stat id env pwd printf test wc touch cp ln chmod head seq sha256sum " +
		"httpd nc nslookup wget base64 hostname grep kill true false") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0:root:/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\nstaff:x:1001:\n", 0o644)
	return c.Container().WithRootfs(c.Host().Directory(root))
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// within gives a context that ends with the test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
