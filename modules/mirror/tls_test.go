package mirror

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"drydock/modules/mirror/lockfile"
)

// trusted is a pool with the authority the gateway tells executors of.
func trusted(t *testing.T, sock string) *x509.CertPool {
	t.Helper()
	line, err := bufio.NewReader(greet(t, sock, m{"kind": "authority", "step": step1})).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Authority string }
	if err := json.Unmarshal(line, &said); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(said.Authority)) {
		t.Fatalf("no certificate in %s", line)
	}
	return pool
}

// secureClient is an HTTPS client as a step has it, through the proxy or
// straight to port 443.
func secureClient(t *testing.T, sock, step string, proxy, h2 bool) *http.Client {
	t.Helper()
	proto := "tls"
	if proxy {
		proto = "http"
	}
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dialGreeting(sock, m{"kind": "conn", "proto": proto, "step": step})
		},
		TLSClientConfig:    &tls.Config{RootCAs: trusted(t, sock), MinVersion: tls.VersionTLS12},
		DisableCompression: true, ForceAttemptHTTP2: h2,
	}
	if proxy {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: GatewayHost + ":80"})
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func tlsFiles(w *world) Config {
	w.files.set("/copies/tool.gz", []byte("tool"))
	w.files.set("/copies/large.gz", make([]byte, 3<<20))
	w.files.set("/copies/bad.gz", []byte("evil"))
	w.files.set("/copies/free.gz", []byte("free"))
	return Config{
		Files: []FileMirror{
			{Prefix: "https://downloads.test/dl/", URLs: []string{w.url + "/copies"}, SHA256: map[string]string{
				"tool.gz": hexsum([]byte("tool")), "large.gz": hexsum(make([]byte, 3<<20)), "bad.gz": hexsum([]byte("good")),
			}},
			{Prefix: "https://downloads.test:8443/", URLs: []string{w.url + "/copies"}, SHA256: map[string]string{"tool.gz": hexsum([]byte("tool"))}},
			{Prefix: "https://code.test/releases/", URLs: []string{w.url + "/copies"}, SHA256: map[string]string{"tool.gz": hexsum([]byte("tool"))}},
		},
		Git: []GitMirror{{Prefix: "code.test", URLs: []string{w.url + "/git"}}},
	}
}

func TestGatewayTLS(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(tlsFiles(w)), t.TempDir())
	control := bufio.NewReader(begun(t, g, sock, step1, "RUN curl"))
	for _, proxy := range []bool{false, true} {
		for _, h2 := range []bool{false, true} {
			c := secureClient(t, sock, step1, proxy, h2)
			resp, body := get(t, c, "https://downloads.test/dl/tool.gz")
			if resp.StatusCode != http.StatusOK || body != "tool" || resp.ProtoMajor == 2 != h2 {
				t.Errorf("proxy %v: %s %s %q", proxy, resp.Proto, resp.Status, body)
			}
			if _, body := get(t, c, "https://downloads.test/dl/large.gz"); len(body) != 3<<20 {
				t.Errorf("proxy %v, h2 %v: %d bytes", proxy, h2, len(body))
			}
			if resp, body := get(t, c, "https://downloads.test/dl/bad.gz"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "wrong checksum") {
				t.Errorf("another file: %s %q", resp.Status, body)
			}
			if resp, _ := get(t, c, "https://mirror.drydock.internal/debian"+helloPath); resp.StatusCode != http.StatusOK {
				t.Errorf("the gateway's own name: %s", resp.Status)
			}
			if resp, body := get(t, c, "https://code.test/releases/tool.gz"); body != "tool" {
				t.Errorf("a file of a host with repositories: %s", resp.Status)
			}
			for url, rule := range map[string]string{
				"https://downloads.test/dl/free.gz": RuleChecksum, "https://downloads.test/other?token=x": RuleMirrorOnly,
				"https://elsewhere.test/a/b": RuleMirrorOnly, "https://code.test/page": RuleMirrorOnly,
			} {
				want, _, _ := strings.Cut(url, "?")
				if resp, _ := get(t, c, url); resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Drydock-Refused") != want {
					t.Errorf("%s: %s %v", url, resp.Status, resp.Header)
				}
				if r := nextRefusal(t, control); r.URL != want || r.Rule != rule {
					t.Errorf("%s: the executor was told %+v", url, r)
				}
			}
		}
	}
	c := secureClient(t, sock, step1, true, false)
	if resp, body := get(t, c, "https://downloads.test:8443/tool.gz"); body != "tool" {
		t.Errorf("a port that is listed: %s", resp.Status)
	}
	if _, err := c.Get("https://downloads.test:9443/tool.gz"); err == nil {
		t.Error("a port that is not listed was connected")
	}
	if r := nextRefusal(t, control); r.URL != "https://downloads.test:9443/" || r.Rule != RuleMirrorOnly {
		t.Errorf("the executor was told %+v", r)
	}
	for _, m := range g.steps.steps[step1].materials {
		if m.Ecosystem == Files && (!strings.HasPrefix(m.PURL, "pkg:generic/") || !strings.Contains(m.PURL, "download_url=https%3A%2F%2F") || m.Digest == "" || m.Size == 0) {
			t.Errorf("%+v", m)
		}
	}
	if n := len(g.steps.steps[step1].materials); n != 5 { // of files tool.gz by each of its three names, and large.gz
		t.Errorf("%d materials", n)
	}
}

