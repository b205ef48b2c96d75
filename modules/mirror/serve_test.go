package mirror

import (
	"bufio"
	"context"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const helloPath = "/debian/pool/main/h/hello/hello_2.10-3_amd64.deb"

func TestGatewayServesMirrors(t *testing.T) {
	w := standard(t)
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	for _, proxy := range []bool{false, true} {
		c := stepClient(t, sock, step1, proxy)
		for _, base := range []string{"http://mirror.drydock.internal/debian", "http://mirror.drydock.internal:80/debian", "http://198.18.0.1/debian", w.url} {
			resp, body := get(t, c, base+helloPath)
			if resp.StatusCode != http.StatusOK || body != helloDeb {
				t.Errorf("proxy %v, %s: %s %q", proxy, base, resp.Status, body)
			}
			resp, _ = get(t, c, base+"/debian/dists/bookworm/InRelease")
			if resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == "" {
				t.Errorf("proxy %v, %s: %s %v", proxy, base, resp.Status, resp.Header)
			}
		}
		for _, missing := range []string{"/debian/debian/pool/none", "/debian/nosuch/dists/x/InRelease", "/", "/debian/", "/debian/debian/%2e%2e/%2e%2e/etc/passwd"} {
			if resp, body := get(t, c, "http://mirror.drydock.internal"+missing); resp.StatusCode != http.StatusNotFound || resp.Header.Get("X-Drydock-Refused") != "" {
				t.Errorf("%s: %s %q", missing, resp.Status, body)
			}
		}
	}
	if n := w.files.count(helloPath); n != 1 {
		t.Errorf("the mirror was asked for the package %d times", n)
	}
}

func TestGatewayConditionalAndRange(t *testing.T) {
	w := standard(t)
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	c := stepClient(t, sock, step1, false)
	url := "http://mirror.drydock.internal/debian" + helloPath
	resp, _ := get(t, c, url)
	for header, want := range map[[2]string]int{
		{"If-None-Match", resp.Header.Get("ETag")}: http.StatusNotModified, {"Range", "bytes=3-5"}: http.StatusPartialContent,
	} {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header[0], header[1])
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%v: %s", header, resp.Status)
		}
	}
	resp, err := c.Head(url)
	if err != nil || resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(helloDeb)) {
		t.Errorf("HEAD: %+v, %v", resp, err)
	}
}

func TestGatewayRefuses(t *testing.T) {
	w := standard(t)
	w.apt("sources.list.d/vendor.list", "deb "+w.url+"/vendor stable main\n")
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	control := bufio.NewReader(greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN bad things"}))
	for _, c := range []struct {
		method, url string
		proxy       bool
		want        string
	}{
		{http.MethodGet, "http://example.test/a?token=x", false, "http://example.test/a"},
		{http.MethodGet, "http://example.test/a", true, "http://example.test/a"},
		{http.MethodGet, "http://mirror.drydock.internal:8080/debian/x", true, "http://mirror.drydock.internal:8080/debian/x"},
		{http.MethodGet, w.url + "/private/x", false, w.url + "/private/x"},
		{http.MethodGet, w.url + "/vendor/dists/stable/InRelease", false, w.url + "/vendor/dists/stable/InRelease"},
		{http.MethodPost, "http://mirror.drydock.internal/go/x", false, "http://mirror.drydock.internal/go/x"},
		{http.MethodPut, w.url + "/debian/pool/x", true, w.url + "/debian/pool/x"},
	} {
		req, err := http.NewRequest(c.method, c.url, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := stepClient(t, sock, step1, c.proxy).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Refused") != c.want || resp.Header.Get("X-Drydock-Rule") != RuleMirrorOnly {
			t.Errorf("%s %s: %s %v", c.method, c.url, resp.Status, resp.Header)
		}
		for _, part := range []string{c.want, RuleMirrorOnly, "remedy:"} {
			contains1(t, c.url, string(body), part)
		}
		if got := nextRefusal(t, control); got.URL != c.want || got.Rule != RuleMirrorOnly || got.Reason == "" || got.Remedy == "" {
			t.Errorf("%s: the executor was told %+v", c.url, got)
		}
	}
	if _, err := stepClient(t, sock, step1, true).Get("https://tunnel.test/x"); err == nil {
		t.Error("a tunnel was opened")
	}
	if got := nextRefusal(t, control); got.URL != "https://tunnel.test/" {
		t.Errorf("the executor was told %+v", got)
	}
}

func TestGatewayRefusesTLS(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	control := bufio.NewReader(begun(t, g, sock, step1, "RUN curl"))
	for name, want := range map[string]string{"secret.test": "https://secret.test/", "": "https://(no server name)/"} {
		conn := greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1})
		err := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
		if err == nil || name == "" && !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%q: %v", name, err)
		}
		if got := nextRefusal(t, control); got.URL != want || got.Rule != RuleMirrorOnly {
			t.Errorf("%q: the executor was told %+v", name, got)
		}
	}
	conn := greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1})
	_, _ = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	if b, err := io.ReadAll(conn); err != nil || len(b) != 7 {
		t.Errorf("no TLS at all: %v, %v", b, err)
	}
}

