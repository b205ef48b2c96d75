package mirror

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"drydock/modules/mirror/debian"
	"drydock/modules/mirror/lockfile"
)

const (
	releasePath = "/debian/debian/dists/bookworm/InRelease"
	gatewayAt   = "http://mirror.drydock.internal"
)

func stepID(d string) string { return "sha256:" + strings.Repeat(d, 64) }

// lockedStep begins a step under a lock: a client of it, what its executor is
// told, and how it ends.
func lockedStep(t *testing.T, sock, step, key string) (*http.Client, *bufio.Reader, func(ok bool)) {
	t.Helper()
	name := "[2/3] RUN apt-get update"
	if key != "" {
		mounts, _ := LockMounts(key)
		name = "[2/3] RUN --mount=" + mounts[1] + " --mount=" + mounts[0] + " apt-get update"
	}
	c := greet(t, sock, m{"kind": "step", "step": step, "name": name})
	return stepClient(t, sock, step, true), bufio.NewReader(c), func(ok bool) {
		if ok {
			_, _ = c.Write([]byte("{\"ok\":true}\n"))
		}
		_ = c.Close()
	}
}

// lockOfHello pins the world's index and its package.
func lockOfHello(w *world) *lockfile.Lock {
	pin := func(path string) lockfile.Material {
		w.files.mu.Lock()
		b := w.files.by["/"+path]
		w.files.mu.Unlock()
		return lockfile.Material{Ecosystem: Debian, Path: path, Digest: digest(b), Size: int64(len(b))}
	}
	return &lockfile.Lock{
		Materials: []lockfile.Material{pin("debian/dists/bookworm/InRelease"), pin("debian/pool/main/h/hello/hello_2.10-3_amd64.deb")},
		Absent:    []lockfile.Absent{{Ecosystem: Debian, Path: "debian/dists/bookworm/nothing"}},
	}
}

// TestLockedStep: a locked step is served what the lock pins, whatever the
// mirror has by now, and nothing else.
func TestLockedStep(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	l := lockOfHello(w)
	_, old := get(t, stepClient(t, sock, step1, true), gatewayAt+releasePath) // into the content store
	w.publish(suite{root: "/debian", name: "bookworm", packages: helloStanza("2.10-9")})
	w.age()
	g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock --image app")

	c, told, _ := lockedStep(t, sock, stepID("2"), l.Key())
	if resp, body := get(t, c, gatewayAt+releasePath); resp.StatusCode != http.StatusOK || body != old {
		t.Errorf("the pinned index: %s", resp.Status)
	}
	if resp, body := get(t, c, w.url+"/debian/pool/main/h/hello/hello_2.10-3_amd64.deb"); body != helloDeb {
		t.Errorf("the pinned package, at the mirror's own address: %s %q", resp.Status, body)
	}
	if resp, _ := get(t, c, gatewayAt+"/debian/debian/dists/bookworm/nothing"); resp.StatusCode != http.StatusNotFound || resp.Header.Get("X-Drydock-Refused") != "" {
		t.Errorf("what was not there: %s", resp.Status)
	}
	resp, body := get(t, c, gatewayAt+"/debian/debian-security/dists/bookworm-security/InRelease")
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Rule") != RuleLocked || !strings.Contains(body, "cat/locks/app.json") || !strings.Contains(body, "drydock mirror lock --image app") {
		t.Errorf("what is not locked: %s %q", resp.Status, body)
	}
	if r := nextRefusal(t, told); r.Rule != RuleLocked || !strings.Contains(r.URL, "bookworm-security/InRelease") {
		t.Errorf("%+v", r)
	}
	// a step that is under no lock gets today's
	free, _, _ := lockedStep(t, sock, stepID("3"), "")
	if _, body := get(t, free, gatewayAt+releasePath); body == old || !strings.Contains(body, "bookworm") {
		t.Error("a step without a lock was served the lock's")
	}
	// unless all must be
	g.Strict()
	held, _, _ := lockedStep(t, sock, stepID("4"), "")
	if resp, _ := get(t, held, gatewayAt+releasePath); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
		t.Errorf("strict: %s", resp.Status)
	}
}

