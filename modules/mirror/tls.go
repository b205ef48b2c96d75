package mirror

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// TLS of a step ends at the gateway, whoever it is for: under a certificate of
// the gateway's own authority, which steps are told to trust, the request can be
// read and is answered as a plain one is, from a mirror or with a refusal that
// has the whole address. Nothing is connected through.

// RuleUntrusted refuses TLS to a mirror's host when the client does not trust
// the gateway.
const RuleUntrusted = "egress/untrusted"

const (
	greetTime     = 15 * time.Second // for a client to say whom it wants
	handshakeTime = 30 * time.Second
)

// access_denied(49) as a fatal(2) alert(21) of TLS 1.2; RFC 8446, 6.
const tlsDenied = "\x15\x03\x03\x00\x02\x02\x31"

// tellAuthority answers whose certificates a step is to trust.
func (g *Gateway) tellAuthority(c net.Conn) {
	defer c.Close()
	text, err := g.authority.PEM()
	if err != nil {
		g.logf("%v", err)
		return
	}
	_ = json.NewEncoder(c).Encode(map[string]string{"authority": string(text)}) // who is gone needs no telling
}

// tlsCall is one TLS connection of a step.
type tlsCall struct {
	step    string
	name    string // of the server, as the client greets it
	connect string // host:port of the CONNECT it came by; ""
}

// host is whom it is for, with a port that is not 443; "" when nobody knows.
func (c tlsCall) host() string {
	if c.connect != "" {
		return strings.TrimSuffix(c.connect, ":443")
	}
	return c.name
}

// subject is whom the certificate is for.
func (c tlsCall) subject() string {
	if c.name != "" {
		return c.name
	}
	return (&url.URL{Host: c.connect}).Hostname()
}

func (c tlsCall) url() string {
	if h := c.host(); h != "" {
		return "https://" + h + "/"
	}
	return "https://(no server name)/"
}

// serveTLS answers a step's TLS connection, of which nothing has been read.
// connect is the host:port of the CONNECT it came by, or "".
func (g *Gateway) serveTLS(c net.Conn, r *bufio.Reader, step, connect string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(greetTime))
	var greeting bytes.Buffer
	call := tlsCall{step: step, connect: connect}
	call.name = serverName(io.TeeReader(io.LimitReader(r, 64<<10), &greeting))
	_ = c.SetDeadline(time.Time{})
	spoken := bytes.HasPrefix(greeting.Bytes(), []byte{22}) // handshake; RFC 8446, 5.1
	again := io.MultiReader(&greeting, r)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	observed := g.observes(ctx, step)
	switch {
	case observed && (!spoken || call.host() == "" || g.out.isOpaque(call.host())):
		g.passTLS(ctx, c, again, call)
	case !spoken || call.host() == "":
		reason := "TLS without a server name"
		if connect != "" {
			reason = "a tunnel to " + connect + " would leave the mirrors: what went through it is not TLS"
		}
		g.refused(step, refusal{URL: call.url(), Rule: RuleMirrorOnly, Reason: reason, Remedy: remedyMirrorOnly})
		_, _ = io.WriteString(c, tlsDenied)
	default:
		sc := &stepConn{Conn: c, r: bufio.NewReaderSize(again, 32<<10), step: step, closed: make(chan struct{})}
		g.endTLS(sc, call, observed)
	}
}

// endTLS shakes hands and hands the connection to the HTTP server.
func (g *Gateway) endTLS(sc *stepConn, call tlsCall, observed bool) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	tc := tls.Server(sc, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			conf := &tls.Config{
				MinVersion:     tls.VersionTLS12,
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return g.authority.leaf(call.subject()) },
			}
			known := []string{"h2", "http/1.1"}
			if slices.ContainsFunc(h.SupportedProtos, func(p string) bool { return slices.Contains(known, p) }) {
				conf.NextProtos = known // a client that has none of them is not turned away
			}
			return conf, nil
		},
	})
	err := tc.HandshakeContext(ctx)
	if err == nil && g.queue.put(tc) {
		<-sc.closed
	}
	_ = tc.Close()
	why := distrust(err)
	switch {
	case err == nil && sc.asked.Load():
	case observed && (err == nil || why != ""):
		// asked again it is let through, not looked into
		if err := g.out.setOpaque(call.host()); err != nil {
			g.logf("%v", err)
		}
		if why != "" {
			ct := g.steps.contact(call.step, Contact{Host: net.JoinHostPort(hostname(call.host()), portOr443(call.host())), Scheme: "tls"})
			g.steps.change(func() {
				ct.Failed = "the client does not trust the gateway (" + why + "); it is let through when it tries again, in the next run at the latest"
			})
		}
	case !g.lists(context.WithoutCancel(ctx), call.host()) && g.steps.isRunning(call.step):
		g.refused(call.step, refusal{URL: call.url(), Rule: RuleMirrorOnly, Reason: "it is none of the mirrors", Remedy: remedyMirrorOnly})
	case why != "":
		g.refused(call.step, refusal{
			URL: call.url(), Rule: RuleUntrusted, Reason: "the client does not trust the gateway's certificate: " + why,
			Remedy: "let it use the authorities in the file SSL_CERT_FILE names, or write the address with http://: the gateway fetches by https all the same",
		})
	}
}