func TestGatewayBadGreetings(t *testing.T) {
	w := standard(t)
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	for _, first := range []string{"GET / HTTP/1.0\r\n\r\n", "{}\n", `{"kind":"conn","proto":"ftp"}` + "\n", "null\n"} {
		c, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(first))
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
			t.Errorf("%q: %v", first, err)
		}
		_ = c.Close()
	}
}

// step runs a step that fetches, and ends as told.
func (w *world) step(sock, step, path string, last string) {
	w.t.Helper()
	c := greet(w.t, sock, m{"kind": "step", "step": step, "name": "RUN " + step[7:9]})
	if resp, body := get(w.t, stepClient(w.t, sock, step, true), "http://mirror.drydock.internal"+path); resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s %s", path, resp.Status, body)
	}
	if last != "" {
		_, _ = c.Write([]byte(last + "\n"))
	}
	_ = c.Close()
}

func TestMaterials(t *testing.T) {
	w := standard(t)
	cache := t.TempDir()
	g, sock := testGateway(t, w.discover(Config{}), cache)
	id := func(d string) string { return "sha256:" + strings.Repeat(d, 64) }
	w.step(sock, id("1"), "/debian"+helloPath, `{"ok":true}`)
	w.step(sock, id("2"), "/debian/debian/dists/bookworm/InRelease", `{"ok":true}`)
	w.step(sock, id("3"), "/debian"+helloPath, `{"ok":false}`)
	w.step(sock, id("4"), "/debian"+helloPath, "")
	waitFor(t, "the materials of two steps", func() bool {
		files, _ := filepath.Glob(filepath.Join(cache, "materials", "*.json"))
		return len(files) == 2
	})
	if _, complete := g.Materials("app"); complete {
		t.Error("a build nobody named is complete")
	}
	greetBuild(t, sock, "app", id("1"), id("2"))
	got, complete := g.Materials("app")
	if !complete || len(got) != 2 || got[1].PURL != "pkg:deb/debian/hello@2.10-3?arch=amd64" || got[1].Step != "RUN 11" || got[1].Digest != digest([]byte(helloDeb)) {
		t.Errorf("complete %v, %+v", complete, got)
	}
	for name, steps := range map[string][]string{"failed": {id("1"), id("3")}, "silent": {id("4")}, "never ran": {id("5")}} {
		greetBuild(t, sock, name, steps...)
		if _, complete := g.Materials(name); complete {
			t.Errorf("%s: complete", name)
		}
	}
	later, sock2 := testGateway(t, w.discover(Config{}), cache)
	greetBuild(t, sock2, "cached", id("2"))
	greetBuild(t, sock2, "cached", id("1"))
	if got, complete := later.Materials("cached"); !complete || len(got) != 2 {
		t.Errorf("a later process: complete %v, %+v", complete, got)
	}
}

func TestConcurrentSteps(t *testing.T) {
	w := standard(t)
	cache := t.TempDir()
	g, sock := testGateway(t, w.discover(Config{}), cache)
	var wg sync.WaitGroup
	var ids []string
	for i := range 8 {
		id := fmt.Sprintf("sha256:%064d", i)
		ids = append(ids, id)
		wg.Go(func() { w.step(sock, id, "/debian"+helloPath, `{"ok":true}`) })
	}
	wg.Wait()
	greetBuild(t, sock, "all", ids...)
	waitFor(t, "all steps", func() bool { _, complete := g.Materials("all"); return complete })
	if got, _ := g.Materials("all"); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if n := w.files.count(helloPath); n != 1 {
		t.Errorf("the mirror was asked %d times", n)
	}
}

