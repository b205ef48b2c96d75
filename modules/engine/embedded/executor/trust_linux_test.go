package executor

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drydock/modules/mirror"
)

// secureGateway is a real gateway to a server of files on the loopback.
func secureGateway(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "drydock-gw-") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "a tool") }))
	t.Cleanup(s.Close)
	const sum = "38af692dd9d8ad23452d6fa0eea8c069bcffb7baa53c479b9172d559e0b2f8b0" // of what it serves
	set, err := mirror.Discover(t.Context(), mirror.Config{Files: []mirror.FileMirror{{
		Prefix: "https://downloads.test/dl/", URLs: []string{s.URL}, SHA256: map[string]string{"tool": sum, "other": strings.Repeat("0", 64)},
	}}}, mirror.Host{Environ: []string{"PATH=/none"}, Home: dir, EtcApt: dir, GoEnvFile: "/nonexistent"}, filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	g := mirror.NewGateway(set, mirror.GatewayOptions{CacheDir: filepath.Join(dir, "cache")})
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = g.Close() })
	return l.Addr().String()
}

// probeFetch fetches by the step's environment, as Go programs do.
func probeFetch(url, want string) error {
	r, err := http.Get(url) //nolint:noctx // a probe
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && string(b) != want {
		err = fmt.Errorf("%s: %.200q", r.Status, b)
	}
	return err
}

// A contained step speaks TLS with the gateway, by the proxy and straight, and
// nothing of that stays in its root.
func TestContainedTLS(t *testing.T) {
	contained(t)
	b := newBench(t, Options{GatewaySocket: secureGateway(t)})
	own := filepath.Join(b.root, "etc/ssl/certs")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "ca-certificates.crt"), []byte("the image's own\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := snapshotTree(t, b.root)
	v := Vertex{Digest: "sha256:x"}
	for _, user := range []string{"", "1000:1000"} {
		for _, env := range [][]string{nil, {"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "http_proxy=x", "APT_CONFIG=/mine"}} {
			b.must(stepOpt{user: user, env: env, vertex: v}, script(
				"fetch https://downloads.test/dl/tool a+tool", "contains /dev/drydock-ca.pem BEGIN", "contains /dev/drydock-cas.pem own", "contains /dev/drydock-wgetrc ca_certificate",
				"contains /dev/drydock-apt-tls.conf CAInfo")...)
			b.must(stepOpt{user: user, env: env, vertex: v}, script("unset https_proxy HTTPS_PROXY", "fetch https://downloads.test/dl/tool a+tool")...)
		}
	}
	b.must(stepOpt{vertex: v, env: []string{NetworkEnv + "=" + NetworkNone}}, script("absent /dev/drydock-ca.pem")...)
	if after := snapshotTree(t, b.root); after != before {
		t.Errorf("the root changed:\n%s\nwas\n%s", after, before)
	}
	// what the image has may be replaced, as installing authorities does
	b.must(stepOpt{vertex: v}, script("write /etc/ssl/certs/new fresh", "move /etc/ssl/certs/new /etc/ssl/certs/ca-certificates.crt", "fetch https://downloads.test/dl/tool a+tool")...)
	if text, err := os.ReadFile(filepath.Join(own, "ca-certificates.crt")); err != nil || string(text) != "fresh" {
		t.Errorf("%q, %v", text, err)
	}
	for url, want := range map[string]string{
		"https://elsewhere.test/a/b": "refused https://elsewhere.test/a/b by rule egress/mirror-only", "https://downloads.test/dl/new": "files/no-checksum",
		"https://downloads.test:8443/dl/tool": "refused https://downloads.test:8443/ by rule egress/mirror-only",
	} {
		if out, err := b.run(t.Context(), stepOpt{vertex: v}, script("fetch "+url+" x")...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\n%s", url, err, out)
		}
	}
	if out, err := b.run(t.Context(), stepOpt{vertex: v}, script("fetch https://downloads.test/dl/other x")...); err == nil || !strings.Contains(out, "wrong checksum") {
		t.Errorf("another file than wanted: %v\n%s", err, out)
	}
}

func TestTrustEnv(t *testing.T) {
	env := trustEnv([]string{"SSL_CERT_FILE=/x", "A=b"})
	for _, want := range []string{"A=b", "SSL_CERT_FILE=/dev/drydock-cas.pem", "NODE_EXTRA_CA_CERTS=/dev/drydock-ca.pem", "APT_CONFIG=/dev/drydock-apt-tls.conf"} {
		if !slices.Contains(env, want) {
			t.Errorf("%q lacks %s", env, want)
		}
	}
	if env := trustEnv([]string{"APT_CONFIG=/x"}); !slices.Contains(env, "APT_CONFIG=/x") {
		t.Errorf("apt's own configuration was lost: %q", env)
	}
}

func TestReadBundle(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readBundle(root, ""); got != "" {
		t.Errorf("an image without any has %q", got)
	}
	put("etc/ssl/cert.pem", "alpine's")
	if got := readBundle(root, "/not/there"); got != "alpine's" {
		t.Errorf("got %q", got)
	}
	put("etc/ssl/certs/ca-certificates.crt", "debian's")
	put("opt/own.pem", "its own")
	if got := readBundle(root, ""); got != "debian's" {
		t.Errorf("got %q", got)
	}
	if got := readBundle(root, "/opt/own.pem"); got != "its own" {
		t.Errorf("got %q", got)
	}
	if err := os.Symlink(outside, filepath.Join(root, "opt/link.pem")); err != nil {
		t.Fatal(err)
	}
	if got := readBundle(root, "/opt/link.pem"); strings.Contains(got, "host") {
		t.Error("a file of the host was read")
	}
}

// The gateway is away, silent or has no authority: a step has no files of it.
func TestAskAuthority(t *testing.T) {
	for what, answer := range map[string]string{"none": "", "no answer": "HTTP/1.1 403 Forbidden\r\n", "empty": "{}\n"} {
		dir := t.TempDir()
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = c.Write([]byte(answer))
				_ = c.Close()
			}
		}()
		s := &step{socket: l.Addr().String()}
		if env, err := s.trust([]string{"A=b"}); err != nil || len(env) != 1 || s.trustFiles(dir) != nil {
			t.Errorf("%s: %q, %v", what, env, err)
		}
	}
	s := &step{socket: "/nonexistent"}
	if err := s.askAuthority(); err != nil || s.authority != "" {
		t.Errorf("away: %v", err)
	}
}

func TestFittingKinds(t *testing.T) {
	a, b := map[string]string{"x": "1"}, map[string]string{"x": "2"}
	if kindOf("h", a) == kindOf("h", b) || kindOf("h", nil) == kindOf("i", nil) || kindOf("h", a) != kindOf("h", map[string]string{"x": "1"}) {
		t.Error("fittings of other content are taken for the same")
	}
	f := &fittings{}
	for i := range keptFittings + 3 {
		f.give(&fitting{kind: kindOf("h", nil), dir: filepath.Join(t.TempDir(), fmt.Sprint(i))}, true)
	}
	if len(f.free) != keptFittings || !strings.HasSuffix(f.free[0].dir, "3") {
		t.Errorf("%d are kept, the first is %s", len(f.free), f.free[0].dir)
	}
}
