package mirror

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"drydock/modules/artifact"
)

func sourcesOf(t *testing.T, s *Set) []DebianSource {
	t.Helper()
	sources, err := s.Debian(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func TestDebianFromAptToPackage(t *testing.T) {
	w := standard(t)
	s := w.discover(Config{})
	ctx := context.Background()
	sources := sourcesOf(t, s)
	if len(sources) != 2 || sources[0].Archive != "debian" || sources[1].Archive != "debian-security" || sources[0].Public {
		t.Fatalf("sources %+v", sources)
	}
	ps, err := s.Packages(ctx, sources[0], "bookworm", "main", "amd64")
	if err != nil || len(ps) != 1 {
		t.Fatalf("%d packages, %v", len(ps), err)
	}
	req := Request{Ecosystem: Debian, Path: "debian/" + ps[0].Filename, SHA256: artifact.Digest("sha256:" + ps[0].SHA256), Size: ps[0].Size}
	blob, err := s.Fetch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	if m := blob.Material; m.PURL != "pkg:deb/debian/hello@2.10-3?arch=amd64" || m.Digest != req.SHA256 || m.URL != w.url+"/"+req.Path || m.Public {
		t.Errorf("material %+v", m)
	}
	if _, err := s.Packages(ctx, sources[0], "bookworm", "main", "s390x"); artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("an architecture it does not carry: %v", err)
	}
	w.files.mu.Lock()
	w.files.by = map[string][]byte{}
	w.files.mu.Unlock()
	req.Path = "another-name/" + ps[0].Filename
	if _, err := w.discover(Config{}).Fetch(ctx, req); err != nil {
		t.Errorf("a locked file that is kept was asked for again: %v", err)
	}
}

// TestLockedFileUnderAnotherName finds a locked file where the mirror's last
// path element is another one.
func TestLockedFileUnderAnotherName(t *testing.T) {
	w := standard(t)
	req := Request{Ecosystem: Debian, Path: "elsewhere/pool/main/h/hello/hello_2.10-3_amd64.deb", SHA256: digest([]byte(helloDeb))}
	if _, err := w.discover(Config{}).Fetch(context.Background(), req); err != nil {
		t.Error(err)
	}
	req.SHA256 = ""
	if _, err := w.discover(Config{}).Fetch(context.Background(), req); err == nil {
		t.Error("without a digest, another archive's file was taken")
	}
}

func TestReleaseForms(t *testing.T) {
	other := signer(t, "other release")
	for name, change := range map[string]func(*world, *suite){
		"detached signature": func(_ *world, s *suite) { s.detached = true },
		"no by-hash":         func(_ *world, s *suite) { s.plainNames = true },
		"xz only":            func(_ *world, s *suite) { s.xzOnly = true },
		"two signatures":     func(w *world, s *suite) { s.keys = []*openpgp.Entity{other, w.key} },
		"armored keyring": func(w *world, _ *suite) {
			_ = os.Remove(filepath.Join(w.host.Keyrings, "debian-archive-keyring.gpg"))
			writeKeyring(w.t, filepath.Join(w.host.EtcApt, "trusted.gpg.d", "debian-archive-x.asc"), w.key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := suite{root: "/debian", name: "bookworm", packages: helloStanza("1")}
			change(w, &s)
			w.publish(s)
			w.apt("sources.list", "deb "+w.url+"/debian bookworm main\n")
			set := w.discover(Config{})
			ps, err := set.Packages(context.Background(), sourcesOf(t, set)[0], "bookworm", "main", "amd64")
			if err != nil || len(ps) != 1 {
				t.Errorf("%d packages, %v", len(ps), err)
			}
		})
	}
}

func TestBadReleases(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *suite)
		want   string
	}{
		"expired":       {func(_ *world, s *suite) { s.valid = time.Now().Add(-time.Hour) }, "it expired on"},
		"stranger":      {func(w *world, s *suite) { s.keys = []*openpgp.Entity{signer(w.t, "x")} }, "not signed by a key"},
		"removed key":   {func(w *world, s *suite) { moveKeyring(w, "debian-archive-removed-keys.gpg") }, "no usable key"},
		"other keyring": {func(w *world, s *suite) { moveKeyring(w, "vendor.gpg") }, "no usable key"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := suite{root: "/debian", name: "bookworm", packages: helloStanza("1")}
			c.change(w, &s)
			w.publish(s)
			w.apt("sources.list", "deb "+w.url+"/debian bookworm main\n")
			_, err := w.discover(Config{}).Debian(context.Background())
			if err == nil || !strings.Contains(err.Error(), c.want) || len(artifact.Remedies(err)) == 0 {
				t.Errorf("got %v, want %q and a remedy", err, c.want)
			}
		})
	}
}

