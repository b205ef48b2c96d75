package mirror

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"drydock/modules/mirror/lockfile"
)

// asOfPaths are answers that are others later on: cut lists, tags, a branch, an
// index of a snapshot and a package only that has.
var asOfPaths = []string{
	"/go/example.test/m/@v/list", "/go/example.test/m/@latest", "/go/example.test/m/@v/main.info", "/go/example.test/m/@v/v1.0.0.info",
	"/npm/pad", "/npm/pad/old", "/pypi/simple/pad/", "/debian/debian/dists/bookworm/InRelease",
	"/debian/debian/pool/main/h/hello/hello_2.10-1_amd64.deb",
}

// yesterday publishes what the mirrors have at a time, and its snapshot.
func yesterday(w *world, at time.Time) Config {
	const mod = "/go/example.test/m"
	w.files.set(mod+"/@v/list", []byte("v1.1.0\nv1.0.0\n"))
	for v, day := range map[string]string{"v1.0.0": "2023-01-01", "v1.1.0": "2023-05-01", "v1.0.1-0.20230101000000-abcdefabcdef": "2023-01-01"} {
		w.files.set(mod+"/@v/"+v+".info", []byte(fmt.Sprintf(`{"Version":%q,"Time":"%sT00:00:00Z"}`, v, day)))
	}
	w.files.set(mod+"/@v/main.info", []byte(`{"Version":"v1.0.1-0.20230101000000-abcdefabcdef","Time":"2023-01-01T00:00:00Z","Origin":{"Ref":"refs/heads/main"}}`))
	w.files.set(mod+"/@v/v1.0.1-0.20230101000000-abcdefabcdef.mod", []byte("module example.test/m\n"))
	w.files.set("/npm/pad", []byte(`{"name":"pad","dist-tags":{"latest":"1.0.0","old":"1.0.0","next":"1.1.0"},
"time":{"modified":"2023-01-02T00:00:00Z","1.0.0":"2020-01-01T00:00:00.000Z","1.1.0":"2023-01-01T00:00:00Z"},
"versions":{"1.0.0":{"version":"1.0.0","bin":{"b":"x","a":"y"},"dist":{"tarball":"http://one.test/pad-1.0.0.tgz","integrity":"sha512-x"}},"1.1.0":{"version":"1.1.0"}}}`))
	w.files.set("/simple/pad/", []byte(`{"meta":{"_last-serial":1},"name":"pad","files":[{"filename":"pad-1.tar.gz","url":"../../f/pad-1.tar.gz","hashes":{"sha256":"`+strings.Repeat("a", 64)+`"},"upload-time":"2023-01-01T00:00:00Z"}]}`))
	stamp := at.UTC().Format("20060102T150405Z")
	w.publish(suite{root: "/snap/debian/" + stamp, name: "bookworm", packages: helloStanza("2.10-1")})
	w.publish(suite{root: "/snap/debian-security/" + stamp, name: "bookworm-security", packages: ""})
	w.files.set("/snap/debian/"+stamp+"/pool/main/h/hello/hello_2.10-1_amd64.deb", []byte(helloDeb))
	return Config{
		Go: Setting{URLs: []string{w.url + "/go"}}, Npm: Setting{URLs: []string{w.url + "/npm"}}, PyPI: Setting{URLs: []string{w.url + "/simple"}},
		Snapshot: w.url + "/snap/{archive}/{timestamp}",
	}
}

