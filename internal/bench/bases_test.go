package bench

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestKeeper(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/absent" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "text of "+r.URL.Path)
	}))
	defer mirror.Close()
	proxy := httptest.NewServer(&keeper{dir: t.TempDir(), locks: map[string]*sync.Mutex{}})
	defer proxy.Close()
	through, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(through)}}
	get := func(u string) (int, string) {
		t.Helper()
		resp, err := c.Get(u) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for range 3 {
		if code, text := get(mirror.URL + "/a/b"); code != 200 || text != "text of /a/b" {
			t.Errorf("%d %q", code, text)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the mirror was asked %d times", n)
	}
	if code, _ := get(mirror.URL + "/absent"); code != 404 {
		t.Errorf("what is not there: %d", code)
	}
}

func TestBenchCatalog(t *testing.T) {
	t.Parallel()
	o := Options{Dir: "../.."}
	packages, err := o.benchCatalog(t.TempDir(), "minimal")
	if err != nil || !slices.ContainsFunc(packages, func(p string) bool { return strings.HasPrefix(p, "libc6=") }) {
		t.Errorf("%q, %v", packages, err)
	}
	if args := mmdebstrapArgs("minimal", packages, "x.tar"); !slices.Contains(args, "--variant=extract") || !slices.Contains(args, "--include="+strings.Join(packages, ",")) {
		t.Errorf("%q", args)
	}
	if _, err := o.benchCatalog(t.TempDir(), "absent"); err == nil {
		t.Error("a base that is not there was taken")
	}
}
