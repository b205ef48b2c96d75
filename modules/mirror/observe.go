package mirror

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/store"
)

// RuleThisMachine refuses an observed step what is on the machine that builds.
const RuleThisMachine = "egress/this-machine"

// EcosystemObserved is that of a material which came from no mirror.
const EcosystemObserved = "observed"

// Contact is one exchange of an observed step with a host that is no mirror.
type Contact struct {
	Host     string          `json:"host"`             // with its port
	Scheme   string          `json:"scheme"`           // http, https, tls (a tunnel nobody looked into)
	Method   string          `json:"method,omitempty"` // of a request that was seen
	URL      string          `json:"url,omitempty"`    // of a request that was seen, without credentials
	Status   int             `json:"status,omitempty"` // of its answer; 0: there was none
	Digest   artifact.Digest `json:"digest,omitempty"` // of the answer, if the step took all of it
	Received int64           `json:"received"`         // bytes
	Sent     int64           `json:"sent,omitempty"`   // bytes through a tunnel
	Failed   string          `json:"failed,omitempty"` // why the host was not reached
	Step     string          `json:"step"`
}

// maxContacts bounds what is kept of one step.
const maxContacts = 20000

// egress is the way out of an observed build.
type egress struct {
	key       string
	transport *http.Transport
	proxy     func(*url.URL) (*url.URL, error)
	proxies   map[string]bool // host:port of the machine's own proxies

	file   string // where they are kept
	mu     sync.Mutex
	opaque map[string]bool // hosts to which TLS is not looked into: their clients do not trust the gateway
}

// opaqueFile keeps those hosts for the next run: a client that was not trusted
// may try no second time in this one.
type opaqueFile struct {
	Version int      `json:"version"` // 1
	Hosts   []string `json:"hosts"`
}

func (o *egress) isOpaque(host string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opaque[host]
}

func (o *egress) setOpaque(host string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opaque[host] = true
	text, err := json.Marshal(opaqueFile{1, slices.Sorted(maps.Keys(o.opaque))})
	if err != nil {
		return err
	}
	return store.WriteFile(o.file, append(text, '\n'))
}

// readOpaque takes over what an earlier run found out, if anything.
func (o *egress) readOpaque() {
	var doc opaqueFile
	text, err := os.ReadFile(o.file)
	if err != nil || json.Unmarshal(text, &doc) != nil || doc.Version != 1 {
		return
	}
	for _, host := range doc.Hosts {
		o.opaque[host] = true
	}
}

// ObserveMounts are the mounts every RUN of an observed build is given: part of
// the step's identity, so that what was built with a way out is not taken for
// what was built without.
func ObserveMounts(key string) (mounts []string, secrets map[string]string) {
	return []string{"type=secret,id=" + lockMark + key + ",target=/dev/drydock-observed,mode=0444"}, map[string]string{lockMark + key: "observed\n"}
}

// ObserveEgress lets the steps whose RUN has the key's ObserveMounts, and ADD,
// out to any host by the machine's own way (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)
// and writes down each exchange. This machine itself and what is local to its
// network links stay out of reach. It must be called before the first step.
func (g *Gateway) ObserveEgress(key string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.out != nil {
		return nil
	}
	get := func(name string) string {
		v, _ := g.set.env.First(name, strings.ToLower(name))
		return v
	}
	conf := httpproxy.Config{HTTPProxy: get("HTTP_PROXY"), HTTPSProxy: get("HTTPS_PROXY"), NoProxy: get("NO_PROXY")}
	pool, err := fetch.TrustPool(g.set.cfg.Trust, g.set.cfg.Place)
	if err != nil {
		return err
	}
	o := &egress{key: key, proxy: conf.ProxyFunc(), proxies: map[string]bool{}, opaque: map[string]bool{}, file: filepath.Join(filepath.Dir(g.steps.dir), "observed-tls.json")}
	o.readOpaque()
	for _, scheme := range []string{"http", "https"} {
		if p, err := o.proxy(&url.URL{Scheme: scheme, Host: "proxied.invalid"}); err == nil && p != nil {
			o.proxies[addressOf(p)] = true
		}
	}
	o.transport = &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return o.proxy(r.URL) },
		DialContext:           func(ctx context.Context, _, address string) (net.Conn, error) { return o.dial(ctx, address) },
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		DisableCompression:    true, // digests are of the bytes as served
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
	}
	g.out = o
	return nil
}