// TestGatewayNeverCompletesAWrongFile serves an index by hash that is wrong,
// and a transfer that breaks off.
func TestGatewayNeverCompletesAWrongFile(t *testing.T) {
	w := standard(t)
	big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	w.files.set("/debian/dists/bookworm/main/by-hash/SHA256/"+hexsum([]byte("other")), []byte(big))
	mux := http.NewServeMux()
	mux.Handle("/", w.files)
	mux.HandleFunc("/debian/pool/broken", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", fmt.Sprint(len(big)))
		_, _ = io.WriteString(rw, big[:len(big)/2])
	})
	w.server.Config.Handler = mux
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	for _, path := range []string{"/debian/dists/bookworm/main/by-hash/SHA256/" + hexsum([]byte("other")), "/debian/pool/broken"} {
		resp, err := stepClient(t, sock, step1, true).Get("http://mirror.drydock.internal/debian" + path)
		if errors.Is(err, io.EOF) {
			continue // broken off before its head was sent
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK && err == nil || len(b) >= len(big) {
			t.Errorf("%s: %s, %d bytes, %v", path, resp.Status, len(b), err)
		}
	}
}

// TestGatewayStreams passes a large file on in little memory.
func TestGatewayStreams(t *testing.T) {
	w := standard(t)
	const size = 96 << 20
	mux := http.NewServeMux()
	mux.Handle("/", w.files)
	mux.HandleFunc("/debian/pool/large", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.CopyN(rw, zeros{}, size)
	})
	w.server.Config.Handler = mux
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	resp, err := stepClient(t, sock, step1, true).Get("http://mirror.drydock.internal/debian/debian/pool/large")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != size {
		t.Errorf("%d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d MiB were allocated on the way", grown>>20)
	}
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestGatewayMirrorTrouble(t *testing.T) {
	w := standard(t)
	s := w.discover(Config{})
	sourcesOf(t, s)
	w.files.auth = "Basic nobody"
	_, sock := testGateway(t, s, t.TempDir())
	resp, body := get(t, stepClient(t, sock, step1, true), "http://mirror.drydock.internal/debian/debian/pool/x")
	if resp.StatusCode != http.StatusBadGateway || resp.Header.Get("X-Drydock-Refused") != "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	contains1(t, "answer", body, w.url+"/debian/pool/x")
	resp, body = get(t, stepClient(t, sock, step1, true), "http://mirror.drydock.internal/npm/left-pad")
	if resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("%s", resp.Status)
	}
	contains1(t, "answer", body, "npm: in mirrors.yaml")
}

func TestGatewayGo(t *testing.T) {
	g := newGoWorld(t)
	z := g.module("example.test/tool", "v1.2.3")
	_, sock := testGateway(t, g.discover(Config{}), t.TempDir())
	c := stepClient(t, sock, step1, true)
	for path, want := range map[string]string{
		"example.test/tool/@v/list": "v1.2.3\n", "example.test/tool/@v/v1.2.3.zip": string(z), "sumdb/sums.test/supported": "",
	} {
		for _, base := range []string{"http://mirror.drydock.internal/go", g.url} {
			if resp, body := get(t, c, base+"/"+path); resp.StatusCode != http.StatusOK || body != want {
				t.Errorf("%s/%s: %s %q", base, path, resp.Status, body)
			}
		}
	}
	if resp, body := get(t, c, "http://mirror.drydock.internal/go/sumdb/sums.test/lookup/example.test/tool@v1.2.3"); !strings.Contains(body, g.hashes["example.test/tool v1.2.3"]) {
		t.Errorf("lookup: %s %q", resp.Status, body)
	}
}

