package mirror

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// outside is a proxy that answers for any host: plain requests itself, tunnels
// by a TLS server of its own.
type outside struct {
	proxy, secure *httptest.Server

	mu    sync.Mutex
	asked []string
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{}
	o.secure = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "secret of %s", r.Host)
	}))
	t.Cleanup(o.secure.Close)
	o.proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.asked = append(o.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Proxy-Authorization"))
		o.mu.Unlock()
		switch {
		case r.Method == http.MethodConnect && strings.HasPrefix(r.Host, "closed."):
			http.Error(w, "no", http.StatusForbidden)
		case r.Method == http.MethodConnect:
			up, err := net.Dial("tcp", o.secure.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
			_, _ = io.Copy(c, up)
			_ = c.Close()
		case strings.HasSuffix(r.URL.Path, "/gone"):
			http.NotFound(w, r)
		default:
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s of %s%s", r.URL.RequestURI(), r.URL.Host, body)
		}
	}))
	t.Cleanup(o.proxy.Close)
	return o
}

// observing is a gateway whose steps may go out through the proxy.
func observing(t *testing.T, o *outside) (*Gateway, string, string) {
	t.Helper()
	dir := t.TempDir()
	trust := filepath.Join(dir, "trust.pem")
	writeFile(t, trust, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.secure.Certificate().Raw})))
	s, err := Discover(t.Context(), Config{Trust: trust}, Host{
		Environ: []string{"HTTP_PROXY=" + strings.Replace(o.proxy.URL, "//", "//me:word@", 1), "HTTPS_PROXY=" + o.proxy.URL},
		Home:    t.TempDir(), EtcApt: t.TempDir(), GoEnvFile: "/nonexistent",
	}, dir)
	if err != nil {
		t.Fatal(err)
	}
	g, sock := testGateway(t, s, dir)
	if err := g.ObserveEgress("observed"); err != nil {
		t.Fatal(err)
	}
	return g, sock, dir
}

// begun is a step's control connection; what it is called says what it may.
func begun(t *testing.T, g *Gateway, sock, step, name string) net.Conn {
	t.Helper()
	c := greet(t, sock, m{"kind": "step", "step": step, "name": name})
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		g.steps.mu.Lock()
		s := g.steps.steps[step]
		there := s != nil && s.runs > 0
		g.steps.mu.Unlock()
		if there {
			return c
		}
		if time.Now().After(end) {
			t.Fatal("the gateway does not see the step")
		}
	}
}

func ended(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "{\"ok\":true}\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.UnixConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c)
}

const observedRun = "RUN --mount=type=secret,id=drydock-lock-observed,target=/dev/drydock-observed,mode=0444 make"