// addressOf is the host:port a URL is dialled at.
func addressOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// observes says whether a step has a way out: it is marked, or it is an ADD,
// which nothing can mark.
func (g *Gateway) observes(ctx context.Context, step string) bool {
	g.mu.Lock()
	o := g.out
	g.mu.Unlock()
	if o == nil {
		return false
	}
	key := g.steps.lockOf(ctx, step)
	return key == o.key || key == fetchLock
}

var errThisMachine = errors.New("it is this machine, or local to its network")

// dial connects to a proxy, or to a host that is not this machine.
func (o *egress) dial(ctx context.Context, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !o.proxies[address] {
		d.Control = func(_, to string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(to)
			if err == nil && local(ap.Addr()) {
				return errThisMachine
			}
			return err
		}
	}
	return d.DialContext(ctx, "tcp", address)
}

// local says whether an address means this machine or its own network link,
// where clouds keep credentials.
func local(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified()
}

// allowed refuses literal addresses of this machine also where a proxy would be
// asked for them.
func allowed(host string) bool {
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return (err != nil || !local(a)) && !strings.EqualFold(host, "localhost")
}

func (g *Gateway) refuseLocal(w http.ResponseWriter, r *http.Request, url string) {
	g.refuseBy(w, r, refusal{URL: url, Rule: RuleThisMachine, Reason: errThisMachine.Error(), Remedy: "a build reaches hosts elsewhere, never the machine it runs on"})
}

// pass sends a request on to whom it is for, and its answer back.
func (g *Gateway) pass(w http.ResponseWriter, r *http.Request, target *url.URL) {
	target.RawQuery = r.URL.RawQuery
	step := stepOf(r.Context())
	if !allowed(target.Hostname()) {
		g.refuseLocal(w, r, fetch.Redact(target))
		return
	}
	c := g.steps.contact(step, Contact{Host: addressOf(target), Scheme: target.Scheme, Method: r.Method, URL: fetch.Redact(target)})
	rp := &httputil.ReverseProxy{
		Transport: g.out.transport, FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = target, target.Host
		},
		ModifyResponse: func(resp *http.Response) error {
			g.steps.change(func() { c.Status = resp.StatusCode })
			resp.Body = &watched{ReadCloser: resp.Body, left: resp.ContentLength, sum: sha256.New(), note: func(n int64, d artifact.Digest) {
				g.steps.change(func() {
					c.Received = n
					if d != "" && r.Method != http.MethodHead {
						c.Digest = d
					}
				})
			}}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, errThisMachine) {
				g.refuseLocal(w, r, fetch.Redact(target))
				return
			}
			g.steps.change(func() { c.Failed = err.Error() })
			answer(w, http.StatusBadGateway, "drydock (egress observed): "+err.Error())
		},
	}
	rp.ServeHTTP(w, r)
}

// watched counts and hashes an answer. The last bytes are noted before the
// step has them: it may end with them.
type watched struct {
	io.ReadCloser
	n, left int64 // left: of the length the server gave, -1 it gave none
	sum     hash.Hash
	note    func(n int64, whole artifact.Digest)
}

// Read implements io.Reader.
func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.sum.Write(p[:n])
	whole := artifact.Digest("")
	if errors.Is(err, io.EOF) || b.left >= 0 && b.n == b.left {
		whole = artifact.Digest("sha256:" + hex.EncodeToString(b.sum.Sum(nil)))
	}
	b.note(b.n, whole)
	return n, err
}