func moveKeyring(w *world, name string) {
	if err := os.Rename(filepath.Join(w.host.Keyrings, "debian-archive-keyring.gpg"), filepath.Join(w.host.Keyrings, name)); err != nil {
		w.t.Fatal(err)
	}
}

// TestTampered changes one byte of what was signed.
func TestTampered(t *testing.T) {
	w := standard(t)
	path := "/debian/dists/bookworm/InRelease"
	w.files.set(path, []byte(strings.Replace(string(w.files.by[path]), "Origin: Debian", "Origin: Nobody", 1)))
	_, err := w.discover(Config{}).Debian(context.Background())
	if artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "bad signature") {
		t.Errorf("got %v", err)
	}
}

// TestOutsideTheSignature puts text before and after the signed part.
func TestOutsideTheSignature(t *testing.T) {
	w := standard(t)
	path := "/debian/dists/bookworm/InRelease"
	w.files.set(path, []byte("Origin: Nobody\n\n"+string(w.files.by[path])+"\nOrigin: Nobody\n"))
	s := w.discover(Config{})
	r, err := s.Release(context.Background(), sourcesOf(t, s)[0], "bookworm")
	if err != nil || r.Origin != "Debian" {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestOtherSuiteServed(t *testing.T) {
	w := standard(t)
	w.files.set("/debian/dists/bookworm/InRelease", w.files.by["/debian-security/dists/bookworm-security/InRelease"])
	_, err := w.discover(Config{}).Debian(context.Background())
	if err == nil || !strings.Contains(err.Error(), "it is of suite bookworm-security") {
		t.Errorf("got %v", err)
	}
}

// TestFrozenMirror is a snapshot whose Release has expired, which apt is told
// not to mind.
func TestFrozenMirror(t *testing.T) {
	for name, conf := range map[string]func(w *world, url string){
		"apt.conf": func(w *world, url string) {
			w.apt("apt.conf.d/99frozen", "Acquire::Check-Valid-Until \"false\";\n")
			w.apt("sources.list", "deb "+url+" bookworm main\n")
		},
		"source": func(w *world, url string) {
			w.apt("sources.list", "deb [check-valid-until=no] "+url+" bookworm main\n")
		},
	} {
		w := newWorld(t)
		w.publish(suite{root: "/debian", name: "bookworm", packages: helloStanza("1"), valid: time.Now().Add(-time.Hour)})
		conf(w, w.url+"/debian")
		s := w.discover(Config{})
		sourcesOf(t, s)
		if notes := strings.Join(s.Notes(), "\n"); !strings.Contains(notes, "expired on") {
			t.Errorf("%s: nothing is said about it: %s", name, notes)
		}
	}
}

// TestOtherPeoplesArchives are left out with a note, reachable or not.
func TestOtherPeoplesArchives(t *testing.T) {
	w := standard(t)
	vendor := signer(t, "vendor")
	ring := filepath.Join(w.dir, "vendor.gpg")
	writeKeyring(t, ring, vendor)
	w.publish(suite{root: "/vendor", name: "stable", packages: "", keys: []*openpgp.Entity{vendor}})
	w.apt("sources.list.d/vendor.list", strings.Join([]string{
		"deb " + w.url + "/vendor stable main",
		"deb [signed-by=" + ring + "] http://127.0.0.1:1/signed bookworm main",
		"deb http://127.0.0.1:1/unreachable vendor-suite main",
		"deb http://127.0.0.1:1/backports bookworm-backports main",
		"deb " + w.url + "/gone nosuch main",
	}, "\n"))
	s := w.discover(Config{})
	if e, err := s.Endpoint(Debian); err != nil || e.URL != w.url+"/debian" || e.Public {
		t.Errorf("endpoint %+v, %v", e, err)
	}
	if got := sourcesOf(t, s); len(got) != 2 {
		t.Errorf("sources %+v", got)
	}
	notes := strings.Join(s.Notes(), "\n")
	for _, part := range []string{"/vendor stable left out", "/signed left out", "vendor-suite", "/gone has no suite"} {
		if !strings.Contains(notes, part) {
			t.Errorf("no note about %q in\n%s", part, notes)
		}
	}
}

// TestMissingSecurityIsNoSilence has an unreachable archive of a release that
// is in use.
func TestMissingSecurityIsNoSilence(t *testing.T) {
	w := standard(t)
	w.apt("sources.list", "deb "+w.url+"/debian bookworm main\ndeb http://127.0.0.1:1/debian-security bookworm-security main\n")
	_, err := w.discover(Config{}).Debian(context.Background())
	if artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(err.Error(), "http://127.0.0.1:1/debian-security") {
		t.Errorf("got %v", err)
	}
}

// TestSecondMirrorStandsBy has one archive at two addresses, the first dead.
func TestSecondMirrorStandsBy(t *testing.T) {
	w := standard(t)
	w.apt("sources.list", "")
	w.apt("sources.list.d/d.sources", "Types: deb\nURIs: http://127.0.0.1:1/debian "+w.url+"/debian\nSuites: bookworm\nComponents: main\n")
	s := w.discover(Config{})
	if got := sourcesOf(t, s); len(got) != 1 || got[0].URI != w.url+"/debian" {
		t.Errorf("sources %+v", got)
	}
	if _, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: "debian/pool/main/h/hello/hello_2.10-3_amd64.deb"}); err != nil {
		t.Error(err)
	}
}

