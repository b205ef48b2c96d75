package fetch

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/clientconf"
)

const secret = "s3cr3t-pa55"

func client(t *testing.T, opt Options) *Client {
	t.Helper()
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func credentialsFor(t *testing.T, srv *httptest.Server) clientconf.Credentials {
	u := mustParse(t, srv.URL)
	return clientconf.Credentials{{Host: u.Host, AnyScheme: true, User: "me", Password: secret}}
}

// wantFault checks kind, place and that nothing secret is shown.
func wantFault(t *testing.T, err error, place string) *artifact.Error {
	t.Helper()
	var e *artifact.Error
	if !errors.As(err, &e) || e.Kind != artifact.KindFault {
		t.Fatalf("not a fault: %v", err)
	}
	if !strings.HasPrefix(e.Place, place) {
		t.Errorf("place %q, want %q", e.Place, place)
	}
	if e.Remedy == "" {
		t.Errorf("no remedy: %v", err)
	}
	if strings.Contains(err.Error()+e.Remedy, secret) {
		t.Errorf("a secret is shown: %v", err)
	}
	return e
}

func TestCredentialsAreSentAndNotShown(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pw, _ := r.BasicAuth(); pw != secret || r.URL.Path == "/always401" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	c := client(t, Options{Credentials: credentialsFor(t, srv)})
	resp, err := c.Get(context.Background(), mustParse(t, srv.URL+"/x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, err = c.Get(context.Background(), mustParse(t, srv.URL+"/always401?token="+secret), nil)
	if e := wantFault(t, err, srv.URL+"/always401"); !strings.Contains(e.Remedy, "renew") {
		t.Errorf("remedy %q", e.Remedy)
	}
	_, err = client(t, Options{}).Get(context.Background(), mustParse(t, srv.URL+"/x"), nil)
	if e := wantFault(t, err, srv.URL); !strings.Contains(e.Remedy, "give credentials") {
		t.Errorf("remedy %q", e.Remedy)
	}
}

func TestRedirectDropsCredentials(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
			leaked.Store(true)
		}
		http.Error(w, "no", http.StatusNotFound)
	}))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/signed?sig="+secret, http.StatusFound)
	}))
	defer srv.Close()
	c := client(t, Options{Credentials: credentialsFor(t, srv)})
	_, err := c.Get(context.Background(), mustParse(t, srv.URL+"/x"), nil)
	wantFault(t, err, srv.URL+"/x")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("not a not-found: %v", err)
	}
	ctx := WithAuthorization(context.Background(), mustParse(t, srv.URL), "Bearer "+secret)
	_, err = c.Get(ctx, mustParse(t, srv.URL+"/x"), nil)
	wantFault(t, err, srv.URL)
	if leaked.Load() {
		t.Error("the other host was shown credentials")
	}
}

func TestRedirectNeverLeavesTLS(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	srv := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer srv.Close()
	_, err := client(t, Options{Trust: trustFile(t, srv)}).Get(context.Background(), mustParse(t, srv.URL), nil)
	if e := wantFault(t, err, srv.URL); !strings.Contains(e.Error(), "redirect from https to http") {
		t.Error(err)
	}
}

func trustFile(t *testing.T, srv *httptest.Server) string {
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPrivateAuthority(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	srv.Config.ErrorLog = nil
	resp, err := client(t, Options{Trust: trustFile(t, srv)}).Get(context.Background(), mustParse(t, srv.URL), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, err = client(t, Options{}).Get(context.Background(), mustParse(t, srv.URL), nil)
	if e := wantFault(t, err, srv.URL); !strings.Contains(e.Remedy, "trust:") {
		t.Errorf("remedy %q", e.Remedy)
	}
	for _, bad := range []string{filepath.Join(t.TempDir(), "none.pem"), os.Args[0]} {
		_, err := New(Options{Trust: bad, TrustPlace: "mirrors.yaml:3"})
		var e *artifact.Error
		if !errors.As(err, &e) || e.Kind != artifact.KindUsage || !strings.Contains(e.Remedy, "mirrors.yaml:3") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestHangIsBounded(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		<-release
	}))
	defer srv.Close()
	defer close(release)
	c := client(t, Options{Stall: 150 * time.Millisecond})
	start := time.Now()
	_, err := c.Get(context.Background(), mustParse(t, srv.URL+"/head"), nil)
	if e := wantFault(t, err, srv.URL+"/head"); !strings.Contains(e.Message, "hangs") || !Unreachable(err) {
		t.Error(err)
	}
	u := mustParse(t, srv.URL+"/body")
	resp, err := c.Get(context.Background(), u, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	if e := wantFault(t, c.Explain(context.Background(), u, err), srv.URL+"/body"); !strings.Contains(e.Message, "hangs") {
		t.Error(e)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestRetries(t *testing.T) {
	var n atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch c := n.Add(1); {
		case r.URL.Path == "/busy" && c == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/busy" && c == 2:
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close() // a reset
			}
		case r.URL.Path == "/down":
			w.WriteHeader(http.StatusBadGateway)
		case r.URL.Path == "/missing":
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer srv.Close()
	c := client(t, Options{})
	resp, err := c.Get(context.Background(), mustParse(t, srv.URL+"/busy"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for path, want := range map[string]int32{"/down": attempts, "/missing": 1} {
		n.Store(0)
		_, err = c.Get(context.Background(), mustParse(t, srv.URL+path), nil)
		wantFault(t, err, srv.URL+path)
		if n.Load() != want {
			t.Errorf("%s was asked %d times, want %d", path, n.Load(), want)
		}
		if Unreachable(err) != (path == "/down") {
			t.Errorf("%s: unreachable is %v", path, Unreachable(err))
		}
	}
}

func TestCancelIsNoFault(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel(artifact.ErrInterrupted)
		time.Sleep(50 * time.Millisecond)
	}))
	defer srv.Close()
	_, err := client(t, Options{}).Get(ctx, mustParse(t, srv.URL), nil)
	if artifact.ExitCode(err) != artifact.ExitInterrupted {
		t.Errorf("exit code %d: %v", artifact.ExitCode(err), err)
	}
}

func TestProxy(t *testing.T) {
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.String() + " " + r.Header.Get("Proxy-Authorization"))
	}))
	defer proxy.Close()
	p := mustParse(t, proxy.URL)
	p.User = url.UserPassword("u", secret)
	env := clientconf.Environ{"http_proxy": p.String(), "NO_PROXY": "direct.test"}
	c := client(t, Options{Environ: env})
	resp, err := c.Get(context.Background(), mustParse(t, "http://mirror.test/x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, _ := asked.Load().(string); !strings.HasPrefix(got, "http://mirror.test/x Basic ") {
		t.Errorf("the proxy was asked %q", got)
	}
	asked.Store("")
	if _, err = c.Get(context.Background(), mustParse(t, "http://direct.test/x"), nil); err == nil || asked.Load() != "" {
		t.Errorf("NO_PROXY was not honoured: %v, %v", err, asked.Load())
	}
	proxy.Close()
	_, err = c.Get(context.Background(), mustParse(t, "http://mirror.test/x"), nil)
	wantFault(t, err, "http://mirror.test/x")
}