// tunnelOut answers CONNECT of an observed step to a port of who knows what.
func (g *Gateway) tunnelOut(w http.ResponseWriter, r *http.Request) {
	c := g.steps.contact(stepOf(r.Context()), Contact{Host: r.Host, Scheme: "tls"})
	up, err := g.out.connect(r.Context(), r.Host)
	if errors.Is(err, errThisMachine) {
		g.refuseLocal(w, r, "https://"+r.Host+"/")
		return
	}
	if err != nil {
		g.steps.change(func() { c.Failed = err.Error() })
		answer(w, http.StatusBadGateway, "drydock (egress observed): "+err.Error())
		return
	}
	defer up.Close()
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.logf("taking over a tunnel to %s: %v", r.Host, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	g.splice(c, conn, rw.Reader, up)
}

// passTLS lets a connection of an observed step out to whom it is for, without
// looking into it.
func (g *Gateway) passTLS(ctx context.Context, conn net.Conn, from io.Reader, call tlsCall) {
	host := net.JoinHostPort(hostname(call.host()), portOr443(call.host()))
	c := g.steps.contact(call.step, Contact{Host: host, Scheme: "tls"})
	err := errThisMachine
	var up net.Conn
	switch {
	case call.host() == "":
		err = errors.New("TLS without a server name: nobody knows whom it is for")
	case allowed(hostname(call.host())):
		up, err = g.out.connect(ctx, host)
	}
	if err != nil {
		g.steps.change(func() { c.Failed = err.Error() })
		if errors.Is(err, errThisMachine) {
			g.refused(call.step, refusal{URL: call.url(), Rule: RuleThisMachine, Reason: err.Error()})
		}
		_, _ = io.WriteString(conn, tlsDenied)
		return
	}
	defer up.Close()
	g.splice(c, conn, from, up)
}

// splice copies both ways until both have ended, and counts.
func (g *Gateway) splice(c *Contact, conn net.Conn, from io.Reader, up net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(counting{up, func(n int) { g.steps.change(func() { c.Sent += int64(n) }) }}, from)
		if half, ok := up.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(counting{conn, func(n int) { g.steps.change(func() { c.Received += int64(n) }) }}, up)
	_ = conn.Close()
	<-done
}

type counting struct {
	io.Writer
	count func(int)
}

// Write implements io.Writer. What is about to be written counts already: the
// step may end with it.
func (w counting) Write(p []byte) (int, error) {
	w.count(len(p))
	return w.Writer.Write(p)
}

// connect opens a way to host:port, through the machine's proxy if it has one
// for it.
func (o *egress) connect(ctx context.Context, hostport string) (net.Conn, error) {
	p, err := o.proxy(&url.URL{Scheme: "https", Host: strings.TrimSuffix(hostport, ":443")})
	if err != nil {
		return nil, errors.New("the proxy's URL in the environment is not one")
	}
	if p == nil {
		return o.dial(ctx, hostport)
	}
	conn, err := o.dial(ctx, addressOf(p))
	if err != nil {
		return nil, fmt.Errorf("reaching the proxy: %w", err)
	}
	if p.Scheme == "https" {
		conf := o.transport.TLSClientConfig.Clone()
		conf.ServerName = p.Hostname()
		conn = tls.Client(conn, conf)
	}
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: hostport}, Host: hostport, Header: http.Header{}}
	if u := p.User; u != nil {
		word, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+word)))
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	br := bufio.NewReader(conn)
	err = req.Write(conn)
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(br, req) //nolint:bodyclose // of a CONNECT there is none
	}
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("the proxy answered %s", resp.Status)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return &buffered{conn, br}, nil
}

// buffered is a connection of which some bytes were read ahead.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// CloseWrite ends one direction, where the connection can.
func (b *buffered) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// contact notes an exchange; what is returned is changed under change.
func (b *stepBook) contact(step string, c Contact) *Contact {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.running(step)
	if len(s.contacts) >= maxContacts {
		return &Contact{}
	}
	s.contacts = append(s.contacts, &c)
	return &c
}

func (b *stepBook) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// LooseContacts are those of steps that ended since the gateway was made and
// belong to no build that came to its end.
func (g *Gateway) LooseContacts() []Contact {
	b := g.steps
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Contact
	for _, step := range slices.Sorted(maps.Keys(b.contacts)) {
		named := false
		for _, steps := range b.builds {
			_, in := steps[step]
			named = named || in
		}
		if !named {
			out = append(out, b.contacts[step]...)
		}
	}
	return out
}