func TestWrongIndexAndPackage(t *testing.T) {
	w := standard(t)
	s := w.discover(Config{})
	src := sourcesOf(t, s)[0]
	for p, b := range w.files.by {
		if strings.Contains(p, "/debian/dists/bookworm/main") {
			w.files.by[p] = append([]byte("x"), b[1:]...)
		}
	}
	if _, err := s.Packages(context.Background(), src, "bookworm", "main", "amd64"); err == nil || !strings.Contains(err.Error(), "wrong checksum") {
		t.Errorf("index: %v", err)
	}
	path := "debian/pool/main/h/hello/hello_2.10-3_amd64.deb"
	for name, served := range map[string]string{"poisoned": strings.ToUpper(helloDeb), "truncated": helloDeb[:9], "longer": helloDeb + "x"} {
		w.files.set("/"+path, []byte(served))
		_, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: path, SHA256: digest([]byte(helloDeb)), Size: int64(len(helloDeb))})
		if artifact.ExitCode(err) != artifact.ExitFault {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.files.set("/"+path, []byte(helloDeb))
	if _, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: path, SHA256: digest([]byte(helloDeb))}); err != nil {
		t.Errorf("the right one, after all: %v", err)
	}
}

func TestExplicitMirror(t *testing.T) {
	w := newWorld(t)
	w.publish(suite{root: "/x/debian", name: "trixie", packages: helloStanza("1")})
	w.publish(suite{root: "/x/debian-security", name: "trixie-security", packages: helloStanza("1")})
	cfg := Config{Debian: Setting{URLs: []string{w.url + "/x/debian", w.url + "/x/debian-security/"}}, Suite: "trixie", Place: "catalog/mirrors.yaml"}
	got := sourcesOf(t, w.discover(cfg))
	if len(got) != 2 || strings.Join(got[0].Suites, " ") != "trixie" || got[1].Suites[0] != "trixie-security" {
		t.Errorf("sources %+v", got)
	}
	w.publish(suite{root: "/x/debian", name: "trixie", packages: "", keys: []*openpgp.Entity{signer(t, "x")}})
	w.age()
	if _, err := w.discover(cfg).Debian(context.Background()); err == nil || !errors.Is(err, errStranger) {
		t.Errorf("an explicit mirror that does not verify: %v", err)
	}
	cfg.Debian.URLs = []string{"ftp://x.test/debian"}
	if _, err := Discover(context.Background(), cfg, w.host, t.TempDir()); artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("got %v", err)
	}
}

