// Package fetch is the one HTTP client every mirror is reached with: it knows
// credentials, proxies and private certificates, never waits for ever, and
// never shows a secret in an error.
package fetch

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/clientconf"
)

// The bounds of one request. They are not settings: a mirror slower than this
// is broken.
const (
	stall    = 30 * time.Second       // without a byte, a mirror hangs
	dialWait = 10 * time.Second       // for a connection, and for TLS
	attempts = 3                      // where trying again can help
	backoff  = 300 * time.Millisecond // before the second attempt; then doubled
)

// Options configure a Client.
type Options struct {
	Environ     clientconf.Environ     // HTTP_PROXY, HTTPS_PROXY, NO_PROXY
	Credentials clientconf.Credentials //
	Trust       string                 // PEM file added to the system's pool; "" none
	TrustPlace  string                 // where Trust was set, for errors
	Proxy       func(*url.URL) (proxy *url.URL, decided bool)
	Stall       time.Duration // 0 is the default
	Offline     bool          // every request is ErrOffline, and none is made
}

// Client fetches from mirrors. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	stall   time.Duration
	offline bool

	mu    sync.Mutex
	creds clientconf.Credentials
}

// Learn adds credentials, preferred to those known so far.
func (c *Client) Learn(more clientconf.Credentials) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range c.creds {
		if len(more) == 1 && known == more[0] {
			return
		}
	}
	c.creds = append(append(clientconf.Credentials{}, more...), c.creds...)
}

// credential is what is known for a URL.
func (c *Client) credential(u *url.URL) (clientconf.Credential, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.creds.For(u)
}

// New makes a client; no network is touched.
func New(opt Options) (*Client, error) {
	proxy := (&httpproxy.Config{
		HTTPProxy:  value(opt.Environ, "HTTP_PROXY"),
		HTTPSProxy: value(opt.Environ, "HTTPS_PROXY"),
		NoProxy:    value(opt.Environ, "NO_PROXY"),
	}).ProxyFunc()
	pool, err := TrustPool(opt.Trust, opt.TrustPlace)
	if err != nil {
		return nil, err
	}
	c := &Client{creds: opt.Credentials, stall: opt.Stall, offline: opt.Offline}
	if c.stall == 0 {
		c.stall = stall
	}
	t := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if opt.Proxy != nil {
				if p, ok := opt.Proxy(r.URL); ok {
					return p, nil
				}
			}
			p, err := proxy(r.URL)
			if err != nil {
				return nil, errors.New("the proxy's URL in the environment is not one")
			}
			return p, nil
		},
		DialContext:         (&net.Dialer{Timeout: dialWait, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: dialWait,
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DisableCompression:  true, // digests are of the bytes as served
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     60 * time.Second,
	}
	t.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	c.http = &http.Client{Transport: authorizer{t, c}, CheckRedirect: checkRedirect}
	return c, nil
}

func value(env clientconf.Environ, name string) string {
	v, _ := env.First(name, strings.ToLower(name))
	return v
}

// TrustPool is the system's certificates and those of a PEM file; nil where
// there is no file. place is where the file was named, for errors.
func TrustPool(file, place string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	bad := &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading trusted certificates", Place: file,
		Remedy: strings.TrimSpace("give a PEM file with at least one certificate as trust: " + in(place)),
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		bad.Err = err
		return nil, bad
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		bad.Message = "no certificate in it"
		return nil, bad
	}
	return pool, nil
}

func in(place string) string {
	if place == "" {
		return ""
	}
	return "in " + place
}

// checkRedirect lets a mirror send us on (object stores), but never from TLS
// to plain HTTP and never to anything but HTTP.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	from := via[len(via)-1].URL.Scheme
	if to := req.URL.Scheme; to != "https" && (to != "http" || from != "http") {
		return fmt.Errorf("redirect from %s to %s", from, to)
	}
	return nil
}

// authorizer presents to each host what was configured for it, hop by hop: a
// redirect to another host carries nothing of the first one's.
type authorizer struct {
	next   http.RoundTripper
	client *Client
}

type tokenKey struct{}

type token struct{ scheme, host, value string }

// WithAuthorization makes requests of ctx present this to one host, and to no
// other they are sent on to.
func WithAuthorization(ctx context.Context, u *url.URL, value string) context.Context {
	return context.WithValue(ctx, tokenKey{}, token{u.Scheme, u.Host, value})
}

// Authorization is what would be presented to a URL; "" is nothing.
func (c *Client) Authorization(u *url.URL) string {
	if cred, ok := c.credential(u); ok {
		return cred.Authorization()
	}
	return ""
}

// RoundTrip implements http.RoundTripper.
func (a authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Header.Del("Authorization")
	out.Header.Del("Cookie")
	out.Header.Del("Referer")
	if t, ok := req.Context().Value(tokenKey{}).(token); ok && t.host == req.URL.Host && t.scheme == req.URL.Scheme {
		out.Header.Set("Authorization", t.value)
	} else if c, ok := a.client.credential(req.URL); ok {
		out.Header.Set("Authorization", c.Authorization())
	}
	return a.next.RoundTrip(out)
}

// StatusError is an answer that is neither a success nor "not modified".
type StatusError struct {
	Code   int
	Header http.Header
}

// ErrNotFound is what a StatusError of 404 or 410 is.
var ErrNotFound = errors.New("the mirror does not have it")

// Is makes a StatusError of 404 or 410 an ErrNotFound.
func (e *StatusError) Is(target error) bool {
	return target == ErrNotFound && (e.Code == http.StatusNotFound || e.Code == http.StatusGone)
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the mirror answered %d %s", e.Code, http.StatusText(e.Code))
}

