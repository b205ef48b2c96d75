package mirror

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/sumdb/note"

	"drydock/modules/artifact"
)

// goWorld adds a Go mirror that passes on a checksum database.
type goWorld struct {
	*world
	hashes map[string]string // "path version" to hash
	vkey   string
}

func newGoWorld(t *testing.T) *goWorld {
	t.Helper()
	g := &goWorld{world: newWorld(t), hashes: map[string]string{}}
	skey, vkey, err := note.GenerateKey(rand.Reader, "sums.test")
	if err != nil {
		t.Fatal(err)
	}
	g.vkey = vkey
	db := sumdb.NewServer(sumdb.NewTestServer(skey, func(path, vers string) ([]byte, error) {
		zipHash, ok := g.hashes[path+" "+vers]
		if !ok {
			return nil, fmt.Errorf("no such module")
		}
		return []byte(fmt.Sprintf("%s %s %s\n%s %s/go.mod %s\n", path, vers, zipHash, path, vers, g.hashes[path+" "+vers+"/go.mod"])), nil
	}))
	mux := http.NewServeMux()
	mux.Handle("/sumdb/sums.test/", http.StripPrefix("/sumdb/sums.test", db))
	mux.HandleFunc("/sumdb/sums.test/supported", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("/", g.files)
	g.server.Config.Handler = mux
	g.host.Environ = append(g.host.Environ, "GOPROXY="+g.url+",direct", "GOSUMDB="+vkey)
	return g
}

// module puts a module on the mirror and, as the database sees it, on record.
func (g *goWorld) module(path, version string) (zipFile []byte) {
	g.t.Helper()
	gomod := []byte("module " + path + "\n")
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create(path + "@" + version + "/go.mod")
	if err != nil {
		g.t.Fatal(err)
	}
	_, _ = f.Write(gomod)
	if err := z.Close(); err != nil {
		g.t.Fatal(err)
	}
	g.files.set("/"+path+"/@v/"+version+".zip", b.Bytes())
	g.files.set("/"+path+"/@v/"+version+".mod", gomod)
	g.files.set("/"+path+"/@v/"+version+".info", []byte(`{"Version":"`+version+`"}`))
	g.files.set("/"+path+"/@v/list", []byte(version+"\n"))
	file := g.dir + "/sum.zip"
	writeFile(g.t, file, b.String())
	sum, err := dirhash.HashZip(file, dirhash.Hash1)
	if err != nil {
		g.t.Fatal(err)
	}
	g.hashes[path+" "+version] = sum
	writeFile(g.t, file, string(gomod))
	sum, err = hashMod(file)
	if err != nil {
		g.t.Fatal(err)
	}
	g.hashes[path+" "+version+"/go.mod"] = sum
	return b.Bytes()
}

func TestGoModuleVerified(t *testing.T) {
	g := newGoWorld(t)
	z := g.module("example.test/tool", "v1.2.3")
	s := g.discover(Config{})
	blob, err := s.FetchGoModule(context.Background(), "example.test/tool", "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	if m := blob.Material; m.Digest != digest(z) || m.PURL != "pkg:golang/example.test/tool@v1.2.3" || m.URL != g.url+"/example.test/tool/@v/v1.2.3.zip" {
		t.Errorf("material %+v", m)
	}
	if _, err := s.FetchGoModule(context.Background(), "example.test/none", "v1.0.0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a module that is not there: %v", err)
	}
	if _, err := s.FetchGoModule(context.Background(), "example.test/tool", "latest"); artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("no version: %v", err)
	}
}

// TestGoModuleTampered serves another zip than the database knows.
func TestGoModuleTampered(t *testing.T) {
	g := newGoWorld(t)
	good := g.module("example.test/tool", "v1.2.3")
	hash := g.hashes["example.test/tool v1.2.3"]
	g.module("example.test/other", "v1.0.0")
	path := "/example.test/tool/@v/v1.2.3.zip"
	s := g.discover(Config{})
	for name, b := range map[string][]byte{"another module": g.files.by["/example.test/other/@v/v1.0.0.zip"], "no zip": []byte("<html>")} {
		g.files.set(path, b)
		_, err := s.FetchGoModule(context.Background(), "example.test/tool", "v1.2.3")
		if artifact.ExitCode(err) != artifact.ExitFault || !errors.Is(err, errTampered) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Fetch(context.Background(), Request{Ecosystem: Go, Path: path[1:]}); err == nil {
			t.Errorf("%s: a plain Fetch took it", name)
		}
	}
	g.files.set(path, good)
	g.hashes["example.test/tool v1.2.3"] = hash
	if _, err := s.FetchGoModule(context.Background(), "example.test/tool", "v1.2.3"); err != nil {
		t.Errorf("the right one, after all: %v", err)
	}
}

