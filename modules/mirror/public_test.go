package mirror

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"
)

func TestPublic(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts.json")
	p := newPublicNames(file)
	ctx := context.Background()
	for raw, want := range map[string]bool{
		"http://127.0.0.1:80/x": false, "http://[::1]/": false, "http://10.1.2.3/": false, "http://192.168.1.1/": false,
		"http://172.16.0.1/": false, "http://169.254.1.1/": false, "http://[fd00::1]/": false, "file:///srv/mirror": false,
		"http://203.0.113.7/": true, "http://[2001:db8::1]/": true, "http://nosuch.invalid/": true,
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.resolve(ctx, u); got != want {
			t.Errorf("%s: %v", raw, got)
		}
	}
	// What was known of a name stays when it does not resolve any more.
	p.hosts["gone.invalid"] = false
	gone := &url.URL{Scheme: "http", Host: "gone.invalid"}
	if p.resolve(ctx, gone) {
		t.Error("a name that does not resolve any more became public")
	}
	later := newPublicNames(file)
	if v, ok := later.hosts["203.0.113.7"]; !ok || !v {
		t.Errorf("not remembered: %v", later.hosts)
	}
	writeFile(t, file, "{damaged")
	if p := newPublicNames(file); len(p.hosts) != 0 {
		t.Errorf("read from a damaged file: %v", p.hosts)
	}
}