// today is what the same mirrors have later: more of everything, tags and
// branches moved, things said of what was there already.
func today(w *world, taken string) {
	const mod = "/go/example.test/m"
	w.files.set(mod+"/@v/list", []byte("v1.0.0\nv1.2.0\n"+taken))
	w.files.set(mod+"/@v/v1.2.0.info", []byte(`{"Version":"v1.2.0","Time":"2999-01-01T00:00:00Z"}`))
	w.files.set(mod+"/@v/main.info", []byte(`{"Version":"v1.2.1","Time":"2999-01-01T00:00:00Z"}`))
	w.files.set("/npm/pad", []byte(`{"dist-tags":{"latest":"2.0.0","old":"1.1.0","next":"2.0.0"},"name":"pad","readme":"new","maintainers":[{"name":"another"}],
"time":{"modified":"2999-01-02T00:00:00Z","1.1.0":"2023-01-01T00:00:00Z","1.0.0":"2020-01-01T00:00:00.000Z","2.0.0":"2999-01-01T00:00:00Z"},
"versions":{"1.1.0":{"version":"1.1.0"},"1.0.0":{"deprecated":"no more","version":"1.0.0","bin":{"a":"y", "b":"x"},"dist":{"integrity":"sha512-x","tarball":"http://two.test/pad-1.0.0.tgz","signatures":[]}},"2.0.0":{"version":"2.0.0"}}}`))
	w.files.set("/simple/pad/", []byte(`{"meta":{"_last-serial":9},"name":"Pad","files":[{"filename":"pad-2.tar.gz","url":"/g/pad-2.tar.gz","hashes":{},"upload-time":"2999-01-01T00:00:00Z"},
{"filename":"pad-1.tar.gz","url":"/g/pad-1.tar.gz","yanked":"broken","hashes":{"sha256":"`+strings.Repeat("a", 64)+`"},"upload-time":"2023-01-01T00:00:00.000000Z"}]}`))
}

// lockAsOf is a lock made as of a time, and the answers it was made of.
func lockAsOf(t *testing.T, s *Set) (*lockfile.Lock, map[string]string) {
	t.Helper()
	g, sock := testGateway(t, s, t.TempDir())
	g.Observe("new-1")
	c, _, end := lockedStep(t, sock, step1, "new-1")
	bodies := map[string]string{}
	for _, path := range append(asOfPaths, "/go/example.test/m/@v/v1.0.1-0.20230101000000-abcdefabcdef.mod") {
		resp, body := get(t, c, gatewayAt+path)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %q", path, resp.Status, body)
		}
		bodies[path] = body
	}
	end(true)
	at := s.At()
	l := &lockfile.Lock{Image: "app", To: &at}
	waitFor(t, "the step's record", func() bool {
		l.Materials = nil
		h := hello{Build: "b"}
		h.Steps = append(h.Steps, struct {
			Step   string `json:"step"`
			Name   string `json:"name"`
			MadeBy string `json:"madeBy"`
		}{Step: step1})
		if err := g.steps.build(h); err != nil {
			t.Fatal(err)
		}
		f := g.Fetched("b")
		for _, m := range f.Materials {
			tags, err := s.NpmTags(m)
			if err != nil {
				t.Fatal(err)
			}
			l.Materials = append(l.Materials, lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size, Tags: tags})
		}
		return f.Complete
	})
	raw, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if l, err = lockfile.Parse(raw, "cat/locks/app.json"); err != nil {
		t.Fatal(err)
	}
	return l, bodies
}

// TestLockAsOfIsEnough: a machine with the lock and an empty content store is
// given by the mirrors of a later day what the lock was made of.
func TestLockAsOfIsEnough(t *testing.T) {
	w := standard(t)
	at := time.Now().UTC().Truncate(time.Second)
	cfg := yesterday(w, at)
	cfg.At = at
	l, bodies := lockAsOf(t, w.discover(cfg))
	cfg.At = time.Time{}

	elsewhere := func(cfg Config) (*http.Client, *bufio.Reader) {
		w.dir = t.TempDir()
		g, sock := testGateway(t, w.discover(cfg), t.TempDir())
		g.Enforce(l.Key(), l, "cat/locks/app.json", "drydock mirror lock --image app")
		c, told, _ := lockedStep(t, sock, stepID("2"), l.Key())
		return c, told
	}
	today(w, "v1.1.0\n")
	c, _ := elsewhere(cfg)
	for path, want := range bodies {
		if resp, body := get(t, c, gatewayAt+path); body != want {
			t.Errorf("%s: %s %q, want %q", path, resp.Status, body, want)
		}
	}
	// what cannot be made again is refused, with why: versions taken back, no
	// snapshots
	today(w, "")
	cfg.Snapshot = ""
	c, told := elsewhere(cfg)
	for path, want := range map[string]string{
		"/go/example.test/m/@v/list":              "wrong checksum",
		"/debian/debian/dists/bookworm/InRelease": "set snapshot: in mirrors.yaml",
	} {
		resp, body := get(t, c, gatewayAt+path)
		if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Rule") != RuleServed || !strings.Contains(body, want) {
			t.Errorf("%s: %s %q", path, resp.Status, body)
		}
		if r := nextRefusal(t, told); r.Rule != RuleServed {
			t.Errorf("%+v", r)
		}
	}
}