// TestGoWithoutDatabase: what must be verified is refused, what a step fetches
// is left for the step to verify.
func TestGoWithoutDatabase(t *testing.T) {
	g := newGoWorld(t)
	g.module("example.test/private", "v1.0.0")
	delete(g.hashes, "example.test/private v1.0.0")
	s := g.discover(Config{})
	if _, err := s.FetchGoModule(context.Background(), "example.test/private", "v1.0.0"); !errors.Is(err, errNoSumdb) {
		t.Errorf("not in the database: %v", err)
	}
	if _, err := s.Fetch(context.Background(), Request{Ecosystem: Go, Path: "example.test/private/@v/v1.0.0.zip"}); err != nil {
		t.Errorf("for a step: %v", err)
	}
	g.host.Environ = append(g.host.Environ, "GOSUMDB=off")
	if _, err := g.discover(Config{}).FetchGoModule(context.Background(), "example.test/private", "v1.0.0"); artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("switched off: %v", err)
	}
}

// TestGoDatabaseForged has a database signed by another key.
func TestGoDatabaseForged(t *testing.T) {
	g, other := newGoWorld(t), newGoWorld(t)
	g.module("example.test/tool", "v1.2.3")
	g.host.Environ = append(g.host.Environ, "GOSUMDB="+other.vkey)
	if _, err := g.discover(Config{}).FetchGoModule(context.Background(), "example.test/tool", "v1.2.3"); artifact.ExitCode(err) != artifact.ExitFault {
		t.Errorf("got %v", err)
	}
}

func TestGoProxyOrder(t *testing.T) {
	g := newGoWorld(t)
	g.module("example.test/tool", "v1.2.3")
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer broken.Close()
	for list, ok := range map[string]bool{
		empty.URL + "," + g.url: true, broken.URL + "|" + g.url: true, broken.URL + "," + g.url: false, empty.URL + ",direct": false,
	} {
		g.host.Environ = append(g.host.Environ, "GOPROXY="+list)
		_, err := g.discover(Config{}).Fetch(context.Background(), Request{Ecosystem: Go, Path: "example.test/tool/@v/list"})
		if (err == nil) != ok {
			t.Errorf("%s: %v", list, err)
		}
		g.host.Environ = g.host.Environ[:len(g.host.Environ)-1]
	}
	for _, list := range []string{"off", "direct"} {
		g.host.Environ = append(g.host.Environ, "GOPROXY="+list)
		if _, err := g.discover(Config{}).Endpoint(Go); err == nil || !strings.Contains(err.Error(), "none is configured") {
			t.Errorf("%s: %v", list, err)
		}
	}
}

func TestPURLs(t *testing.T) {
	for _, c := range []struct{ eco, rel, want string }{
		{Debian, "pool/main/h/hello/hello_2.10-3+b1_amd64.deb", "pkg:deb/debian/hello@2.10-3%2Bb1?arch=amd64"},
		{Debian, "dists/x/InRelease", ""},
		{Go, "github.com/!burnt!sushi/toml/@v/v1.0.0.zip", "pkg:golang/github.com/BurntSushi/toml@v1.0.0"},
		{Go, "x.test/y/@v/v2.0.0+incompatible.mod", "pkg:golang/x.test/y@v2.0.0%2Bincompatible"},
		{Go, "x.test/y/@v/v1.0.0.info", ""}, {Go, "x.test/y/@v/master.zip", ""}, {Go, "x.test/y/@v/list", ""},
		{Npm, "@types/ms/-/ms-2.1.0.tgz", "pkg:npm/%40types/ms@2.1.0"},
		{Npm, "left-pad/-/left-pad-1.3.0.tgz", "pkg:npm/left-pad@1.3.0"}, {Npm, "left-pad", ""},
		{OCI, "v2/a/b/manifests/sha256:00", "pkg:oci/b@sha256%3A00"}, {OCI, "v2/a/b/blobs/sha256:00", ""},
	} {
		if got := purl(c.eco, c.rel); got != c.want {
			t.Errorf("%s: %q, want %q", c.rel, got, c.want)
		}
	}
}

func FuzzSplitGo(f *testing.F) {
	f.Add("github.com/!burnt!sushi/toml/@v/v1.0.0.zip")
	f.Fuzz(func(t *testing.T, s string) {
		if mod, version, kind := splitGo(s); kind != "" && (mod == "" || version == "") {
			t.Errorf("%q: %q %q %q", s, mod, version, kind)
		}
		_ = purl(Npm, s)
		_ = purl(Debian, s)
	})
}