// Who does not trust the gateway, or does not speak TLS or HTTP, is told so.
func TestGatewayTLSUntrusting(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(tlsFiles(w)), t.TempDir())
	control := bufio.NewReader(begun(t, g, sock, step1, "RUN java"))
	for host, rule := range map[string]string{"downloads.test": RuleUntrusted, "code.test": RuleUntrusted, "elsewhere.test": RuleMirrorOnly} {
		conn := tls.Client(greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1}), &tls.Config{ServerName: host, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12})
		if err := conn.Handshake(); err == nil {
			t.Error(host, "was trusted")
		}
		if r := nextRefusal(t, control); r.URL != "https://"+host+"/" || r.Rule != rule || r.Remedy == "" {
			t.Errorf("%s: the executor was told %+v", host, r)
		}
	}
	// GnuTLS looks at the certificate after the handshake
	conn := tls.Client(greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1}), &tls.Config{ServerName: "elsewhere.test", InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	if r := nextRefusal(t, control); r.URL != "https://elsewhere.test/" || r.Rule != RuleMirrorOnly {
		t.Errorf("the executor was told %+v", r)
	}
	raw := greet(t, sock, m{"kind": "conn", "proto": "http", "step": step1})
	_, _ = io.WriteString(raw, "CONNECT ssh.test:443 HTTP/1.1\r\nHost: ssh.test:443\r\n\r\nSSH-2.0-client\r\n")
	if b, err := io.ReadAll(raw); err != nil || !strings.HasSuffix(string(b), tlsDenied) {
		t.Errorf("%q, %v", b, err)
	}
	if r := nextRefusal(t, control); r.URL != "https://ssh.test/" || !strings.Contains(r.Reason, "not TLS") {
		t.Errorf("the executor was told %+v", r)
	}
}

// OpenSSL says what it thinks of a certificate before it encrypts.
func TestGatewayTLSPlainAlert(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(tlsFiles(w)), t.TempDir())
	control := bufio.NewReader(begun(t, g, sock, step1, "RUN curl"))
	hello := &helloConn{r: strings.NewReader("")}
	_ = tls.Client(hello, &tls.Config{ServerName: "downloads.test", MinVersion: tls.VersionTLS13}).Handshake()
	plain := greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1})
	_, _ = plain.Write(hello.Bytes())
	_, _ = plain.Read(make([]byte, 16))
	_, _ = plain.Write([]byte{21, 3, 3, 0, 2, 2, 48}) // unknown_ca
	if r := nextRefusal(t, control); r.URL != "https://downloads.test/" || r.Rule != RuleUntrusted {
		t.Errorf("the executor was told %+v", r)
	}
}

// A file that changed is refused under a lock also by TLS, and without the
// mirror it comes from the content store.
func TestGatewayTLSLocked(t *testing.T) {
	w := standard(t)
	cfg := tlsFiles(w)
	g, sock := testGateway(t, w.discover(cfg), t.TempDir())
	const address, asked = "https://downloads.test/dl/free.gz", "downloads.test/dl/free.gz"
	mounts, _ := LockMounts("new-1")
	g.Observe("new-1")
	name := "RUN --mount=" + mounts[0] + " --mount=" + mounts[1] + " curl"
	begun(t, g, sock, step1, name)
	if _, body := get(t, secureClient(t, sock, step1, true, false), address); body != "free" {
		t.Fatalf("%q", body)
	}
	lock := &lockfile.Lock{}
	for _, m := range g.steps.steps[step1].materials {
		lock.Materials = append(lock.Materials, lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size})
	}
	if len(lock.Materials) != 1 || lock.Materials[0].Path != asked {
		t.Fatalf("%+v", lock.Materials)
	}
	w.files.set("/copies/free.gz", []byte("FREE"))
	full, empty := w.dir, t.TempDir() // content stores
	for _, c := range []struct {
		what, dir, rule string
		offline         bool
	}{
		{"from the store", full, "", false}, {"offline, from the store", full, "", true},
		{"changed", empty, RuleServed, false}, {"offline, not in the store", empty, RuleOffline, true},
	} {
		w.dir, cfg.Offline = c.dir, c.offline
		g, sock := testGateway(t, w.discover(cfg), t.TempDir())
		mounts, _ := LockMounts("0123")
		g.Enforce("0123", lock, "locks/x.json", "lock anew")
		begun(t, g, sock, step1, "RUN --mount="+mounts[0]+" --mount="+mounts[1]+" curl")
		client := secureClient(t, sock, step1, true, false)
		if resp, body := get(t, client, address); resp.Header.Get("X-Drydock-Rule") != c.rule || body == "free" != (c.rule == "") {
			t.Errorf("%s: %s %v %q", c.what, resp.Status, resp.Header, body)
		}
		if resp, _ := get(t, client, "https://downloads.test/dl/tool.gz"); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
			t.Errorf("%s, not in the lock: %s %v", c.what, resp.Status, resp.Header)
		}
	}
}