// ErrOffline is every request of a Client that may make none.
var ErrOffline = errors.New("it is not in the content store, and --offline asks no mirror for it")

// errStalled is the cause of a request that made no progress.
var errStalled = errors.New("no answer")

// Get asks for a URL, with bounded retries where trying again can help, and
// returns answers 200, 304 and, to a Range, 206; anything else is an *artifact.Error that names
// the URL without secrets, with a *StatusError in its chain if the mirror did
// answer. Reading the body fails when it makes no progress.
func (c *Client) Get(ctx context.Context, u *url.URL, header http.Header) (*http.Response, error) {
	return c.Do(ctx, u, header, nil)
}

// Do is Get, or POST of a body that changes nothing there.
func (c *Client) Do(ctx context.Context, u *url.URL, header http.Header, body []byte) (*http.Response, error) {
	if c.offline {
		return nil, c.Explain(ctx, u, ErrOffline)
	}
	wait := backoff
	for n := 1; ; n++ {
		resp, err := c.once(ctx, u, header, body)
		if err == nil {
			return resp, nil
		}
		if n == attempts || !worthRetry(err) || ctx.Err() != nil {
			return nil, c.Explain(ctx, u, err)
		}
		select {
		case <-ctx.Done():
			return nil, c.Explain(ctx, u, context.Cause(ctx))
		case <-time.After(wait):
			wait *= 2
		}
	}
}

func (c *Client) once(ctx context.Context, u *url.URL, header http.Header, body []byte) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(c.stall, func() { cancel(errStalled) })
	method, content := http.MethodGet, io.Reader(nil)
	if body != nil {
		method, content = http.MethodPost, bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		cancel(nil)
		return nil, errors.New("not a URL")
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "drydock")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		watch.Stop()
		defer cancel(nil)
		return nil, cause(ctx, err)
	}
	partial := resp.StatusCode == http.StatusPartialContent && req.Header.Get("Range") != ""
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotModified && !partial {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be kept
		_ = resp.Body.Close()
		watch.Stop()
		cancel(nil)
		return nil, &StatusError{Code: resp.StatusCode, Header: resp.Header}
	}
	watch.Reset(c.stall)
	resp.Body = &watched{body: resp.Body, ctx: ctx, cancel: cancel, timer: watch, stall: c.stall}
	return resp, nil
}

// cause is what really ended a request: url.Error is stripped, for it shows
// the URL it failed at, which after a redirect may be a signed one.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); errors.Is(c, errStalled) {
		return errStalled
	}
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	return err
}

// watched is a body that fails when no byte came for too long.
type watched struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.timer.Stop() // a slow reader of ours is not the mirror's fault
	if err != nil && err != io.EOF {
		err = cause(w.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	return w.body.Close()
}

// worthRetry says whether the same request may do better soon.
func worthRetry(err error) bool {
	var se *StatusError
	if errors.As(err, &se) {
		switch se.Code {
		case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	return Interrupted(err)
}

// Interrupted says whether a transfer broke off for a reason that need not
// come again.
func Interrupted(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || brokenStream(err)
}

// brokenStream recognises HTTP/2's ways to break off. net/http keeps their
// types to itself, so the text is all there is.
func brokenStream(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "stream error: stream ID") || strings.Contains(text, "http2: server sent GOAWAY")
}

// Explain makes an error of a request one a user can act on.
func (c *Client) Explain(ctx context.Context, u *url.URL, err error) error {
	if ctx.Err() != nil && context.Cause(ctx) != nil && !errors.Is(err, errStalled) {
		return fmt.Errorf("fetching %s: %w", Redact(u), context.Cause(ctx))
	}
	e := &artifact.Error{
		Kind: artifact.KindFault, Op: "fetching", Place: Redact(u), Err: err,
		Remedy: "check that the mirror is up and reachable from here (proxy settings, certificates), then try again",
	}
	var se *StatusError
	var tlsErr *tls.CertificateVerificationError
	errors.As(err, &se)
	switch {
	case errors.Is(err, ErrOffline):
		e.Remedy = "run once without --offline, or bring the cache of a run that fetched it (--cache)"
	case errors.Is(err, errStalled):
		e.Message = fmt.Sprintf("the mirror hangs: nothing came for %s", c.stall)
	case se != nil && (se.Code == http.StatusUnauthorized || se.Code == http.StatusProxyAuthRequired || se.Code == http.StatusForbidden):
		e.Remedy = "give credentials for " + u.Host + " where its client keeps them (~/.netrc, apt's auth.conf, ~/.npmrc)"
		if _, had := c.credential(u); had {
			e.Remedy = "the credentials configured for " + u.Host + " are refused: renew them (~/.netrc, apt's auth.conf, ~/.npmrc)"
		}
	case errors.Is(err, ErrNotFound):
		e.Remedy = "the mirror no longer has it, or never had: resolve anew"
	case Interrupted(err):
		e.Message = "the connection broke off"
	case errors.As(err, &tlsErr):
		e.Remedy = "add the authority that signed the mirror's certificate to trust: in mirrors.yaml"
	}
	if se == nil {
		e.Err = unreachable{err}
	}
	return e
}

// Redact is a URL fit to be shown: without credentials, query and fragment,
// for signed URLs carry secrets there.
func Redact(u *url.URL) string {
	r := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return r.String()
}

// unreachable marks an error of the way to the mirror.
type unreachable struct{ error }

// Unwrap gives the error itself.
func (u unreachable) Unwrap() error { return u.error }

// Unreachable says whether err means the mirror could not be asked, as
// opposed to having said no.
func Unreachable(err error) bool {
	var se *StatusError
	if errors.As(err, &se) {
		return se.Code >= 500 || se.Code == http.StatusTooManyRequests
	}
	var u unreachable
	return errors.As(err, &u)
}
