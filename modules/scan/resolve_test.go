package scan

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
)

// resolver has no engine: what it refuses, it refuses before a step runs.
func resolver(t *testing.T, setting string) Resolver {
	t.Helper()
	return Resolver{Setting: setting, Place: "mirrors.yaml:3", CacheDir: t.TempDir()}
}

// store lists what a resolver keeps, its lock aside.
func store(t *testing.T, r Resolver) []string {
	t.Helper()
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.Name() != ".lock" {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	const checksum = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	answers := map[string]string{
		"/ok/latest.json":     `{"schemaVersion":"v6.1.0","path":"a.tar.gz","checksum":"` + checksum + `"}`,
		"/ok/a.tar.gz":        "other bytes",
		"/garbage.json":       "<html>",
		"/v5/latest.json":     `{"schemaVersion":"5.0.0","path":"a","checksum":"` + checksum + `"}`,
		"/out/latest.json":    `{"schemaVersion":"v6.1.0","path":"../../a","checksum":"` + checksum + `"}`,
		"/nosum/latest.json":  `{"schemaVersion":"v6.1.0","path":"a","checksum":"md5:1"}`,
		"/absent/latest.json": `{"schemaVersion":"v6.1.0","path":"b.tar.gz","checksum":"` + checksum + `"}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		if r.URL.Path == "/401" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct {
		setting, want string
		exit          int
	}{
		"wrong checksum":  {server.URL + "/ok/latest.json", "latest.json says", artifact.ExitFault},
		"not JSON":        {server.URL + "/garbage.json", "no latest.json", artifact.ExitUsage},
		"another schema":  {server.URL + "/v5/latest.json", "want v6", artifact.ExitUsage},
		"path leads out":  {server.URL + "/out/latest.json", "does not lead", artifact.ExitUsage},
		"no checksum":     {server.URL + "/nosum/latest.json", "not a sha256", artifact.ExitUsage},
		"archive absent":  {server.URL + "/absent/latest.json", "404", artifact.ExitFault},
		"latest absent":   {server.URL + "/none/latest.json", "404", artifact.ExitFault},
		"not allowed":     {server.URL + "/401", "401", artifact.ExitFault},
		"nobody listens":  {gone.URL + "/latest.json", "refused", artifact.ExitFault},
		"no host":         {"http:///latest.json", "not a URL", artifact.ExitUsage},
		"no file":         {"/nowhere/vulnerability.db", "there is no file", artifact.ExitUsage},
		"none to be had":  {"auto", "none is configured", artifact.ExitUsage},
		"none configured": {"", "none is configured", artifact.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := resolver(t, c.setting)
			_, err := r.Resolve(t.Context(), "debian 12", nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || artifact.ExitCode(err) != c.exit || len(artifact.Remedies(err)) == 0 {
				t.Errorf("exit %d, error %v, remedies %v", artifact.ExitCode(err), err, artifact.Remedies(err))
			}
			if left := store(t, r); len(left) != 0 {
				t.Errorf("left behind %v", left)
			}
		})
	}
}

func TestResolveIsInterrupted(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer server.Close()
	defer close(hang)
	ctx, cancel := context.WithCancelCause(t.Context())
	go cancel(artifact.ErrInterrupted)
	_, err := resolver(t, server.URL+"/latest.json").Resolve(ctx, "", nil)
	if !errors.Is(err, artifact.ErrInterrupted) {
		t.Errorf("error %v", err)
	}
}

func TestCredentialsAreNotShown(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	setting := strings.Replace(server.URL, "http://", "http://user:geheim@", 1) + "/latest.json"
	_, err := resolver(t, setting).Resolve(t.Context(), "", nil)
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("error %v", err)
	}
}

func TestCorruptStoreIsNoDatabase(t *testing.T) {
	t.Parallel()
	r := resolver(t, "")
	for name, body := range map[string]string{"empty": "", "garbage": "{", "newer": `{"version":99}`, "no file": `{"version":1}`} {
		dir := filepath.Join(r.dir(), name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, wire.DatabaseFile), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.stored(name, SourceMirror); ok {
			t.Errorf("%s counts as a database", name)
		}
	}
}

// TestPinned: a lock's database is taken from what is kept, nothing is asked;
// another one is refused.
func TestPinned(t *testing.T) {
	t.Parallel()
	const pinned = artifact.Digest("sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	r := resolver(t, "http://127.0.0.1:1/latest.json")
	dir := filepath.Join(r.dir(), "kept")
	description := `{"version":1,"digest":"` + string(pinned) + `","schema":"v6.1.0"}`
	if err := errors.Join(
		os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, databaseName), []byte("x"), 0o644),
		os.WriteFile(filepath.Join(dir, wire.DatabaseFile), []byte(description), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	r.Pinned = pinned
	if db, err := r.Resolve(t.Context(), "", nil); err != nil || db.Dir != dir || db.Database.Source != SourceMirror {
		t.Errorf("%+v, %v", db, err)
	}
	// What is there now is another one.
	cache := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(cache, "6"), 0o755), os.WriteFile(filepath.Join(cache, "6", databaseName), []byte("y"), 0o644)); err != nil {
		t.Fatal(err)
	}
	other := resolver(t, "auto")
	other.GrypeCache, other.Pinned = cache, pinned
	if _, err := other.Resolve(t.Context(), "", nil); err == nil || !strings.Contains(err.Error(), RuleLocked) || artifact.ExitCode(err) != artifact.ExitFault {
		t.Errorf("%v", err)
	}
}
