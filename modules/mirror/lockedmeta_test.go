package mirror

import (
	"archive/zip"
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drydock/modules/mirror/lockfile"
)

// npmPackage is a package as npm packs it.
func npmPackage(t *testing.T, manifest m, more ...string) []byte {
	t.Helper()
	b, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"package/package.json": string(b), "package/index.js": "module.exports = 1\n"}
	for _, name := range more {
		files["package/"+name] = "{}"
	}
	return tgz(t, files)
}

// publishNpm puts packages on the world's registry, with their metadata: said is
// what is said besides.
func publishNpm(t *testing.T, w *world, said m, packages map[string][]byte) {
	t.Helper()
	docs := map[string]m{}
	for rel, b := range packages {
		w.files.set("/npm/"+rel, b)
		file := filepath.Join(t.TempDir(), "p.tgz")
		writeFile(t, file, string(b))
		one, err := readTarball(file)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Dir(path.Dir(rel))
		if docs[name] == nil {
			docs[name] = m{"name": name, "versions": m{}, "dist-tags": m{}}
			maps.Copy(docs[name], said)
		}
		version := fmt.Sprint(one["version"])
		one["dist"].(map[string]any)["tarball"] = w.url + "/npm/" + rel
		docs[name]["versions"].(m)[version] = one
		tags := docs[name]["dist-tags"].(m)
		if tags["latest"] == nil || fmt.Sprint(tags["latest"]) < version {
			tags["latest"] = version
		}
	}
	for name, doc := range docs {
		b, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		w.files.set("/npm/"+name, b)
	}
}

func pinOf(ecosystem, path string, b []byte) lockfile.Material {
	return lockfile.Material{Ecosystem: ecosystem, Path: path, Digest: digest(b), Size: int64(len(b))}
}

// underLock is a step under a lock, on a machine whose content store is empty.
func underLock(t *testing.T, w *world, cfg Config, l *lockfile.Lock) *http.Client {
	t.Helper()
	w.dir = t.TempDir()
	g, sock := testGateway(t, w.discover(cfg), t.TempDir())
	g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock --image app")
	c, _, _ := lockedStep(t, sock, step1, l.Key())
	return c
}

