package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"drydock/modules/artifact"
)

// openEmbedded opens a fresh folder, or the one given.
func openEmbedded(t *testing.T, dir ...string) *Embedded {
	t.Helper()
	if dir == nil {
		dir = []string{t.TempDir()}
	}
	e, err := Open(t.Context(), dir[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openRepo(t *testing.T, c *Client, l Location, path string) *Repo {
	t.Helper()
	r, err := c.Repo(l, path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// embeddedRepo is a repository in a fresh embedded registry.
func embeddedRepo(t *testing.T, stage, path string) *Repo {
	t.Helper()
	e := openEmbedded(t)
	return openRepo(t, newClient(t, Options{Embedded: e}), Location{Name: stage}, path)
}

// serveStage is a plain distribution registry on a loopback port, wrapped.
func serveStage(t *testing.T, wrap func(http.Handler) http.Handler) (*httptest.Server, Location) {
	t.Helper()
	var h http.Handler = newStage(t.TempDir())
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv, Location{Name: "remote", Base: srv.Listener.Addr().String() + "/team"}
}

// countWrites counts requests that change something.
func countWrites(n *atomic.Int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				n.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	}
}

// imageLayout writes a layout with a two-platform index and returns its digest.
func imageLayout(t *testing.T) (dir string, d artifact.Digest, index v1.ImageIndex) {
	t.Helper()
	index = mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := random.Image(4096, 2)
		if err != nil {
			t.Fatal(err)
		}
		img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		cf.OS, cf.Architecture = "linux", arch
		if img, err = mutate.ConfigFile(img, cf); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return writeLayout(t, index), digestOf(t, index), index
}

func writeLayout(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	return dir
}

func digestOf(t *testing.T, x interface{ Digest() (v1.Hash, error) }) artifact.Digest {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return artifact.Digest(h.String())
}

// pushed is a repository that holds a fresh index.
func pushed(t *testing.T, r *Repo) artifact.Digest {
	t.Helper()
	dir, d, _ := imageLayout(t)
	written, err := r.PushLayout(t.Context(), dir, d)
	if err != nil || !written {
		t.Fatalf("PushLayout = %v, %v", written, err)
	}
	return d
}

// refer makes the raw manifest of a referrer of d; text makes it differ.
func refer(t *testing.T, r *Repo, d artifact.Digest, text string) ([]byte, artifact.Digest) {
	t.Helper()
	body := []byte(text)
	blob, config := newBytesLayer(body, "text/plain"), newBytesLayer([]byte("{}"), "application/vnd.oci.empty.v1+json")
	for _, l := range []*storeLayer{blob, config} {
		if err := r.session.pusher.Upload(t.Context(), r.name, l); err != nil {
			t.Fatal(err)
		}
	}
	subject, err := v1.NewHash(string(d))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "artifactType": "text/plain",
		"config": config.desc, "layers": []v1.Descriptor{blob.desc},
		"subject": v1.Descriptor{MediaType: types.OCIImageIndex, Digest: subject, Size: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return raw, artifact.Digest(h.String())
}

func putReferrer(t *testing.T, r *Repo, d artifact.Digest, text string) artifact.Digest {
	t.Helper()
	raw, rd := refer(t, r, d, text)
	p := pusher{to: r}
	if err := p.put(t.Context(), r.Ref(rd), raw, types.OCIManifestSchema1); err != nil {
		t.Fatal(err)
	}
	return rd
}

// putTag puts a small image with these layers under a tag.
func putTag(t *testing.T, r *Repo, tag string, layers map[string]string) artifact.Digest {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for text, predicateType := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:       &diffLayer{newBytesLayer([]byte(text), "application/vnd.dsse.envelope.v1+json")},
			Annotations: map[string]string{"predicateType": predicateType},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.session.pusher.Push(t.Context(), r.name.Tag(tag), img); err != nil {
		t.Fatal(err)
	}
	return digestOf(t, img)
}

// diffLayer is an uncompressed layer that knows its diff id.
type diffLayer struct{ *storeLayer }

func (l *diffLayer) DiffID() (v1.Hash, error) { return l.Digest() }

func wantError(t *testing.T, err error, kind artifact.Kind, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if got := artifact.ExitCode(err); got != artifact.ExitCode(&artifact.Error{Kind: kind}) {
		t.Errorf("exit code %d for %v", got, err)
	}
	said := err.Error() + "\n" + strings.Join(artifact.Remedies(err), "\n")
	for _, p := range parts {
		if !strings.Contains(said, p) {
			t.Errorf("%q is not in:\n%s", p, said)
		}
	}
	if len(artifact.Remedies(err)) == 0 {
		t.Errorf("no remedy: %v", err)
	}
}

// startDockerRegistry runs Debian's docker-registry, which has no referrers API.
func startDockerRegistry(t *testing.T) Location {
	t.Helper()
	path, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	addr := freePort(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %q}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "data"), addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, path, "serve", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return Location{Name: "distribution", Base: addr + "/team"}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("docker-registry does not listen")
	return Location{}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