func TestOverrideAndSuite(t *testing.T) {
	w := newWorld(t)
	w.publish(suite{root: "/debian", name: "trixie", packages: helloStanza("1")})
	w.apt("sources.list", "deb "+w.url+"/debian bookworm main\n")
	if got := sourcesOf(t, w.discover(Config{Suite: "trixie"})); got[0].Suites[0] != "trixie" {
		t.Errorf("sources %+v", got)
	}
	w.host.Environ = append(w.host.Environ, "DRYDOCK_MIRROR_DEBIAN="+w.url+"/debian")
	s := w.discover(Config{Debian: Setting{URLs: []string{"http://127.0.0.1:1/never"}}, Suite: "trixie"})
	sourcesOf(t, s)
	if e, err := s.Endpoint(Debian); err != nil || e.Source != "DRYDOCK_MIRROR_DEBIAN" {
		t.Errorf("endpoint %+v, %v", e, err)
	}
}

// TestAptCredentials: those of auth.conf on a host that wants
// them, in no error and no material.
func TestAptCredentials(t *testing.T) {
	w := standard(t)
	w.files.auth = "Basic bWU6czNjcjN0" // me:s3cr3t
	_, err := w.discover(Config{}).Debian(context.Background())
	if artifact.ExitCode(err) != artifact.ExitFault || !strings.Contains(strings.Join(artifact.Remedies(err), " "), "auth.conf") {
		t.Errorf("without credentials: %v", err)
	}
	host := strings.TrimPrefix(w.url, "http://")
	w.apt("auth.conf.d/m.conf", "machine http://"+host+"/debian login me password s3cr3t\nmachine "+host+"/debian-security login me password s3cr3t\n")
	sourcesOf(t, w.discover(Config{}))

	w.apt("auth.conf.d/m.conf", "")
	w.apt("sources.list", "deb http://me:s3cr3t@"+host+"/debian bookworm main\n")
	w.host.Home = filepath.Join(w.dir, "home2")
	s := w.discover(Config{})
	got := sourcesOf(t, s)
	if len(got) != 1 || strings.Contains(got[0].URI, "s3cr3t") {
		t.Fatalf("sources %+v", got)
	}
	blob, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: "debian/pool/main/h/hello/hello_2.10-3_amd64.deb"})
	if err != nil || strings.Contains(blob.Material.URL, "s3cr3t") {
		t.Errorf("material %+v, %v", blob.Material, err)
	}
	_, err = s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: "debian/pool/nosuch"})
	if !errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}

func TestAptProxy(t *testing.T) {
	w := standard(t)
	var seen int
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "archive.test" {
			seen++
		}
		w.files.ServeHTTP(rw, r)
	}))
	defer proxy.Close()
	w.apt("sources.list", "deb http://archive.test/debian bookworm main\n")
	w.apt("apt.conf", "Acquire::http::Proxy \""+proxy.URL+"\";\n")
	got := sourcesOf(t, w.discover(Config{}))
	if seen == 0 || !got[0].Public {
		t.Errorf("asked through the proxy %d times, %+v", seen, got)
	}
}

// TestStaleCopy uses the last Release when the mirror is down, says so, and
// does not use one that has expired.
func TestStaleCopy(t *testing.T) {
	w := standard(t)
	w.publish(suite{root: "/debian-security", name: "bookworm-security", packages: helloStanza("1"), valid: time.Now().Add(2 * time.Second)})
	sourcesOf(t, w.discover(Config{}))
	asked := w.files.count("/debian/dists/bookworm/InRelease")
	sourcesOf(t, w.discover(Config{}))
	if w.files.count("/debian/dists/bookworm/InRelease") != asked {
		t.Error("a fresh copy was asked for again")
	}
	w.age()
	sourcesOf(t, w.discover(Config{}))
	if w.files.count("/debian/dists/bookworm/InRelease") != asked+1 {
		t.Error("an old copy was not asked for again")
	}
	w.age()
	w.server.Close()
	s := w.discover(Config{})
	sourcesOf(t, s)
	if notes := strings.Join(s.Notes(), "\n"); !strings.Contains(notes, "could not be asked") {
		t.Errorf("nothing is said about it: %s", notes)
	}
	time.Sleep(2 * time.Second)
	if _, err := w.discover(Config{}).Debian(context.Background()); err == nil || !strings.Contains(err.Error(), "it expired") {
		t.Errorf("an expired copy: %v", err)
	}
}