// npmRegistry is a registry whose metadata names its tarballs by an address of
// its own.
func npmRegistry(t *testing.T, tarball string) (*httptest.Server, *files) {
	t.Helper()
	f := newFiles()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.RequestURI, "%2f") {
			r.URL.Path = strings.Replace(r.URL.Path, "@corp/", "@corp%2f", 1)
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	sum := sha512.Sum512([]byte("a package"))
	meta := func(name string) []byte {
		b, err := json.Marshal(m{"name": name, "versions": m{"1.0.0": m{"name": name, "version": "1.0.0", "dist": m{
			"tarball": strings.ReplaceAll(tarball, "REGISTRY", srv.URL), "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]), "keep": true,
		}}}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	f.set("/repo/pad", meta("pad"))
	f.set("/repo/@corp%2fpad", meta("@corp/pad"))
	f.set("/repo/pad/-/pad-1.0.0.tgz", []byte("a package"))
	f.set("/repo/@corp/pad/-/pad-1.0.0.tgz", []byte("a package"))
	f.set("/odd/download/123", []byte("a package"))
	return srv, f
}

func TestGatewayNpm(t *testing.T) {
	for _, tarball := range []string{"REGISTRY/repo/pad/-/pad-1.0.0.tgz", "https://other-scheme.test/x", "REGISTRY/odd/download/123"} {
		w := newWorld(t)
		srv, _ := npmRegistry(t, tarball)
		writeFile(t, filepath.Join(w.host.Home, ".npmrc"), "registry="+srv.URL+"/repo/\n")
		_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
		c := stepClient(t, sock, step1, true)
		for _, name := range []string{"pad", "@corp%2fpad", "@corp/pad"} {
			resp, body := get(t, c, "http://mirror.drydock.internal/npm/"+name)
			plain := strings.Replace(name, "%2f", "/", 1)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s %s", name, resp.Status, body)
			}
			contains1(t, name, body, `"http://mirror.drydock.internal/npm/`+plain+`/-/pad-1.0.0.tgz"`)
			contains1(t, name, body, `"keep":true`)
		}
		if strings.Contains(tarball, "other-scheme") {
			continue // nothing answers there
		}
		if resp, body := get(t, c, "http://mirror.drydock.internal/npm/pad/-/pad-1.0.0.tgz"); body != "a package" {
			t.Errorf("%s: %s %q", tarball, resp.Status, body)
		}
		resp, err := c.Post("http://mirror.drydock.internal/npm/-/npm/v1/security/advisories/bulk", "application/json", strings.NewReader("{}"))
		if err != nil || resp.StatusCode != http.StatusNotFound || resp.Header.Get("X-Drydock-Refused") != "" {
			t.Errorf("audit: %+v, %v", resp, err)
		}
	}
}

// TestGatewayNpmLockfile asks for tarballs alone, as npm ci does; and where
// the registry keeps them elsewhere, its metadata is asked for.
func TestGatewayNpmLockfile(t *testing.T) {
	w := newWorld(t)
	srv, f := npmRegistry(t, "REGISTRY/odd/download/123")
	delete(f.by, "/repo/pad/-/pad-1.0.0.tgz")
	w.host.Environ = append(w.host.Environ, "npm_config_registry="+srv.URL+"/repo/")
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	c := stepClient(t, sock, step1, true)
	if _, body := get(t, c, srv.URL+"/repo/@corp/pad/-/pad-1.0.0.tgz"); body != "a package" {
		t.Errorf("scoped, at the registry's own address: %q", body)
	}
	if f.count("/repo/@corp%2fpad") != 0 {
		t.Error("metadata was asked for without need")
	}
	if _, body := get(t, c, "http://mirror.drydock.internal/npm/pad/-/pad-1.0.0.tgz"); body != "a package" {
		t.Errorf("kept elsewhere: %q", body)
	}
	f.set("/odd/download/123", []byte("a pickage"))
	w.forget()
	_, sock = testGateway(t, w.discover(Config{}), t.TempDir())
	if resp, body := get(t, stepClient(t, sock, step1, true), "http://mirror.drydock.internal/npm/pad/-/pad-1.0.0.tgz"); resp.StatusCode == http.StatusOK {
		t.Errorf("poisoned: %s %q", resp.Status, body)
	}
}

// forget drops everything fetched so far.
func (w *world) forget() {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.dir, "cache")); err != nil {
		w.t.Fatal(err)
	}
}

// TestNpmScopes uses a scope's own registry with its token.
func TestNpmScopes(t *testing.T) {
	w := newWorld(t)
	srv, f := npmRegistry(t, "REGISTRY/repo/@corp/pad/-/pad-1.0.0.tgz")
	f.auth = "Bearer t0ken"
	host := strings.TrimPrefix(srv.URL, "http:")
	writeFile(t, filepath.Join(w.host.Home, ".npmrc"), "registry=http://127.0.0.1:1/\n@corp:registry="+srv.URL+"/repo/\n"+host+"/repo/:_authToken=t0ken\n")
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	if _, body := get(t, stepClient(t, sock, step1, true), "http://mirror.drydock.internal/npm/@corp/pad/-/pad-1.0.0.tgz"); body != "a package" {
		t.Errorf("%q", body)
	}
}