// TestLockedStepNotServed: the mirror moved on and the content store is empty.
func TestLockedStepNotServed(t *testing.T) {
	w := standard(t)
	l := lockOfHello(w)
	w.publish(suite{root: "/debian", name: "bookworm", packages: helloStanza("2.10-9")})
	w.files.mu.Lock()
	delete(w.files.by, "/debian/pool/main/h/hello/hello_2.10-3_amd64.deb")
	w.files.mu.Unlock()
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock")
	c, told, _ := lockedStep(t, sock, step1, l.Key())
	for _, path := range []string{releasePath, "/debian/debian/pool/main/h/hello/hello_2.10-3_amd64.deb"} {
		resp, body := get(t, c, gatewayAt+path)
		if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Rule") != RuleServed || !strings.Contains(body, "mirror lock") {
			t.Errorf("%s: %s %q", path, resp.Status, body)
		}
		if r := nextRefusal(t, told); r.Rule != RuleServed {
			t.Errorf("%+v", r)
		}
	}
	// a mirror that is down is no refusal: it may be back
	w.server.Close()
	if resp, _ := get(t, c, gatewayAt+"/debian/debian/pool/main/h/hello/hello_2.10-3_amd64.deb"); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("mirror down: %s", resp.Status)
	}
}

// TestObserve: what one step was served first, all are served; what was not
// there is part of it.
func TestObserve(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	g.Observe("new-1")
	one, _, end := lockedStep(t, sock, stepID("a"), "new-1")
	_, first := get(t, one, gatewayAt+releasePath)
	if resp, _ := get(t, one, gatewayAt+"/debian/debian/dists/bookworm/Release.gone"); resp.StatusCode != http.StatusNotFound {
		t.Error(resp.Status)
	}
	end(true)
	w.publish(suite{root: "/debian", name: "bookworm", packages: helloStanza("2.10-9")})
	w.age()
	two, _, end := lockedStep(t, sock, stepID("b"), "new-1")
	if _, body := get(t, two, gatewayAt+releasePath); body != first {
		t.Error("two steps of one lock were served different indexes")
	}
	end(true)
	waitFor(t, "two steps", func() bool {
		greetBuild(t, sock, "app", stepID("a"), stepID("b"))
		return g.Fetched("app").Lockable
	})
	f := g.Fetched("app")
	if len(f.Materials) != 1 || f.Materials[0].Path != "debian/dists/bookworm/InRelease" || len(f.Absent) != 1 || f.Absent[0].Path != "debian/dists/bookworm/Release.gone" {
		t.Errorf("%+v", f)
	}
	raw, err := os.ReadFile(g.steps.file(stepID("a")))
	if err != nil || strings.Contains(string(raw), lockMark) || !strings.Contains(string(raw), `"[2/3] RUN apt-get update"`) {
		t.Errorf("%v: the step is not called what its Dockerfile calls it: %s", err, raw)
	}
}

// TestOldStepsAreNotLockable: caches of earlier versions say what was fetched,
// but not under which path.
func TestOldStepsAreNotLockable(t *testing.T) {
	w := standard(t)
	cache := t.TempDir()
	g, sock := testGateway(t, w.discover(Config{}), cache)
	writeFile(t, filepath.Join(cache, "materials", strings.Repeat("c", 64)+".json"),
		`{"version":1,"step":"`+stepID("c")+`","name":"RUN x","materials":[{"ecosystem":"go","url":"http://m.test/x","size":1}]}`)
	greetBuild(t, sock, "old", stepID("c"))
	if f := g.Fetched("old"); !f.Complete || f.Lockable || len(f.Materials) != 1 {
		t.Errorf("%+v", f)
	}
}