// TestFileArchive has the archive on a disk, as installation media are.
func TestFileArchive(t *testing.T) {
	w := standard(t)
	root := filepath.Join(w.dir, "media")
	for p, b := range w.files.by {
		writeFile(t, filepath.Join(root, p), string(b))
	}
	w.apt("sources.list", "deb file:"+root+"/debian bookworm main\n")
	s := w.discover(Config{})
	got := sourcesOf(t, s)
	if len(got) != 1 || got[0].Public {
		t.Errorf("sources %+v", got)
	}
	if _, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: "debian/pool/main/h/hello/hello_2.10-3_amd64.deb"}); err != nil {
		t.Error(err)
	}
	if _, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: "debian/pool/none"}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestEndpointsShowNoSecrets has credentials in every place a URL can be.
func TestEndpointsShowNoSecrets(t *testing.T) {
	w := newWorld(t)
	writeFile(t, filepath.Join(w.host.Home, ".config", "go", "env"), "GOPROXY=https://me:s3cr3t@go.invalid/mod,direct\n")
	w.host.Environ = []string{"PATH=/none", "npm_config_registry=https://me:s3cr3t@npm.invalid/", "DRYDOCK_MIRROR_OCI=https://me:s3cr3t@oci.invalid", "GOFLAGS="}
	w.apt("sources.list", "deb https://me:s3cr3t@deb.invalid/debian bookworm main\n")
	s := w.discover(Config{})
	for eco, want := range map[string]string{Debian: "https://deb.invalid/debian", Go: "https://go.invalid/mod", Npm: "https://npm.invalid", OCI: "https://oci.invalid"} {
		e, err := s.Endpoint(eco)
		if err != nil || e.URL != want || !e.Public || e.Source == "" {
			t.Errorf("%s: %+v, %v", eco, e, err)
		}
		_, err = s.Fetch(context.Background(), Request{Ecosystem: eco, Path: "debian/x"})
		if artifact.ExitCode(err) != artifact.ExitFault || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", eco, err)
		}
	}
	bad := Config{Go: Setting{URLs: []string{"https://me:s3cr3t@bad host/"}}, Place: "mirrors.yaml"}
	if _, err := w.discover(bad).Endpoint(Go); artifact.ExitCode(err) != artifact.ExitUsage || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}

func TestNotConfigured(t *testing.T) {
	w := newWorld(t)
	s := w.discover(Config{Place: "catalog/mirrors.yaml"})
	for _, eco := range []string{Debian, Go, Npm, OCI} {
		_, err := s.Endpoint(eco)
		var e *artifact.Error
		if !errors.As(err, &e) || e.Kind != artifact.KindUsage || !strings.Contains(e.Remedy, eco+": in mirrors.yaml") || !strings.Contains(e.Remedy, overrideName(eco)) {
			t.Errorf("%s: %v", eco, err)
		}
		if _, err := s.Fetch(context.Background(), Request{Ecosystem: eco, Path: "a/b"}); artifact.ExitCode(err) != artifact.ExitUsage {
			t.Errorf("%s: fetched: %v", eco, err)
		}
	}
	if _, err := s.Debian(context.Background()); artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("got %v", err)
	}
}

func TestPathsStayBelow(t *testing.T) {
	s := standard(t).discover(Config{})
	for _, p := range []string{"", "debian/../../etc/passwd", "debian//x", "debian/./x", "debian\\x", "debian/a\nb"} {
		if _, err := s.Fetch(context.Background(), Request{Ecosystem: Debian, Path: p}); artifact.ExitCode(err) != artifact.ExitUsage {
			t.Errorf("%q: %v", p, err)
		}
	}
}
