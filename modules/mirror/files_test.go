package mirror

import (
	"bufio"
	"net/http"
	"strings"
	"testing"

	"drydock/modules/mirror/lockfile"
)

func TestFiles(t *testing.T) {
	w := newWorld(t)
	w.files.set("/copies/tool-1.tar.gz", []byte("tool"))
	w.files.set("/copies/sub/other.zip", []byte("other"))
	w.files.set("/copies/bad.zip", []byte("evil"))
	cfg := Config{Files: []FileMirror{{
		Prefix: "https://Downloads.test/dl/", URLs: []string{w.url + "/gone", w.url + "/copies"},
		SHA256: map[string]string{"tool-1.tar.gz": hexsum([]byte("tool")), "bad.zip": hexsum([]byte("good"))},
	}}}
	g, sock := testGateway(t, w.discover(cfg), t.TempDir())
	control := bufio.NewReader(greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN curl"}))
	c := stepClient(t, sock, step1, true)
	if resp, body := get(t, c, "http://downloads.test/dl/tool-1.tar.gz"); resp.StatusCode != http.StatusOK || body != "tool" {
		t.Errorf("%s %q", resp.Status, body)
	}
	if resp, body := get(t, c, "http://downloads.test/dl/bad.zip"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "wrong checksum") {
		t.Errorf("another file: %s %q", resp.Status, body)
	}
	for url, rule := range map[string]string{
		"http://downloads.test/dl/sub/other.zip": RuleChecksum, "http://downloads.test/other": RuleMirrorOnly, "http://downloads.test/dl/tool-1.tar.gz?x=1": RuleMirrorOnly,
	} {
		if resp, _ := get(t, c, url); resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Rule") != rule {
			t.Errorf("%s: %s %v", url, resp.Status, resp.Header)
		}
		if r := nextRefusal(t, control); r.Rule != rule {
			t.Errorf("%s: the executor was told %+v", url, r)
		}
	}
	mounts, _ := LockMounts("new-1")
	g.Observe("new-1")
	greet(t, sock, m{"kind": "step", "step": step2, "name": "RUN --mount=" + mounts[0] + " --mount=" + mounts[1] + " curl"})
	c = stepClient(t, sock, step2, true)
	if resp, body := get(t, c, "http://downloads.test/dl/sub/other.zip"); body != "other" {
		t.Errorf("making a lock: %s %q", resp.Status, body)
	}
	var lock lockfile.Lock
	for _, m := range g.steps.steps[step2].materials {
		if m.Path != "downloads.test/dl/sub/other.zip" || !strings.HasPrefix(m.PURL, "pkg:generic/other.zip?download_url=https%3A%2F%2Fdownloads.test") {
			t.Errorf("%+v", m)
		}
		lock.Materials = append(lock.Materials, lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size})
	}
	w.files.set("/copies/sub/other.zip", []byte("OTHER"))
	full := w.dir
	for name, want := range map[string]int{"as locked": http.StatusOK, "changed": http.StatusForbidden} {
		dir := t.TempDir()
		if w.dir = full; name == "changed" {
			w.dir = t.TempDir() // an empty content store
		}
		g, sock := testGateway(t, w.discover(cfg), dir)
		g.Enforce("0123", &lock, "locks/x.json", "lock anew")
		mounts, _ := LockMounts("0123")
		greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN --mount=" + mounts[0] + " --mount=" + mounts[1] + " curl"})
		if resp, body := get(t, stepClient(t, sock, step1, true), "http://downloads.test/dl/sub/other.zip"); resp.StatusCode != want {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
	}
}

// TestOneFileTwoNames fetches one file of a mirror by two of its names: both are
// materials, or a lock would refuse one of them.
func TestOneFileTwoNames(t *testing.T) {
	w := newWorld(t)
	w.files.set("/copies/tool", []byte("tool"))
	sums := map[string]string{"tool": hexsum([]byte("tool"))}
	g, sock := testGateway(t, w.discover(Config{Files: []FileMirror{
		{Prefix: "https://one.test/", URLs: []string{w.url + "/copies"}, SHA256: sums}, {Prefix: "https://two.test/", URLs: []string{w.url + "/copies"}, SHA256: sums},
	}}), t.TempDir())
	control := greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN curl"})
	for _, host := range []string{"one.test", "two.test", "one.test"} {
		if resp, body := get(t, stepClient(t, sock, step1, true), "http://"+host+"/tool"); body != "tool" {
			t.Fatalf("%s: %s %q", host, resp.Status, body)
		}
	}
	ended(t, control)
	greetBuild(t, sock, "b", step1)
	f := g.Fetched("b")
	if len(f.Materials) != 2 || f.Materials[0].Path != "one.test/tool" || f.Materials[1].Path != "two.test/tool" || f.Materials[0].URL != f.Materials[1].URL {
		t.Fatalf("%+v", f.Materials)
	}
	for _, m := range f.Materials {
		if s := f.StepsOf(m); len(s) != 1 || s[0] != "RUN 11" {
			t.Errorf("%s: fetched by %q", m.Path, s)
		}
	}
}