func TestObserveEgress(t *testing.T) {
	o := newOutside(t)
	g, sock, _ := observing(t, o)
	control := begun(t, g, sock, step1, observedRun)

	for _, proxied := range []bool{true, false} {
		c := stepClient(t, sock, step1, proxied)
		resp, body := get(t, c, "http://files.example/a/b?q=1")
		if resp.StatusCode != http.StatusOK || body != "/a/b?q=1 of files.example" {
			t.Fatalf("proxied %v: %s %q", proxied, resp.Status, body)
		}
	}
	if resp, _ := get(t, stepClient(t, sock, step1, true), "http://files.example/gone"); resp.StatusCode != http.StatusNotFound {
		t.Error(resp.Status)
	}
	resp, err := stepClient(t, sock, step1, true).Post("http://api.example/v1", "text/plain", strings.NewReader("+sent"))
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "/v1 of api.example+sent" {
		t.Errorf("%q", body)
	}
	_ = resp.Body.Close()

	// TLS of clients that trust the gateway
	for _, proxied := range []bool{true, false} {
		if resp, body := get(t, secureClient(t, sock, step1, proxied, false), "https://example.com/dist/tool?x=1"); body != "secret of example.com" {
			t.Errorf("proxied %v: %s %q", proxied, resp.Status, body)
		}
	}
	if resp, _ := get(t, secureClient(t, sock, step1, true, false), "https://closed.example/"); resp.StatusCode != http.StatusBadGateway {
		t.Error("a proxy that refuses:", resp.Status)
	}

	// of those that do not, by CONNECT and straight: not looked into when they
	// try again
	pool := x509.NewCertPool()
	pool.AddCert(o.secure.Certificate())
	conf := &tls.Config{RootCAs: pool, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	for _, try := range []string{"untrusting", "again"} {
		c := greet(t, sock, m{"kind": "conn", "proto": "http", "step": step1})
		fmt.Fprintf(c, "CONNECT tunnel.example:443 HTTP/1.1\r\nHost: tunnel.example:443\r\n\r\n")
		br := bufio.NewReader(c)
		if line, _ := br.ReadString('\n'); !strings.Contains(line, " 200 ") {
			t.Fatal(line)
		}
		_, _ = br.ReadString('\n')
		secure := tls.Client(&buffered{c, br}, conf)
		if try == "untrusting" {
			if err := secure.Handshake(); err == nil {
				t.Error("the gateway was trusted")
			}
			waitFor(t, "the gateway to notice", func() bool { return g.out.isOpaque("tunnel.example") })
		} else if body := secretThrough(t, secure); body != "secret of tunnel.example" {
			t.Errorf("through CONNECT: %q", body)
		}
	}
	setOpaque := func(host string) {
		if err := g.out.setOpaque(host); err != nil {
			t.Fatal(err)
		}
	}
	setOpaque("example.com")
	c := greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1})
	if body := secretThrough(t, tls.Client(c, conf)); body != "secret of tunnel.example" {
		t.Errorf("straight: %q", body)
	}
	setOpaque("closed.example")
	c = greet(t, sock, m{"kind": "conn", "proto": "tls", "step": step1})
	if err := tls.Client(c, &tls.Config{ServerName: "closed.example", MinVersion: tls.VersionTLS12}).Handshake(); err == nil {
		t.Error("a proxy that refuses was passed")
	}
	ended(t, control)

	next := &egress{opaque: map[string]bool{}, file: g.out.file}
	if next.readOpaque(); !next.isOpaque("tunnel.example") || next.isOpaque("files.example") {
		t.Errorf("the next run knows %v", next.opaque)
	}

	// what is known of the step afterwards, also when it is cached
	b := greet(t, sock, m{"kind": "build", "build": "x", "steps": []m{{"step": step1, "name": observedRun}}})
	_, _ = bufio.NewReader(b).ReadString('\n')
	f := g.Fetched("x")
	got := map[string]Contact{}
	for _, c := range f.Contacts {
		got[c.Method+" "+c.Host+" "+c.URL] = c
	}
	file := got["GET files.example:80 http://files.example/a/b"]
	if file.Digest != digest([]byte("/a/b?q=1 of files.example")) || file.Received != 25 || file.Status != 200 || file.Step != "RUN make" {
		t.Errorf("%+v", file)
	}
	if gone := got["GET files.example:80 http://files.example/gone"]; gone.Status != 404 {
		t.Errorf("%+v", gone)
	}
	if post := got["POST api.example:80 http://api.example/v1"]; post.Status != 200 || post.Digest == "" {
		t.Errorf("%+v", post)
	}
	looked := got["GET example.com:443 https://example.com/dist/tool"]
	if looked.Digest != digest([]byte("secret of example.com")) || looked.Scheme != "https" || looked.Status != 200 {
		t.Errorf("%+v", looked)
	}
	if c := got["GET closed.example:443 https://closed.example/"]; c.Failed == "" {
		t.Errorf("%+v", c)
	}
	for _, host := range []string{"tunnel.example:443", "example.com:443"} {
		if c := got[" "+host+" "]; c.Scheme != "tls" || c.Received < 100 || c.Sent < 100 || c.URL != "" || c.Failed != "" {
			t.Errorf("%s: %+v", host, c)
		}
	}
	if c := got[" closed.example:443 "]; !strings.Contains(c.Failed, "the proxy answered 403") {
		t.Errorf("%+v", c)
	}
	if !f.Complete || len(g.LooseContacts()) != 0 {
		t.Error("complete", f.Complete, "loose", g.LooseContacts())
	}
	// the machine's own way, with its credentials, which the step never has
	o.mu.Lock()
	defer o.mu.Unlock()
	all := strings.Join(o.asked, "\n")
	if !strings.Contains(all, "GET http://files.example/a/b?q=1 Basic bWU6d29yZA==") || !strings.Contains(all, "CONNECT tunnel.example:443") {
		t.Error(all)
	}
}

func secretThrough(t *testing.T, c *tls.Conn) string {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: tunnel.example\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// Nothing on this machine is reached, with a proxy or without, and the step is
// told so and failed.
func TestObserveNeverThisMachine(t *testing.T) {
	o := newOutside(t)
	g, sock, _ := observing(t, o)
	control := begun(t, g, sock, step1, observedRun)
	said := bufio.NewReader(control)
	for _, url := range []string{o.secure.URL, "http://127.0.0.1:1/", "http://localhost/", "http://169.254.169.254/latest", "http://[::1]/"} {
		url = strings.Replace(url, "https:", "http:", 1)
		resp, body := get(t, stepClient(t, sock, step1, true), url)
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(body, RuleThisMachine) {
			t.Errorf("%s: %s %s", url, resp.Status, body)
		}
		if r := nextRefusal(t, said); r.Rule != RuleThisMachine {
			t.Errorf("%s: %+v", url, r)
		}
	}
	c := greet(t, sock, m{"kind": "conn", "proto": "http", "step": step1})
	fmt.Fprintf(c, "CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n")
	if line, _ := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, " 403 ") {
		t.Error(line)
	}
	// a name that leads here, dialled directly
	if _, err := g.out.dial(context.Background(), net.JoinHostPort("localhost", "1")); err == nil || !strings.Contains(err.Error(), errThisMachine.Error()) {
		t.Error(err)
	}
}

// A step that is not marked as observed has no way out, whatever others have:
// it is under a lock of its own, or nobody lets steps out.
func TestObserveLetsOutNoOther(t *testing.T) {
	o := newOutside(t)
	g, sock, _ := observing(t, o)
	begun(t, g, sock, step1, "RUN --mount=type=secret,id=drydock-lock-abc,target=/dev/drydock-apt.conf,mode=0444 make")
	if resp, body := get(t, stepClient(t, sock, step1, true), "http://files.example/"); resp.StatusCode != http.StatusForbidden || !strings.Contains(body, RuleMirrorOnly) {
		t.Error(resp.Status, body)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.asked) != 0 {
		t.Error("the proxy was asked:", o.asked)
	}
}
