package mirror

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// refuseTLS reads the name a TLS client wants, refuses it and says so in TLS:
// the gateway has no certificate for anybody's name, on purpose.
func (g *Gateway) refuseTLS(c net.Conn, r *bufio.Reader, step string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	name := serverName(io.LimitReader(r, 64<<10))
	reason := "TLS to anything is refused: it cannot be told from leaving the mirrors"
	url := "https://" + name + "/"
	if name == "" {
		url, reason = "https://(no server name)/", "TLS without a server name"
	}
	g.refused(step, refusal{URL: url, Rule: RuleMirrorOnly, Reason: reason, Remedy: remedyMirrorOnly})
	// alert(21), TLS 1.2, two bytes: fatal(2) access_denied(49); RFC 8446, 6.
	_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, 49})
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
