package line

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/engine"
	"drydock/modules/mirror"
	"drydock/modules/mirror/lockfile"
	"drydock/pipeline/plan"
)

// filesLine is a line whose mirrors are one server: of files, and of Go modules.
func filesLine(t *testing.T) *Line {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a.txt", "/example.com/x/@v/v1.0.0.mod":
			_, _ = fmt.Fprintf(w, "this is %s", r.URL.Path)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	l := shipped(t, nil)
	l.mirrors = share(func() (*mirror.Set, error) {
		home := t.TempDir()
		return mirror.Discover(t.Context(), mirror.Config{
			Go: mirror.Setting{URLs: []string{server.URL}},
			Files: []mirror.FileMirror{{Prefix: "https://files.example/", URLs: []string{server.URL + "/"}, SHA256: map[string]string{
				"a.txt": digestOf("this is /a.txt")[7:], "b.txt": digestOf("b")[7:],
			}}},
		}, mirror.Host{Environ: []string{"HOME=" + home}, Home: home, EtcApt: home}, l.cfg.Cache)
	})
	return l
}

func digestOf(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// What ADD takes from an address comes by the gateway, and is a material.
func TestFetchedForAnotherEngine(t *testing.T) {
	l := filesLine(t)
	o := &order{node: plan.Node{ID: "build/x@linux/amd64"}}
	to := filepath.Join(t.TempDir(), "a.txt")
	add := dockerfile.Added{Place: "Dockerfile:3", URL: "https://files.example/a.txt", Name: "a.txt", Checksum: digestOf("this is /a.txt")}
	if err := l.throughGateway(t.Context(), o, add, to); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(to); err != nil || string(text) != "this is /a.txt" {
		t.Errorf("got %q, %v", text, err)
	}
	if len(o.fetched) != 1 || string(o.fetched[0].Digest) != add.Checksum || o.fetched[0].Ecosystem != mirror.Files {
		t.Errorf("materials %+v", o.fetched)
	}
	for name, c := range map[string]struct {
		url, checksum, want string
		exit                int
	}{
		"another checksum": {add.URL, digestOf("x"), "digest mismatch", artifact.ExitUsage},
		"no mirror":        {"https://elsewhere.example/a.txt", "", "drydock refused", artifact.ExitUsage},
		"not there":        {"https://files.example/b.txt", "", "answered 404", artifact.ExitFault},
	} {
		err := l.throughGateway(t.Context(), o, dockerfile.Added{Place: "Dockerfile:3", URL: c.url, Checksum: c.checksum}, filepath.Join(t.TempDir(), "f"))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "Dockerfile:3") || artifact.ExitCode(err) != c.exit {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A lock of files that clients read from a folder is brought along, and the
// network is cut.
func TestSealed(t *testing.T) {
	l := filesLine(t)
	parse := func(text string) *dockerfile.File {
		t.Helper()
		f, err := dockerfile.Parse("Dockerfile", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const text = "FROM full\nRUN go mod download\n"
	platform := artifact.Platform{OS: "linux", Architecture: "amd64"}
	u := &underLock{key: "k", file: "locks/x.json", lock: &lockfile.Lock{Version: 1, Image: "x", Materials: []lockfile.Material{{
		Ecosystem: mirror.Go, Path: "example.com/x/@v/v1.0.0.mod", Size: 35,
		Digest: artifact.Digest(digestOf("this is /example.com/x/@v/v1.0.0.mod")),
	}}}}
	o := &order{
		node: plan.Node{ID: "build/x@linux/amd64", Platform: &platform}, engine: &engine.Engine{Kind: engine.KindDagger},
		img: &catalog.Image{Name: "x", DockerfilePath: "Dockerfile", Parsed: parse(text)}, text: []byte(text),
	}
	addresses, err := l.seal(t.Context(), o, u)
	if err != nil {
		t.Fatal(err)
	}
	if o.sealed != u || addresses["GOPROXY"] != "file:///run/drydock-mirror/go" || len(o.fetched) != 1 {
		t.Errorf("sealed %v, addresses %v, materials %+v", o.sealed == u, addresses, o.fetched)
	}
	line := strings.Split(string(o.text), "\n")[1]
	if !strings.HasPrefix(line, "RUN --mount=type=bind,from=") || !strings.Contains(line, "locked/x@sha256:") || !strings.Contains(line, " --network=none go mod download") {
		t.Errorf("the command is %q", line)
	}
	u.lock.Materials[0].Digest = artifact.Digest(digestOf("x"))
	if _, err := l.seal(t.Context(), o, u); err == nil || !strings.Contains(err.Error(), "locks/x.json") {
		t.Errorf("a file other than the lock's: %v", err)
	}
}

// Only a build that is held to its lock is sealed: another may go beyond it, as
// one may that needs what folders do not serve.
func TestSealable(t *testing.T) {
	for name, c := range map[string]struct {
		image  string
		change func(*Config)
		want   bool
	}{
		"locked":         {"redis", func(c *Config) { c.Locked = true }, true},
		"not held to it": {"redis", nil, false},
		"observed":       {"redis", func(c *Config) { c.Locked, c.Observe = true, true }, false},
		"npm's, too":     {"harbour", func(c *Config) { c.Locked = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := shipped(t, c.change)
			img, ok := l.cfg.Catalog.Image(c.image)
			if !ok {
				t.Fatalf("the catalog has no image %s", c.image)
			}
			u, err := l.sealable(&order{img: img})
			if err != nil || (u != nil) != c.want {
				t.Errorf("sealable: %v, %v", u != nil, err)
			}
		})
	}
}