// TestMadeNpmMetadata: the registry says other things of packages by now, and
// still has them: steps are told of those in the lock.
func TestMadeNpmMetadata(t *testing.T) {
	w := newWorld(t)
	one := npmPackage(t, m{"name": "pad", "version": "1.0.0", "bin": "cli.js", "scripts": m{"postinstall": "x", "test": "y"}, "secret": 1})
	two := npmPackage(t, m{"name": "pad", "version": "2.0.0", "dependencies": m{"a": "1", "far": "1"}, "optionalDependencies": m{"far": "1"}}, "binding.gyp", "npm-shrinkwrap.json")
	scoped := npmPackage(t, m{"name": "@corp/pad", "version": "3.0.0-rc.1"})
	packages := map[string][]byte{"pad/-/pad-1.0.0.tgz": one, "pad/-/pad-2.0.0.tgz": two, "@corp/pad/-/pad-3.0.0-rc.1.tgz": scoped}
	l := &lockfile.Lock{}
	for _, name := range []string{"pad", "pad?full", "pad/latest", "pad/9.0.0", "@corp/pad", "far", "alone"} {
		l.Materials = append(l.Materials, pinOf(Npm, name, []byte("what was said of "+name)))
	}
	for rel, b := range packages {
		l.Materials = append(l.Materials, pinOf(Npm, rel, b))
	}
	publishNpm(t, w, m{"readme": "new"}, packages)
	publishNpm(t, w, m{"readme": "newer"}, map[string][]byte{"pad/-/pad-4.0.0.tgz": npmPackage(t, m{"name": "pad", "version": "4.0.0"})})
	cfg := Config{Npm: Setting{URLs: []string{w.url + "/npm"}}}
	c := underLock(t, w, cfg, l)

	resp, body := getAs(t, c, gatewayAt+"/npm/pad", npmShort)
	var doc npmDoc
	if err := json.Unmarshal([]byte(body), &doc); err != nil || resp.Header.Get("Content-Type") != npmShort {
		t.Fatalf("%s %v %q", resp.Status, err, body)
	}
	sum := sha512.Sum512(one)
	first, second := doc.Versions["1.0.0"], doc.Versions["2.0.0"]
	dist, _ := first["dist"].(map[string]any)
	if len(doc.Versions) != 2 || doc.Tags["latest"] != "2.0.0" || dist["integrity"] != "sha512-"+base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("%s", body)
	}
	if fmt.Sprint(first["bin"]) != "map[pad:cli.js]" || first["hasInstallScript"] != true || first["secret"] != nil {
		t.Errorf("1.0.0: %v", first)
	}
	if fmt.Sprint(second["dependencies"]) != "map[a:1]" || second["hasInstallScript"] != true || second["_hasShrinkwrap"] != true {
		t.Errorf("2.0.0: %v", second)
	}
	if resp, body := get(t, c, fmt.Sprint(dist["tarball"])); body != string(one) {
		t.Errorf("the package it names: %s", resp.Status)
	}
	for path, want := range map[string]string{
		"pad": `"2.0.0"`, "pad/latest": `"version":"2.0.0"`, "@corp%2fpad": `"latest":"3.0.0-rc.1"`, "far": `"versions":{}`, // the last is for another machine
	} {
		accept := npmShort
		if path == "pad" {
			accept = npmFull
		}
		if resp, body := getAs(t, c, gatewayAt+"/npm/"+path, accept); resp.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	// a package of which the lock has nothing, and a version it does not have
	for _, path := range []string{"alone", "pad/9.0.0"} {
		if resp, body := getAs(t, c, gatewayAt+"/npm/"+path, npmShort); resp.Header.Get("X-Drydock-Rule") != RuleServed || !strings.Contains(body, "npm "+path) {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	// what is still served is not made
	publishNpm(t, w, nil, packages)
	now := w.files.by["/npm/pad"]
	l.Materials[0] = pinOf(Npm, "pad", now)
	c = underLock(t, w, cfg, l)
	if _, body := getAs(t, c, gatewayAt+"/npm/pad", npmShort); !strings.Contains(body, "secret") {
		t.Errorf("%s", body)
	}
	// a file of the lock that is another, or gone, or says that it is another
	for name, change := range map[string]func(){
		"another": func() { w.files.set("/npm/pad/-/pad-1.0.0.tgz", two) },
		"gone":    func() { delete(w.files.by, "/npm/pad/-/pad-1.0.0.tgz") },
		"misnamed": func() {
			w.files.set("/npm/pad/-/pad-1.0.0.tgz", scoped)
			i := slices.IndexFunc(l.Materials, func(m lockfile.Material) bool { return m.Path == "pad/-/pad-1.0.0.tgz" })
			l.Materials[i] = pinOf(Npm, "pad/-/pad-1.0.0.tgz", scoped)
		},
	} {
		l.Materials[0] = pinOf(Npm, "pad", []byte("what was said of pad"))
		change()
		c = underLock(t, w, cfg, l)
		if resp, body := getAs(t, c, gatewayAt+"/npm/pad", npmShort); resp.Header.Get("X-Drydock-Rule") != RuleServed || !strings.Contains(body, map[bool]string{true: "pad-1.0.0.tgz", false: "npm pad as"}[name != "misnamed"]) {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
}

// TestMadePyPIPage: likewise of an index.
func TestMadePyPIPage(t *testing.T) {
	w := newWorld(t)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{
		"some_thing/vendor.dist-info/METADATA": "Requires-Python: no\n", "some_thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: some.thing\nRequires-Python: >=3.8\n\nRequires-Python: none\n",
	} {
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.Write([]byte(text))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	wheel, sdist := b.Bytes(), []byte("pretend to be an sdist")
	w.files.set("/f/some_thing-1.0-py3-none-any.whl", wheel)
	w.files.set("/f/some_thing-0.9.tar.gz", sdist)
	w.files.set("/simple/some-thing/", fmt.Appendf(nil, `{"meta":{"api-version":"1.0"},"name":"some-thing","files":[
{"filename":"some_thing-2.0-py3-none-any.whl","url":"/f/some_thing-2.0-py3-none-any.whl","hashes":{"sha256":"%[1]s"}},
{"filename":"some_thing-1.0-py3-none-any.whl","url":"/f/some_thing-1.0-py3-none-any.whl","hashes":{"sha256":"%[1]s"}},
{"filename":"some_thing-0.9.tar.gz","url":"/f/some_thing-0.9.tar.gz","hashes":{"sha256":"%[2]s"},"yanked":true}]}`, hexsum(wheel), hexsum(sdist)))
	l := &lockfile.Lock{Materials: []lockfile.Material{
		pinOf(PyPI, "simple/some-thing", []byte("yesterday's")), pinOf(PyPI, "simple/pip", []byte("yesterday's")), pinOf(PyPI, "simple/alone", []byte("yesterday's")),
		pinOf(PyPI, "files/some-thing/some_thing-1.0-py3-none-any.whl", wheel), pinOf(PyPI, "files/some-thing/some_thing-0.9.tar.gz", sdist),
		pinOf(PyPI, "files/some-thing/some_thing-1.0-py3-none-any.whl.metadata", []byte("meta")), pinOf(PyPI, "files/some-thing/some_thing-1.1-py3-none-any.whl.metadata", []byte("meta")),
	}}
	cfg := Config{PyPI: Setting{URLs: []string{w.url + "/simple"}}}
	c := underLock(t, w, cfg, l)
	resp, body := getAs(t, c, gatewayAt+"/pypi/simple/some.thing/", pypiJSON)
	var page pypiPage
	if err := json.Unmarshal([]byte(body), &page); err != nil || len(page.Files) != 2 {
		t.Fatalf("%s %v %s", resp.Status, err, body)
	}
	old, now := page.Files[0], page.Files[1]
	if now.RequiresPython != ">=3.8" || now.Hashes["sha256"] != hexsum(wheel) || fmt.Sprint(now.Metadata) != "map[sha256:"+hexsum([]byte("meta"))+"]" {
		t.Errorf("%+v", now)
	}
	if old.Filename != "some_thing-0.9.tar.gz" || old.Yanked != nil || old.Metadata != nil {
		t.Errorf("%+v", old)
	}
	for u, want := range map[string][]byte{now.URL: wheel, old.URL: sdist} {
		if resp, body := get(t, c, u); body != string(want) {
			t.Errorf("%s: %s", u, resp.Status)
		}
	}
	if _, body := getAs(t, c, gatewayAt+"/pypi/simple/some-thing/", "text/html"); !strings.Contains(body, now.URL+"#sha256="+hexsum(wheel)) {
		t.Errorf("%s", body)
	}
	if resp, body := getAs(t, c, gatewayAt+"/pypi/simple/pip/", pypiJSON); resp.StatusCode != http.StatusOK || !strings.Contains(body, `"files":[]`) {
		t.Errorf("pip looking for itself: %s %s", resp.Status, body)
	}
	if resp, _ := getAs(t, c, gatewayAt+"/pypi/simple/alone/", pypiJSON); resp.Header.Get("X-Drydock-Rule") != RuleServed {
		t.Errorf("a project of which the lock has no file: %s", resp.Status)
	}
	w.files.set("/f/some_thing-1.0-py3-none-any.whl", []byte("poisoned"))
	if resp, body := getAs(t, underLock(t, w, cfg, l), gatewayAt+"/pypi/simple/some-thing/", pypiJSON); resp.Header.Get("X-Drydock-Rule") != RuleServed || !strings.Contains(body, "some_thing-1.0-py3-none-any.whl") {
		t.Errorf("poisoned: %s %s", resp.Status, body)
	}
}

// TestRealNpmInstallsWhatWasLocked lets npm itself install twice: when the lock is
// made, and when the registry has newer versions of everything.
func TestRealNpmInstallsWhatWasLocked(t *testing.T) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("this machine has no npm mirror to try with its own client: no such program")
	}
	w := newWorld(t)
	all := map[string][]byte{}
	publish := func(versions ...string) {
		for _, v := range versions {
			major := v[:1]
			all["top/-/top-"+v+".tgz"] = npmPackage(t, m{"name": "top", "version": v, "bin": "index.js", "dependencies": m{"@corp/low": "^" + major, "low": "1"}, "optionalDependencies": m{"far": "^1"}})
			all["low/-/low-"+v+".tgz"] = npmPackage(t, m{"name": "low", "version": v, "peerDependencies": m{"@corp/low": ">=1"}})
			all["@corp/low/-/low-"+v+".tgz"] = npmPackage(t, m{"name": "@corp/low", "version": v, "license": "MIT"})
			all["far/-/far-"+v+".tgz"] = npmPackage(t, m{"name": "far", "version": v, "os": []string{"sunos"}})
		}
		publishNpm(t, w, m{"readme": fmt.Sprint(versions)}, all) // those there stay the bytes they are
	}
	cfg := Config{Npm: Setting{URLs: []string{w.url + "/npm"}}}
	install := func(sock string, want ...string) string {
		dir := t.TempDir()
		cmd := exec.Command(npm, append([]string{"install", "--no-audit", "--no-fund", "--ignore-scripts"}, want...)...)
		proxy := "http://" + bridge(t, sock, step1)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "http_proxy=" + proxy, "npm_config_registry=" + gatewayAt + "/npm/"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm: %v\n%s", err, out)
		}
		installed := ""
		for _, name := range []string{"top", "low", "@corp/low", "far"} {
			b, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
			installed += fmt.Sprintln(name, err == nil, string(b))
		}
		if link, err := os.Readlink(filepath.Join(dir, "node_modules/.bin/top")); err != nil || link != "../top/index.js" {
			t.Errorf("bin: %q %v", link, err)
		}
		return installed
	}
	publish("1.0.0", "1.2.0")
	g, sock := testGateway(t, w.discover(cfg), t.TempDir())
	g.Observe("new-1")
	_, _, end := lockedStep(t, sock, step1, "new-1")
	before := install(sock, "top")
	end(true)
	l := &lockfile.Lock{}
	waitFor(t, "the step's record", func() bool {
		greetBuild(t, sock, "b", step1)
		f := g.Fetched("b")
		l.Materials, l.Absent = nil, f.Absent
		for _, m := range f.Materials {
			l.Materials = append(l.Materials, lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size})
		}
		return f.Complete
	})
	publish("1.9.0")
	w.dir = t.TempDir()
	g, sock = testGateway(t, w.discover(cfg), t.TempDir())
	g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock")
	lockedStep(t, sock, step1, l.Key())
	if after := install(sock, "top"); after != before || !strings.Contains(after, `"version":"1.2.0"`) {
		t.Errorf("%s\nwas locked, and now is\n%s", before, after)
	}
	// without the lock, npm does take the newer ones
	w.dir = t.TempDir()
	_, sock = testGateway(t, w.discover(cfg), t.TempDir())
	if free := install(sock, "top"); !strings.Contains(free, `"version":"1.9.0"`) {
		t.Errorf("nothing has moved: %s", free)
	}
}
