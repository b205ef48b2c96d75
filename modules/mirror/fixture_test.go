package mirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"drydock/modules/artifact"
)

// files is a web server's content, which tests may change.
type files struct {
	mu    sync.Mutex
	by    map[string][]byte
	asked map[string]int
	auth  string // Authorization it wants; "" none
}

func newFiles() *files { return &files{by: map[string][]byte{}, asked: map[string]int{}} }

func (f *files) set(path string, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.by[path] = b
}

func (f *files) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[path]
}

// ServeHTTP implements http.Handler with validators, as mirrors do.
func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	b, ok := f.by[r.URL.Path]
	f.asked[r.URL.Path]++
	auth := f.auth
	f.mu.Unlock()
	if auth != "" && r.Header.Get("Authorization") != auth {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"`+hexsum(b)+`"`)
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func hexsum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func digest(b []byte) artifact.Digest { return artifact.Digest("sha256:" + hexsum(b)) }

// signer is a generated OpenPGP key.
func signer(t *testing.T, name string) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity(name, "", name+"@debian.test", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func writeKeyring(t *testing.T, file string, keys ...*openpgp.Entity) {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	if strings.HasSuffix(file, ".asc") {
		var a bytes.Buffer
		w, err := armor.Encode(&a, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(b.Bytes())
		_ = w.Close()
		b = a
	}
	writeFile(t, file, b.String())
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func inline(t *testing.T, text string, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var priv []*packet.PrivateKey
	for _, k := range keys {
		priv = append(priv, k.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(&b, priv, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(text))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// world is a machine with mirrors: configuration in a folder, archives on
// in-process servers, all signed by a key of its own Debian.
type world struct {
	t      *testing.T
	dir    string
	host   Host
	key    *openpgp.Entity
	files  *files
	server *httptest.Server
	url    string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: signer(t, "archive"), files: newFiles()}
	srv := httptest.NewServer(w.files)
	t.Cleanup(srv.Close)
	w.server, w.url = srv, srv.URL
	w.host = Host{
		Environ: []string{"GOENV=off", "PATH=/none"}, Home: filepath.Join(w.dir, "home"),
		EtcApt: filepath.Join(w.dir, "apt"), Keyrings: filepath.Join(w.dir, "keyrings"),
	}
	writeKeyring(t, filepath.Join(w.host.Keyrings, "debian-archive-keyring.gpg"), w.key)
	return w
}

func (w *world) apt(name, text string) {
	w.t.Helper()
	writeFile(w.t, filepath.Join(w.host.EtcApt, name), text)
}

func (w *world) discover(cfg Config) *Set {
	w.t.Helper()
	s, err := Discover(context.Background(), cfg, w.host, filepath.Join(w.dir, "cache"))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// age makes every copy in the store an old one.
func (w *world) age() {
	w.t.Helper()
	entries, err := filepath.Glob(filepath.Join(w.dir, "cache", "mirror", "urls", "*.json"))
	if err != nil || len(entries) == 0 {
		w.t.Fatalf("no copies to age: %v", err)
	}
	for _, f := range entries {
		b, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		var e map[string]any
		if err := json.Unmarshal(b, &e); err != nil {
			w.t.Fatal(err)
		}
		e["fetched"] = time.Now().Add(-48 * time.Hour).UTC()
		if b, err = json.Marshal(e); err != nil {
			w.t.Fatal(err)
		}
		writeFile(w.t, f, string(b))
	}
}

// suite is one suite of a made-up archive.
type suite struct {
	root, name string // /debian, bookworm
	packages   string
	valid      time.Time // zero: for ever
	plainNames bool      // no by-hash
	xzOnly     bool
	detached   bool
	keys       []*openpgp.Entity // nil: the world's
}

const helloDeb = "!<arch> pretend to be hello"

func helloStanza(version string) string {
	return fmt.Sprintf(`Package: hello
Version: %s
Architecture: amd64
Depends: libc6 (>= 2.34)
Filename: pool/main/h/hello/hello_%s_amd64.deb
Size: %d
SHA256: %s
`, version, strings.TrimPrefix(version, "1:"), len(helloDeb), hexsum([]byte(helloDeb)))
}

// publish puts a suite on the world's server.
func (w *world) publish(s suite) {
	w.t.Helper()
	var gz, xzb bytes.Buffer
	zw := gzip.NewWriter(&gz)
	_, _ = zw.Write([]byte(s.packages))
	_ = zw.Close()
	xw, err := xz.NewWriter(&xzb)
	if err != nil {
		w.t.Fatal(err)
	}
	_, _ = xw.Write([]byte(s.packages))
	_ = xw.Close()
	dists := s.root + "/dists/" + s.name
	sums := ""
	for ext, b := range map[string][]byte{".gz": gz.Bytes(), ".xz": xzb.Bytes()} {
		if s.xzOnly && ext == ".gz" {
			continue
		}
		rel := "main/binary-amd64/Packages" + ext
		sums += fmt.Sprintf(" %s %d %s\n", hexsum(b), len(b), rel)
		if s.plainNames {
			w.files.set(dists+"/"+rel, b)
		} else {
			w.files.set(dists+"/main/binary-amd64/by-hash/SHA256/"+hexsum(b), b)
		}
	}
	text := fmt.Sprintf("Origin: Debian\nSuite: %s\nCodename: %s\nDate: %s\n", s.name, s.name, time.Now().UTC().Add(-time.Hour).Format(time.RFC1123))
	if !s.valid.IsZero() {
		text += "Valid-Until: " + s.valid.UTC().Format(time.RFC1123) + "\n"
	}
	if !s.plainNames {
		text += "Acquire-By-Hash: yes\n"
	}
	text += "Architectures: amd64\nComponents: main\nSHA256:\n" + sums
	keys := s.keys
	if keys == nil {
		keys = []*openpgp.Entity{w.key}
	}
	if !s.detached {
		w.files.set(dists+"/InRelease", inline(w.t, text, keys...))
		return
	}
	var sig bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&sig, keys[0], strings.NewReader(text), nil); err != nil {
		w.t.Fatal(err)
	}
	w.files.set(dists+"/Release", []byte(text))
	w.files.set(dists+"/Release.gpg", sig.Bytes())
}

// standard is a world with an archive of two suites and its package.
func standard(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.publish(suite{root: "/debian", name: "bookworm", packages: helloStanza("2.10-3")})
	w.publish(suite{root: "/debian-security", name: "bookworm-security", packages: helloStanza("1:2.10-4"), valid: time.Now().Add(time.Hour)})
	w.files.set("/debian/pool/main/h/hello/hello_2.10-3_amd64.deb", []byte(helloDeb))
	w.apt("sources.list", "deb "+w.url+"/debian bookworm main\ndeb "+w.url+"/debian-security/ bookworm-security main\n")
	return w
}
