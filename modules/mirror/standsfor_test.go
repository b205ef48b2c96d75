package mirror

import (
	"net/http"
	"strings"
	"testing"
)

// TestStandsFor asks the places that lockfiles name: the mirrors answer where
// there are any, by the paths that locks have.
func TestStandsFor(t *testing.T) {
	stands := []StandIn{
		{"registry.test/", "npm"}, {"yarn.test/", "npm"}, {"index.test/simple/", "pypi/simple"}, {"wheels.test/packages/", "pypi/files"},
		{"info.test/pypi/", "pypi/json"}, {"modules.test/", "go"}, {"archive.test/debian/", "debian"},
	}
	w := standard(t)
	simpleIndex(w, pageHTML, "html")
	w.files.set("/npm/left/-/left-1.0.0.tgz", []byte("a tarball"))
	w.files.set("/npm/left", []byte(`{"name":"left","versions":{"1.0.0":{"version":"1.0.0","dist":{"tarball":"http://elsewhere.test/x.tgz"}}}}`))
	w.files.set("/go/example.test/m/@v/list", []byte("v1.0.0\n"))
	g, sock := testGateway(t, w.discover(Config{
		PyPI: Setting{URLs: []string{w.url + "/simple/"}}, Npm: Setting{URLs: []string{w.url + "/npm/"}}, Go: Setting{URLs: []string{w.url + "/go"}},
		StandsFor: stands,
	}), t.TempDir())
	secure := secureClient(t, sock, step1, true, false)
	plain := stepClient(t, sock, step1, true)
	for url, want := range map[string]string{
		"://registry.test/left/-/left-1.0.0.tgz":                                      "a tarball",
		"://yarn.test/left/-/left-1.0.0.tgz":                                          "a tarball",
		"://modules.test/example.test/m/@v/list":                                      "v1.0.0\n",
		"://index.test/simple/some-thing/":                                            "some_thing-1.0-py3-none-any.whl",
		"://wheels.test/packages/ab/cd/0123/some_thing-1.0-py3-none-any.whl":          wheel,
		"://wheels.test/packages/ab/cd/0123/some_thing-1.0-py3-none-any.whl.metadata": wheelMeta,
		"://info.test/pypi/Some_Thing/1.0/json": `"info":{"name":"some-thing","version":"1.0","summary":"","requires_dist":null,"requires_python":"\u003e=3.8","yanked":false,"yanked_reason":null},` +
			`"urls":[{"filename":"some_thing-1.0-py3-none-any.whl","url":"http://mirror.drydock.internal/pypi/files/some-thing/some_thing-1.0-py3-none-any.whl","packagetype":"bdist_wheel","digests":{"sha256":"`,
		"://info.test/pypi/some-thing/0.9/json": `"packagetype":"sdist"`,
		"://archive.test" + helloPath:           helloDeb,
	} {
		for scheme, c := range map[string]*http.Client{"http": plain, "https": secure} {
			if resp, body := get(t, c, scheme+url); resp.StatusCode != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s%s: %s %q", scheme, url, resp.Status, body)
			}
		}
	}
	for _, url := range []string{
		"http://registry.test:8080/left/-/left-1.0.0.tgz", "http://index.test/pypi/some-thing/json", "http://other.registry.test/left",
		"http://archive.test/debian-backports/x", "http://registry.test.evil.test/left",
	} {
		if resp, _ := get(t, plain, url); resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Rule") != RuleMirrorOnly {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	// npm asks a proxy for https in this way
	if resp, body := get(t, plain, "http://yarn.test:443/left/-/left-1.0.0.tgz"); body != "a tarball" {
		t.Errorf("port 443: %s %q", resp.Status, body)
	}
	for url, remedy := range map[string]string{
		"http://other.test:443/sub/@a/b/-/b-1.0.0.tgz": "standsFor: {other.test/: npm}", "http://other.test/b.tgz": "list it under files:",
		"http://other.test/x/golang.org/x/text/@v/v0.3.0.mod": "standsFor: {other.test/x/: go}", "http://other.test/rsc.io/quote/@latest": "standsFor: {other.test/: go}",
		"http://other.test/team/app?go-get=1":                        "mirror its repositories, git: {other.test: …}",
		"http://other.test/debian/dists/bookworm/InRelease":          "standsFor: {other.test/debian/: debian}",
		"http://other.test/a/debian/pool/main/h/h_1_all.deb":         "standsFor: {other.test/a/debian/: debian}",
		"http://other.test/debian-security/dists/x/InRelease":        "standsFor: {other.test/debian-security/: debian-security}",
		"http://other.test/pypi/simple/demo/":                        "standsFor: {other.test/pypi/simple/: pypi/simple}; the same of the host of its files",
		"http://other.test/simple/demo":                              "standsFor: {other.test/simple/: pypi/simple}",
		"http://other.test/packages/ab/demo-1.0-py3-none-any.whl":    "standsFor: {other.test/packages/: pypi/files}",
		"http://other.test/dl/tool-1.0.tar.gz":                       "list it under files:",
		"http://other.test/dist/v22.1.0/node-v22.1.0-headers.tar.gz": "ENV npm_config_nodedir=/usr/local",
		"http://other.test/pypi/demo/1.0/json":                       "standsFor: {other.test/pypi/: pypi/json}",
	} {
		resp, _ := get(t, plain, url)
		if got := resp.Header; resp.StatusCode != http.StatusForbidden || !strings.Contains(got.Get("X-Drydock-Remedy"), remedy) || strings.Contains(got.Get("X-Drydock-Refused"), ":443") {
			t.Errorf("%s: %s %v", url, resp.Status, got)
		}
	}
	for url, base := range map[string]string{
		"https://yarn.test/left": "https://yarn.test/", "http://registry.test/left": "http://registry.test/",
		gatewayURL + "/npm/left": gatewayURL + "/npm/", w.url + "/npm/left": w.url + "/npm/",
	} {
		c := plain
		if strings.HasPrefix(url, "https:") {
			c = secure
		}
		if resp, body := get(t, c, url); !strings.Contains(body, `"tarball":"`+base+`left/-/left-1.0.0.tgz"`) {
			t.Errorf("%s: %s, tarballs elsewhere than in that registry: %q", url, resp.Status, body)
		}
	}
	paths := map[string]bool{}
	for _, m := range g.steps.steps[step1].materials {
		paths[m.Ecosystem+" "+m.Path] = true
	}
	for _, p := range []string{"npm left/-/left-1.0.0.tgz", "pypi files/some-thing/some_thing-1.0-py3-none-any.whl", "debian " + strings.TrimPrefix(helloPath, "/")} {
		if !paths[p] {
			t.Errorf("%q is no material: %v", p, paths)
		}
	}
	_, sock = testGateway(t, newWorld(t).discover(Config{StandsFor: stands}), t.TempDir())
	if resp, _ := get(t, stepClient(t, sock, step1, true), "http://yarn.test/left"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("without a mirror: %s", resp.Status)
	}
}
