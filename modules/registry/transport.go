package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"

	"drydock/modules/artifact"
)

// newTransport reaches registries outside: proxies from the environment handed
// in, private CAs, and a bound on silence rather than on the whole transfer.
func newTransport(o Options) (http.RoundTripper, error) {
	roots, err := trustRoots(o.Trust)
	if err != nil {
		return nil, err
	}
	proxy := proxyOf(o.Environ)
	dialer := &net.Dialer{Timeout: min(o.Timeout, 10*time.Second), KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &impatientConn{Conn: c, patience: o.Timeout}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   min(o.Timeout, 10*time.Second),
		ResponseHeaderTimeout: o.Timeout,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       min(o.Timeout, 90*time.Second),
		MaxIdleConnsPerHost:   16,
		ForceAttemptHTTP2:     true,
	}, nil
}

func trustRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	fail := func(message string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading trusted CAs", Place: file, Message: message,
			Remedy: "name a PEM file with at least one certificate as `trust:`", Err: err,
		}
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fail("", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fail("no certificate in it", nil)
	}
	return pool, nil
}

func proxyOf(environ []string) func(*url.URL) (*url.URL, error) {
	get := func(names ...string) string {
		for _, n := range names {
			if v := lookup(environ, n); v != "" {
				return v
			}
		}
		return ""
	}
	c := httpproxy.Config{
		HTTPProxy:  get("HTTP_PROXY", "http_proxy"),
		HTTPSProxy: get("HTTPS_PROXY", "https_proxy"),
		NoProxy:    get("NO_PROXY", "no_proxy"),
	}
	return c.ProxyFunc()
}

// lookup finds a variable in an environment; the last one wins, as in exec.Cmd.
func lookup(environ []string, key string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(environ[i], key+"="); ok {
			return v
		}
	}
	return ""
}

// impatientConn breaks off when nothing moved in either direction for a while.
type impatientConn struct {
	net.Conn
	patience time.Duration
}

func (c *impatientConn) Read(b []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *impatientConn) Write(b []byte) (int, error) {
	// A long upload keeps the pending read of the answer alive too.
	if err := c.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// errPlainHTTP is the cause when plain HTTP is refused.
var errPlainHTTP = errors.New("plain HTTP off this machine is not allowed")

// refusePlain keeps credentials and images off plain HTTP. go-containerregistry
// falls back to it for private addresses when TLS fails: that is allowed on this
// machine only, and never because a certificate is not trusted.
type refusePlain struct {
	next      http.RoundTripper
	untrusted *sync.Map // host -> the error of its certificate
}

// RoundTrip implements http.RoundTripper.
func (t refusePlain) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		if err, ok := t.untrusted.Load(r.URL.Host); ok {
			return nil, err.(error)
		}
		if !loopbackHost(r.URL.Hostname()) {
			return nil, errPlainHTTP
		}
	}
	resp, err := t.next.RoundTrip(r)
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		t.untrusted.Store(r.URL.Host, err)
	}
	return resp, err
}

func loopbackHost(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