// ociMirror is a registry behind token authentication.
func ociMirror(t *testing.T, manifest string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if _, pw, _ := r.BasicAuth(); pw != "s3cr3t" || r.FormValue("scope") != "repository:prefix/app:pull" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"token":"bear","expires_in":300}`)
	})
	mux.HandleFunc("/v2/prefix/app/manifests/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer bear" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+srv.URL+`/token",service="s",scope="repository:prefix/app:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !strings.Contains(r.Header.Get("Accept"), "image.index") {
			w.WriteHeader(http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = io.WriteString(w, manifest)
	})
	return srv
}

func TestGatewayOCI(t *testing.T) {
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`
	srv := ociMirror(t, manifest)
	w := newWorld(t)
	host := strings.TrimPrefix(srv.URL, "http://")
	w.host.Environ = append(w.host.Environ, "DRYDOCK_MIRROR_OCI=http://me:s3cr3t@"+host+"/prefix")
	s := w.discover(Config{})
	_, sock := testGateway(t, s, t.TempDir())
	c := stepClient(t, sock, step1, true)
	if resp, _ := get(t, c, "http://mirror.drydock.internal/oci/v2/"); resp.StatusCode != http.StatusOK {
		t.Errorf("ping: %s", resp.Status)
	}
	d := string(digest([]byte(manifest)))
	for _, url := range []string{"http://mirror.drydock.internal/oci/v2/app/manifests/" + d, "http://mirror.drydock.internal/oci/v2/app/manifests/1.0", srv.URL + "/v2/prefix/app/manifests/" + d} {
		resp, body := get(t, c, url)
		if body != manifest || resp.Header.Get("Content-Type") != "application/vnd.oci.image.manifest.v1+json" {
			t.Errorf("%s: %s %q %v", url, resp.Status, body, resp.Header)
		}
	}
	other := string(digest([]byte("other")))
	if resp, body := get(t, c, "http://mirror.drydock.internal/oci/v2/app/manifests/"+other); resp.StatusCode == http.StatusOK {
		t.Errorf("a manifest of another digest: %q", body)
	}
	blob, err := s.Fetch(context.Background(), Request{Ecosystem: OCI, Path: "v2/app/manifests/" + d})
	if err != nil || strings.Contains(blob.Material.URL, "s3cr3t") || string(blob.Material.Digest) != d {
		t.Errorf("fetch: %+v, %v", blob, err)
	}
}

func TestFetchURL(t *testing.T) {
	w := newWorld(t)
	w.files.set("/v6/latest.json", []byte("{}"))
	host := strings.TrimPrefix(w.url, "http://")
	w.files.auth = "Basic bWU6czNjcjN0"
	writeFile(t, filepath.Join(w.host.Home, ".netrc"), "machine "+strings.Split(host, ":")[0]+" login me password s3cr3t\n")
	s := w.discover(Config{})
	ctx := context.Background()
	for range 2 {
		if _, err := s.FetchURL(ctx, w.url+"/v6/latest.json?sig=s3cr3t", ""); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.files.count("/v6/latest.json"); n != 2 {
		t.Errorf("asked %d times", n)
	}
	b, err := s.FetchURL(ctx, w.url+"/v6/latest.json", digest([]byte("{}")))
	if err != nil || b.Material.Digest != digest([]byte("{}")) {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := s.FetchURL(ctx, w.url+"/v6/latest.json?sig=s3cr3t", digest([]byte("x"))); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("wrong digest: %v", err)
	}
	for _, bad := range []string{"ftp://x.test/a", "http://", ":"} {
		if _, err := s.FetchURL(ctx, bad, ""); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
	w.server.Close()
	if _, err := s.FetchURL(ctx, w.url+"/v6/latest.json", ""); err == nil {
		t.Error("a copy stood in for a server that is gone")
	}
}

// TestClose ends connections that are open.
func TestClose(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	c := greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN sleep"})
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
	if _, err := net.Dial("unix", sock); err == nil {
		t.Error("the socket is still open")
	}
}

func FuzzRewriteTarballs(f *testing.F) {
	f.Add(`{"versions":{"1.0.0":{"version":"1.0.0","dist":{"tarball":"http://x.test/a.tgz"}}}}`)
	f.Fuzz(func(t *testing.T, s string) {
		out, err := rewriteTarballs([]byte(s), "http://gw/npm/", "a")
		if err == nil && !json.Valid(out) {
			t.Errorf("%q became %q", s, out)
		}
	})
}