// TestGoProofsAreMaterials: lookups in the checksum database are recorded, under
// a path without the database's name.
func TestGoProofsAreMaterials(t *testing.T) {
	gw := newGoWorld(t)
	gw.module("example.test/tool", "v1.2.3")
	g, sock := testGateway(t, gw.discover(Config{}), t.TempDir())
	c, _, end := lockedStep(t, sock, step1, "")
	for _, path := range []string{"example.test/tool/@v/v1.2.3.zip", "sumdb/sums.test/lookup/example.test/tool@v1.2.3"} {
		if resp, body := get(t, c, gatewayAt+"/go/"+path); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", path, resp.Status, body)
		}
	}
	end(true)
	waitFor(t, "the step", func() bool { greetBuild(t, sock, "tool", step1); return g.Fetched("tool").Complete })
	paths := map[string]bool{}
	for _, m := range g.Fetched("tool").Materials {
		paths[m.Path] = IsProof(m)
	}
	if proof, ok := paths["sumdb/lookup/example.test/tool@v1.2.3"]; !ok || !proof || paths["example.test/tool/@v/v1.2.3.zip"] || len(paths) != 2 {
		t.Errorf("%v", paths)
	}
}

// TestLockedNpm: metadata in both forms is pinned on its own, and its tarballs
// come from where the pinned metadata says.
func TestLockedNpm(t *testing.T) {
	w := newWorld(t)
	srv, f := npmRegistry(t, "REGISTRY/odd/download/123")
	f.mu.Lock()
	delete(f.by, "/repo/pad/-/pad-1.0.0.tgz")
	meta := f.by["/repo/pad"]
	f.mu.Unlock()
	w.host.Environ = append(w.host.Environ, "npm_config_registry="+srv.URL+"/repo/")
	l := &lockfile.Lock{Materials: []lockfile.Material{
		{Ecosystem: Npm, Path: "pad?full", Digest: digest(meta), Size: int64(len(meta))},
		{Ecosystem: Npm, Path: "pad/-/pad-1.0.0.tgz", Digest: digest([]byte("a package")), Size: 9},
	}}
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock")
	c, _, _ := lockedStep(t, sock, step1, l.Key())
	if resp, body := get(t, c, gatewayAt+"/npm/pad"); resp.StatusCode != http.StatusOK || !strings.Contains(body, gatewayAt+"/npm/pad/-/") {
		t.Errorf("metadata: %s %s", resp.Status, body)
	}
	if resp, body := get(t, c, gatewayAt+"/npm/pad/-/pad-1.0.0.tgz"); body != "a package" {
		t.Errorf("tarball: %s %q", resp.Status, body)
	}
	req, err := http.NewRequest(http.MethodGet, gatewayAt+"/npm/pad", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", npmShort)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.Header.Get("X-Drydock-Rule") != RuleLocked {
		t.Errorf("the short form, which is not locked: %s", resp.Status)
	}
	if resp, _ := get(t, c, gatewayAt+"/npm/npm"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("npm looking for itself: %s", resp.Status)
	}
}

// TestOffline: the content store answers, nobody is asked, and what is missing
// is named.
func TestOffline(t *testing.T) {
	w := standard(t)
	_, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	c := stepClient(t, sock, step1, true)
	get(t, c, gatewayAt+releasePath)
	get(t, c, gatewayAt+"/debian"+helloPath)
	w.age()
	w.files.mu.Lock()
	w.files.asked = map[string]int{}
	w.files.mu.Unlock()

	s := w.discover(Config{Offline: true})
	_, sock = testGateway(t, s, t.TempDir())
	c, told, _ := lockedStep(t, sock, step1, "")
	if resp, _ := get(t, c, gatewayAt+releasePath); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	if _, body := get(t, c, gatewayAt+"/debian"+helloPath); body != helloDeb {
		t.Errorf("%q", body)
	}
	resp, body := get(t, c, gatewayAt+"/debian/debian/pool/main/h/hello/hello_9_amd64.deb")
	if resp.Header.Get("X-Drydock-Rule") != RuleOffline || !strings.Contains(body, "hello_9_amd64.deb") || !strings.Contains(body, "--offline") {
		t.Errorf("%s %q", resp.Status, body)
	}
	if r := nextRefusal(t, told); r.Rule != RuleOffline {
		t.Errorf("%+v", r)
	}
	w.files.mu.Lock()
	defer w.files.mu.Unlock()
	if len(w.files.asked) > 0 {
		t.Errorf("the mirror was asked: %v", w.files.asked)
	}
}

