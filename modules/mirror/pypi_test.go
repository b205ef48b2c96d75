package mirror

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// simpleIndex puts a project's page and file on the world's server.
func simpleIndex(w *world, page string, contentType string) {
	w.files.set("/simple/some-thing/", []byte(strings.NewReplacer("SUM", hexsum([]byte(wheel)), "META", hexsum([]byte(wheelMeta)), "URL", w.url).Replace(page)))
	w.files.set("/packages/ab/some_thing-1.0-py3-none-any.whl", []byte(wheel))
	w.files.set("/packages/ab/some_thing-1.0-py3-none-any.whl.metadata", []byte(wheelMeta))
	_ = contentType
}

const (
	wheel     = "pretend to be a wheel"
	wheelMeta = "Metadata-Version: 2.1\nName: some.thing\n"
	pageHTML  = `<!DOCTYPE html><html><body>
<a href="../../packages/ab/some_thing-1.0-py3-none-any.whl#sha256=SUM" data-requires-python="&gt;=3.8" data-core-metadata="sha256=META">some_thing-1.0-py3-none-any.whl</a>
<a href="URL/packages/ab/some_thing-0.9.tar.gz#sha256=SUM" data-yanked="broken">some_thing-0.9.tar.gz</a>
<a href="URL/packages/ab/nosum-1.tar.gz#md5=abc">nosum-1.tar.gz</a>
<a href="javascript:x">evil</a>
</body></html>`
	pageJSON = `{"meta":{"api-version":"1.1"},"name":"some-thing","files":[
{"filename":"some_thing-1.0-py3-none-any.whl","url":"../../packages/ab/some_thing-1.0-py3-none-any.whl","hashes":{"sha256":"SUM"},"requires-python":">=3.8","core-metadata":{"sha256":"META"},"size":21,"upload-time":"2024-03-01T00:00:00Z"},
{"filename":"some_thing-0.9.tar.gz","url":"URL/packages/ab/some_thing-0.9.tar.gz","hashes":{"sha256":"SUM"},"yanked":"broken","upload-time":"2023-03-01T00:00:00Z"},
{"filename":"nosum-1.tar.gz","url":"URL/packages/ab/nosum-1.tar.gz","hashes":{"md5":"abc"},"upload-time":"2023-01-01T00:00:00Z"},
{"filename":"../evil","url":"URL/x","hashes":{}}
]}`
)

// getAs is get with an Accept header.
func getAs(t *testing.T, c *http.Client, url, accept string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp, readAll(t, resp)
}

// TestPyPI reads both forms of an index and gives both, with every file's
// address the gateway's.
func TestPyPI(t *testing.T) {
	for form, page := range map[string]string{"html": pageHTML, "json": pageJSON} {
		t.Run(form, func(t *testing.T) {
			w := newWorld(t)
			simpleIndex(w, page, form)
			g, sock := testGateway(t, w.discover(Config{PyPI: Setting{URLs: []string{w.url + "/simple/"}}}), t.TempDir())
			c := stepClient(t, sock, step1, false)
			const pip = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
			resp, body := getAs(t, c, "http://mirror.drydock.internal/pypi/simple/Some.Thing/", pip)
			var got pypiPage
			if err := json.Unmarshal([]byte(body), &got); err != nil || resp.Header.Get("Content-Type") != pypiJSON || len(got.Files) != 3 {
				t.Fatalf("%s %v %q", resp.Status, err, body)
			}
			f := got.Files[0]
			if f.URL != "http://mirror.drydock.internal/pypi/files/some-thing/some_thing-1.0-py3-none-any.whl" || f.RequiresPython != ">=3.8" || f.Hashes["sha256"] != hexsum([]byte(wheel)) {
				t.Errorf("%+v", f)
			}
			if f.Metadata == nil || f.OldMetadata != nil { // Debian 12's pip cannot read the latter
				t.Errorf("core-metadata %v, dist-info-metadata %v", f.Metadata, f.OldMetadata)
			}
			if got.Files[1].Yanked != "broken" {
				t.Errorf("yanked %v", got.Files[1].Yanked)
			}
			resp, text := getAs(t, c, "http://mirror.drydock.internal/pypi/simple/some-thing/", "text/html")
			contains1(t, "content type", resp.Header.Get("Content-Type"), "text/html")
			for _, part := range []string{f.URL + "#sha256=" + hexsum([]byte(wheel)), `data-requires-python="&gt;=3.8"`, `data-yanked="broken"`, `data-core-metadata="sha256=`} {
				contains1(t, "page", text, part)
			}
			if resp, body := get(t, c, f.URL); resp.StatusCode != http.StatusOK || body != wheel {
				t.Errorf("file: %s %q", resp.Status, body)
			}
			if resp, body := get(t, c, f.URL+".metadata"); resp.StatusCode != http.StatusOK || body != wheelMeta {
				t.Errorf("metadata: %s %q", resp.Status, body)
			}
			for _, missing := range []string{"simple/none/", "files/some-thing/other-1.tar.gz", "files/some-thing/some_thing-0.9.tar.gz.metadata", "packages/x", "simple"} {
				if resp, _ := get(t, c, "http://mirror.drydock.internal/pypi/"+missing); resp.StatusCode != http.StatusNotFound {
					t.Errorf("%s: %s", missing, resp.Status)
				}
			}
			if resp, body := get(t, c, got.Files[2].URL); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "no sha256") {
				t.Errorf("a file nobody can verify: %s %q", resp.Status, body)
			}
			// by the index's own address, as a Dockerfile may name it
			if resp, _ := getAs(t, stepClient(t, sock, step1, true), w.url+"/simple/some-thing/", pip); resp.StatusCode != http.StatusOK {
				t.Errorf("own address: %s", resp.Status)
			}
			purls := map[string]bool{}
			for _, m := range g.steps.steps[step1].materials {
				purls[m.PURL] = true
			}
			if !purls["pkg:pypi/some-thing@1.0"] {
				t.Errorf("purls %v", purls)
			}
		})
	}
}