// distrust is what a client said that ended a handshake; "" when it was not the
// client who did. One on OpenSSL says what it thinks of a certificate before it
// encrypts, which crypto/tls takes for a damaged record.
func distrust(err error) string {
	var e *net.OpError
	switch {
	case !errors.As(err, &e):
		return ""
	case e.Op == "remote error":
		return e.Err.Error()
	case e.Op == "local error" && strings.Contains(e.Err.Error(), "bad record MAC"):
		return "it ended the handshake"
	}
	return ""
}

func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

func portOr443(host string) string {
	if p := (&url.URL{Host: host}).Port(); p != "" {
		return p
	}
	return "443"
}

// tunnel answers CONNECT: what goes through is TLS that ends here.
func (g *Gateway) tunnel(w http.ResponseWriter, r *http.Request) {
	step := stepOf(r.Context())
	host := strings.TrimSuffix(r.Host, ":443")
	observed := g.observes(r.Context(), step)
	ours := host != r.Host || g.lists(r.Context(), host) // a port of TLS
	switch {
	case observed && !allowed(hostname(r.Host)):
		g.refuseLocal(w, r, "https://"+r.Host+"/")
		return
	case observed && !ours:
		g.tunnelOut(w, r)
		return
	case !ours:
		g.refuse(w, r, "https://"+host+"/", "a tunnel to "+r.Host+" would leave the mirrors")
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.logf("taking over a tunnel to %s: %v", r.Host, err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	g.serveTLS(conn, rw.Reader, step, r.Host)
}

// lists says whether any mirror has an address of a host, with a port that is
// not 443.
func (g *Gateway) lists(ctx context.Context, host string) bool {
	u := &url.URL{Scheme: "https", Host: host}
	same := func(base *url.URL) bool {
		return base != nil && strings.EqualFold(base.Hostname(), u.Hostname()) && portOf(base) == portOf(u)
	}
	if strings.EqualFold(host, GatewayHost) || g.isStoodInFor(ctx, host) {
		return true
	}
	for _, a := range g.set.archives {
		if same(a.base) || same(a.own) {
			return true
		}
	}
	for _, eco := range ecosystems() {
		if eco.hosts != nil && slices.ContainsFunc(eco.hosts(g.set), func(h string) bool { return strings.EqualFold(h, host) }) {
			return true
		}
		if eco.setting == nil || eco.name == Debian {
			continue
		}
		ups, err := g.set.upstreams(ctx, eco.name)
		if err == nil && slices.ContainsFunc(ups, func(up upstream) bool { return same(up.base) }) {
			return true
		}
	}
	return false
}

// serverName reads a ClientHello's server name; "" when there is none.
func serverName(r io.Reader) (name string) {
	done := errors.New("that was all")
	_ = tls.Server(&helloConn{r: r}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name = h.ServerName
			return nil, done
		},
	}).Handshake() // always fails, by design
	return name
}

// helloConn lets crypto/tls read a ClientHello and say nothing.
type helloConn struct {
	r io.Reader
	bytes.Buffer
}

// Read implements net.Conn.
func (c *helloConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Close implements net.Conn.
func (c *helloConn) Close() error { return nil }

// LocalAddr implements net.Conn.
func (c *helloConn) LocalAddr() net.Addr { return &net.UnixAddr{} }

// RemoteAddr implements net.Conn.
func (c *helloConn) RemoteAddr() net.Addr { return &net.UnixAddr{} }

// SetDeadline implements net.Conn.
func (c *helloConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c *helloConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c *helloConn) SetWriteDeadline(time.Time) error { return nil }