func TestPlainName(t *testing.T) {
	mounts, secrets := LockMounts("0123abcd")
	name := "[2/3] RUN --mount=" + mounts[1] + " --mount=" + mounts[0] + " --mount=type=cache,target=/x make"
	if got := plainName(name); got != "[2/3] RUN --mount=type=cache,target=/x make" {
		t.Errorf("%q", got)
	}
	if got := lockOf(name); got != "0123abcd" {
		t.Errorf("%q", got)
	}
	if lockOf("RUN make") != "" || len(secrets) != 2 {
		t.Error("a name without a lock has one")
	}
}

// realDeb is a package that says what it is and holds nothing.
func realDeb(t *testing.T, name, version, arch string) []byte {
	t.Helper()
	control := "Package: " + name + "\nVersion: " + version + "\nArchitecture: " + arch + "\nDescription: short\n longer\n"
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, member := range []struct {
		name  string
		files map[string]string
	}{{"debian-binary", nil}, {"control.tar.gz", map[string]string{"./control": control}}, {"data.tar.gz", map[string]string{}}} {
		content := []byte("2.0\n")
		if member.files != nil {
			content = tgz(t, member.files)
		}
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(content))
		b.Write(content)
		if len(content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func tgz(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dsc is a source package's control file, signed in itself.
const dsc = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nFormat: 3.0 (quilt)\nSource: hello\nBinary: hello\nVersion: 1\nChecksums-Sha1:\n 0123 9 hello_1.orig.tar.xz\n" +
	"Checksums-Sha256:\n 0123 9 hello_1.orig.tar.xz\nBuild-Depends: x,\n y\nFiles:\n 0123 9 hello_1.orig.tar.xz\n\n-----BEGIN PGP SIGNATURE-----\nabc\n-----END PGP SIGNATURE-----\n"

// TestMadeIndex: the mirror has replaced the index a lock names and still has
// the lock's packages: steps get an index of these alone.
func TestMadeIndex(t *testing.T) {
	w := standard(t)
	files := map[string][]byte{
		"debian/pool/main/h/hello/hello_1_amd64.deb": realDeb(t, "hello", "1", "amd64"), "debian/pool/main/d/data/data_2_all.deb": realDeb(t, "data", "2", "all"),
		"debian/pool/main/h/hello/hello_1_arm64.deb": realDeb(t, "hello", "1", "arm64"), "debian/pool/main/h/hello/hello_1.dsc": []byte(dsc),
	}
	l := &lockfile.Lock{Epoch: 1700000000, Materials: []lockfile.Material{
		{Ecosystem: Debian, Path: "debian/dists/bookworm/InRelease", Digest: digest([]byte("of yesterday")), Size: 12},
		{Ecosystem: Debian, Path: "debian-security/dists/bookworm-security/InRelease", Digest: digest([]byte("of yesterday, too")), Size: 17},
		{Ecosystem: Debian, Path: "debian-security/dists/bookworm-security/main/binary-amd64/by-hash/SHA256/" + digest([]byte("list3")).Hex(), Digest: digest([]byte("list3")), Size: 5},
		{Ecosystem: Debian, Path: "debian/dists/bookworm/main/binary-amd64/by-hash/SHA256/" + digest([]byte("list")).Hex(), Digest: digest([]byte("list")), Size: 4},
		{Ecosystem: Debian, Path: "debian/dists/bookworm/main/binary-arm64/by-hash/SHA256/" + digest([]byte("list2")).Hex(), Digest: digest([]byte("list2")), Size: 5},
		{Ecosystem: Debian, Path: "debian/dists/bookworm/main/source/by-hash/SHA256/" + digest([]byte("list4")).Hex(), Digest: digest([]byte("list4")), Size: 5},
	}}
	for path, b := range files {
		w.files.set("/"+path, b)
		l.Materials = append(l.Materials, lockfile.Material{Ecosystem: Debian, Path: path, Digest: digest(b), Size: int64(len(b))})
	}
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock")
	c, _, _ := lockedStep(t, sock, step1, l.Key())
	suite := gatewayAt + "/debian/debian/dists/bookworm/"
	if resp, body := get(t, c, suite+"InRelease"); resp.StatusCode != http.StatusNotFound || resp.Header.Get("X-Drydock-Refused") != "" {
		t.Errorf("a signed index: %s %q", resp.Status, body)
	}
	resp, release := get(t, c, suite+"Release")
	if resp.StatusCode != http.StatusOK || !strings.Contains(release, "Codename: bookworm\n") || !strings.Contains(release, "Date: Tue, 14 Nov 2023 22:13:20 UTC\n") || !strings.Contains(release, "Architectures: amd64 arm64\n") {
		t.Errorf("%s %q", resp.Status, release)
	}
	_, list := get(t, c, suite+"main/binary-amd64/Packages")
	if !strings.Contains(release, " "+hexsum([]byte(list))+" "+fmt.Sprint(len(list))+" main/binary-amd64/Packages\n") {
		t.Errorf("the release names other lists: %s", release)
	}
	packages, err := debian.ParsePackages(strings.NewReader(list))
	if err != nil || len(packages) != 2 || packages[0].Name != "data" || packages[1].Name != "hello" || packages[1].Architecture != "amd64" {
		t.Fatalf("%v %+v", err, packages)
	}
	if _, got := get(t, c, gatewayAt+"/debian/debian/"+packages[1].Filename); got != string(files["debian/pool/main/h/hello/hello_1_amd64.deb"]) || packages[1].SHA256 != hexsum([]byte(got)) {
		t.Errorf("the package the list names: %q", got)
	}
	_, sources := get(t, c, suite+"main/source/Sources")
	if !strings.Contains(release, " "+hexsum([]byte(sources))+" "+fmt.Sprint(len(sources))+" main/source/Sources\n") {
		t.Errorf("the release names other sources: %s", release)
	}
	if want := "Format: 3.0 (quilt)\nPackage: hello\nBinary: hello\nVersion: 1\nChecksums-Sha256:\n " + hexsum([]byte(dsc)) + fmt.Sprintf(" %d hello_1.dsc\n", len(dsc)) +
		" 0123 9 hello_1.orig.tar.xz\nBuild-Depends: x,\n y\nDirectory: pool/main/h/hello\n\n"; sources != want {
		t.Errorf("%q\nwant %q", sources, want)
	}
	if resp, _ := get(t, c, suite+"main/binary-amd64/Packages.xz"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("what is not made: %s", resp.Status)
	}
	// a suite of which nothing was taken
	if resp, body := get(t, c, gatewayAt+"/debian/debian-security/dists/bookworm-security/Release"); resp.StatusCode != http.StatusOK || !strings.Contains(body, "Codename: bookworm-security\n") {
		t.Errorf("%s %q", resp.Status, body)
	}
	if resp, body := get(t, c, gatewayAt+"/debian/debian-security/dists/bookworm-security/main/binary-amd64/Packages"); resp.StatusCode != http.StatusOK || body != "" {
		t.Errorf("%s %q", resp.Status, body)
	}
	// poisoned: none is made of what is not what the lock names
	w.files.set("/debian/pool/main/d/data/data_2_all.deb", realDeb(t, "data", "3", "all"))
	empty, err := Discover(context.Background(), Config{}, w.host, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g2, sock := testGateway(t, empty, t.TempDir())
	g2.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock")
	c, told, _ := lockedStep(t, sock, step1, l.Key())
	if resp, body := get(t, c, suite+"Release"); resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "data_2_all.deb") {
		t.Errorf("%s %q", resp.Status, body)
	}
	if r := nextRefusal(t, told); r.Rule != RuleServed {
		t.Errorf("%+v", r)
	}
}

// TestLockedVersions: a list of versions the lock has not is made of its files.
func TestLockedVersions(t *testing.T) {
	w := newWorld(t)
	g, sock := testGateway(t, w.discover(Config{Go: Setting{URLs: []string{w.url + "/go"}}}), t.TempDir())
	l := &lockfile.Lock{}
	for _, p := range []string{"v1.0.0.zip", "v1.2.0.zip", "v1.3.0.mod", "v0.0.0-20170915032832-14c0d48ead0c.zip"} {
		l.Materials = append(l.Materials, lockfile.Material{Ecosystem: Go, Path: "a.test/m/@v/" + p, Digest: digest([]byte(p))})
	}
	g.Enforce("1", l, "locks/one.json", "drydock mirror lock")
	c, _, _ := lockedStep(t, sock, stepID("2"), "1")
	if resp, body := get(t, c, gatewayAt+"/go/a.test/m/@v/list"); resp.StatusCode != http.StatusOK || body != "v1.0.0\nv1.2.0\n" {
		t.Errorf("%s %q", resp.Status, body)
	}
	for _, p := range []string{"a.test/other/@v/list", "a.test/m/@latest"} {
		if resp, _ := get(t, c, gatewayAt+"/go/"+p); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
			t.Errorf("%s: %s", p, resp.Status)
		}
	}
}

// TestLockedFetch: an ADD of an address has no mounts to say whose lock it is
// under; it is held to what all of them say.
func TestLockedFetch(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	one := lockOfHello(w)
	two := &lockfile.Lock{Materials: []lockfile.Material{one.Materials[0]}}
	_, old := get(t, stepClient(t, sock, step1, true), gatewayAt+releasePath) // into the content store
	w.publish(suite{root: "/debian", name: "bookworm", packages: helloStanza("2.10-9")})
	w.age()
	g.Strict()
	add := func(step string) *http.Client {
		greet(t, sock, m{"kind": "step", "step": step, "name": "[1/2] ADD http://example.test/x /x", "fetch": true})
		return stepClient(t, sock, step, true)
	}
	if resp, body := get(t, add(stepID("2")), gatewayAt+releasePath); resp.Header.Get("X-Drydock-Rule") != RuleLocked || strings.Contains(body, "not in no lock") {
		t.Errorf("without any lock: %s %q", resp.Status, body)
	}
	g.Enforce("1", one, "locks/one.json", "drydock mirror lock --image one")
	if resp, body := get(t, add(stepID("3")), gatewayAt+releasePath); resp.StatusCode != http.StatusOK || body != old {
		t.Errorf("as locked: %s", resp.Status)
	}
	resp, body := get(t, add(stepID("4")), gatewayAt+"/debian/debian-security/dists/bookworm-security/InRelease")
	if resp.Header.Get("X-Drydock-Rule") != RuleLocked || !strings.Contains(body, "locks/one.json") {
		t.Errorf("not in the lock: %s %q", resp.Status, body)
	}
	g.Enforce("2", two, "locks/two.json", "drydock mirror lock --image two")
	if resp, _ := get(t, add(stepID("5")), gatewayAt+releasePath); resp.StatusCode != http.StatusOK {
		t.Errorf("two locks that agree: %s", resp.Status)
	}
	two.Materials[0].Digest = digest([]byte("another"))
	g.Enforce("2", two, "locks/two.json", "drydock mirror lock --image two")
	if resp, _ := get(t, add(stepID("6")), gatewayAt+releasePath); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
		t.Errorf("two locks that do not agree: %s", resp.Status)
	}
	// a RUN cannot say that it is one
	run := greet(t, sock, m{"kind": "step", "step": stepID("7"), "name": "RUN id=drydock-lock-+fetch"})
	defer run.Close()
	if resp, _ := get(t, stepClient(t, sock, stepID("7"), true), gatewayAt+"/debian"+helloPath); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
		t.Errorf("a RUN under no lock: %s", resp.Status)
	}
}

// TestFetchIsLocked: while a lock is made, ADD may fetch what nobody has a
// checksum of, as RUN may.
func TestFetchIsLocked(t *testing.T) {
	w := newWorld(t)
	w.files.set("/copies/tool", []byte("tool"))
	g, sock := testGateway(t, w.discover(Config{Files: []FileMirror{{Prefix: "https://one.test/", URLs: []string{w.url + "/copies"}}}}), t.TempDir())
	for i, want := range []int{http.StatusForbidden, http.StatusOK} {
		step := stepID(strconv.Itoa(i + 2))
		greet(t, sock, m{"kind": "step", "step": step, "name": "ADD https://one.test/tool /", "fetch": true})
		if resp, body := get(t, stepClient(t, sock, step, true), "http://one.test/tool"); resp.StatusCode != want {
			t.Errorf("%s %q", resp.Status, body)
		}
		g.Observe("new-1")
	}
}