// TestPyPILies serves another file than the index promised.
func TestPyPILies(t *testing.T) {
	w := newWorld(t)
	simpleIndex(w, pageHTML, "html")
	w.files.set("/packages/ab/some_thing-1.0-py3-none-any.whl", []byte("pretend to be a worse"))
	s := w.discover(Config{PyPI: Setting{URLs: []string{w.url + "/simple"}}})
	_, sock := testGateway(t, s, t.TempDir())
	c := stepClient(t, sock, step1, false)
	resp, body := get(t, c, "http://mirror.drydock.internal/pypi/files/some-thing/some_thing-1.0-py3-none-any.whl")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "wrong checksum") {
		t.Errorf("%s %q", resp.Status, body)
	}
	if _, _, ok := s.store.Blob(digest([]byte("pretend to be a worse")), 0); ok {
		t.Error("the lie entered the store")
	}
}

func TestPyPIFindsItsIndex(t *testing.T) {
	w := newWorld(t)
	if _, err := w.discover(Config{PyPI: Setting{Auto: true}}).Endpoint(PyPI); err == nil || !strings.Contains(fmt.Sprint(err), "pypi") {
		t.Errorf("no configuration: %v", err)
	}
	writeFile(t, w.host.Home+"/.config/pip/pip.conf", "[global]\nindex_url = "+w.url+"/simple/\n")
	e, err := w.discover(Config{PyPI: Setting{Auto: true}}).Endpoint(PyPI)
	if err != nil || e.URL != w.url+"/simple" || !strings.HasSuffix(e.Source, "pip.conf") {
		t.Errorf("%+v, %v", e, err)
	}
	w.host.Environ = append(w.host.Environ, "PIP_INDEX_URL="+w.url+"/other/simple")
	if e, err = w.discover(Config{PyPI: Setting{Auto: true}}).Endpoint(PyPI); err != nil || e.URL != w.url+"/other/simple" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestPyPIAt(t *testing.T) {
	at := time.Date(2023, 6, 1, 0, 0, 0, 0, time.UTC)
	for form, page := range map[string]string{"json": pageJSON, "html": pageHTML} {
		w := newWorld(t)
		simpleIndex(w, page, form)
		_, sock := testGateway(t, w.discover(Config{PyPI: Setting{URLs: []string{w.url + "/simple"}}, At: at}), t.TempDir())
		resp, body := get(t, stepClient(t, sock, step1, false), "http://mirror.drydock.internal/pypi/simple/some-thing/")
		if form == "html" { // which states no times
			if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "does not state when") {
				t.Errorf("%s %q", resp.Status, body)
			}
			continue
		}
		if strings.Contains(body, "1.0-py3") || !strings.Contains(body, "some_thing-0.9.tar.gz") {
			t.Errorf("as of %s: %q", at, body)
		}
	}
}
