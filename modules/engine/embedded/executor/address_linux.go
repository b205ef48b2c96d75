package executor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hiddenPort is where the gateway answers processes whose address the
	// warden cannot read: it looks what they speak.
	hiddenPort = 81
	// claimPort is what steps keep others from their addresses by. Nothing is
	// said there.
	claimPort = 58000
	// addressTries is how many pairs of addresses are tried.
	addressTries = 100
	// sniffTime is how long a client may take to say its first byte.
	sniffTime = 10 * time.Second
)

// addresses are a contained step's: its own and the gateway's, both of the
// loopback network and nobody else's.
type addresses struct {
	own, gateway netip.Addr
	claim        io.Closer            // nobody else has the addresses as long as it is open
	listeners    map[int]net.Listener // of the gateway, by the port that steps know it by
}

// gatewayPorts are what steps know the gateway by: http, tls, names, and any of
// them.
func gatewayPorts() []int { return []int{80, 443, 53, hiddenPort} }

// newAddresses finds a pair of loopback addresses that no other step has, in
// this engine or in another of the same network.
func newAddresses() (*addresses, error) {
	var last error
	for range addressTries {
		a, b := byte(1+rand.IntN(250)), byte(rand.IntN(256))
		out := &addresses{
			gateway: netip.AddrFrom4([4]byte{127, a, b, 1}), own: netip.AddrFrom4([4]byte{127, a, b, 2}),
			listeners: map[int]net.Listener{},
		}
		if last = out.listen(); last == nil {
			return out, nil
		}
		out.close()
		if !errors.Is(last, unix.EADDRINUSE) {
			break
		}
	}
	return nil, fmt.Errorf("listening for the step's gateway: %w", last)
}

func (a *addresses) listen() (err error) {
	if a.claim, err = net.ListenPacket("udp4", net.JoinHostPort(a.own.String(), strconv.Itoa(claimPort))); err != nil {
		return err
	}
	for _, port := range gatewayPorts() {
		l, err := listenFor(a.gateway, port)
		if err != nil {
			return err
		}
		a.listeners[port] = &ownListener{l, a.own}
	}
	return nil
}

// listenFor listens on an address's port. One that this user may not have, or
// that somebody has on all addresses, is listened for on another, to which the
// warden connects.
func listenFor(address netip.Addr, port int) (net.Listener, error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(address.String(), strconv.Itoa(port)))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EADDRINUSE) {
		return net.Listen("tcp4", net.JoinHostPort(address.String(), "0"))
	}
	return l, err
}

// serves has the warden connect to a listener for an address and port.
func serves(hosts map[string]int, address netip.Addr, port int, l net.Listener) {
	if at, ok := l.Addr().(*net.TCPAddr); ok {
		hosts[net.JoinHostPort(address.String(), strconv.Itoa(port))] = at.Port
	}
}

func (a *addresses) close() {
	if a.claim != nil {
		a.claim.Close()
	}
	for _, l := range a.listeners {
		l.Close()
	}
}

// ownListener accepts only what comes from the step.
type ownListener struct {
	net.Listener
	from netip.Addr
}

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from, ok := c.RemoteAddr().(*net.TCPAddr); ok && from.AddrPort().Addr().Unmap() == l.from {
			return c, nil
		}
		c.Close()
	}
}

// openContained tells the gateway of the step and answers on its addresses.
func (g *link) openContained(a *addresses) error {
	g.address = a.gateway
	if err := g.begin(); err != nil {
		return err
	}
	for _, l := range a.listeners {
		g.listening = append(g.listening, l)
	}
	go g.accept(a.listeners[80], func(c net.Conn) { g.request(c.(closeWriter)) })
	go g.accept(a.listeners[443], func(c net.Conn) { g.splice(c.(closeWriter), "tls") })
	go g.accept(a.listeners[53], func(c net.Conn) { g.serveNames(c) })
	go g.accept(a.listeners[hiddenPort], g.sniff)
	return nil
}

// sniff finds out what a client speaks by its first byte.
func (g *link) sniff(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(sniffTime))
	in := bufio.NewReader(c)
	b, err := in.Peek(1)
	_ = c.SetReadDeadline(time.Time{})
	if err != nil {
		g.drop(c)
		return
	}
	begun := &begunConn{c.(closeWriter), in}
	switch {
	case b[0] == 0x16: // a TLS handshake record
		g.splice(begun, "tls")
	case b[0] < 2: // the length of a query of less than 512 bytes
		g.serveNames(begun)
	default:
		g.request(begun)
	}
}

// begunConn is a connection of which something was read ahead.
type begunConn struct {
	closeWriter
	in io.Reader
}

func (c *begunConn) Read(b []byte) (int, error) { return c.in.Read(b) }

// maxQuery is the most that a query may be.
const maxQuery = 4096

// serveNames answers queries on one connection (RFC 7766: two bytes of length
// before each message).
func (g *link) serveNames(c net.Conn) {
	defer g.drop(c)
	for {
		_ = c.SetDeadline(time.Now().Add(sniffTime))
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		n := int(size[0])<<8 | int(size[1])
		if n > maxQuery {
			return
		}
		query := make([]byte, n)
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		reply, name := answer(query, g.address)
		if reply == nil {
			return
		}
		g.lookedUp(name)
		if _, err := c.Write(append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...)); err != nil {
			return
		}
	}
}
