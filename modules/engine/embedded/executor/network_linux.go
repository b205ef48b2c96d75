package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"drydock/modules/engine/embedded/initproc"
)

// Port is a port of a step.
type Port struct {
	Number int // 1 to 65535
	UDP    bool
}

// Host is something a step reaches by name: its ports are listened on inside
// the step, and what comes in there is connected by Dial.
type Host struct {
	Names []string
	Ports []Port
	Dial  func(context.Context, Port) (net.Conn, error)
}

// Network is what a step has beside the mirror gateway. The zero value is
// nothing.
type Network struct {
	Hosts     []Host
	Reachable bool   // Executor.Dial connects to the step
	Serves    []Port // ports the step answers on; the gateway leaves them to it
	Vertex    Vertex // who the step is to the gateway, when it is no step of a build
}

// vertex is who a step is.
func (n Network) vertex(own Vertex) Vertex {
	if own.Digest == "" {
		return n.Vertex
	}
	return own
}

// servesHTTP says whether the step itself has the port of the gateway's proxy.
func (n Network) servesHTTP() bool { return slices.Contains(n.Serves, Port{Number: 80}) }

type networkKey struct{}

// WithNetwork gives the step that is run with the context a network. It goes
// by context because BuildKit's executor interface has no room for it.
func WithNetwork(ctx context.Context, n Network) context.Context {
	return context.WithValue(ctx, networkKey{}, n)
}

func (e *Executor) networkOf(ctx context.Context) Network {
	n, _ := ctx.Value(networkKey{}).(Network)
	if e.container != nil {
		n.Serves = nil // what a contained step listens on is its own address
	}
	return n
}

// maxHosts is how many hosts one step has addresses for.
const maxHosts = 250

// join makes a network part of the step's specification and of its hosts file.
func (s *step) join(n Network) error {
	s.network = n
	if s.e.container != nil {
		return nil // its addresses are not known yet
	}
	s.serves(n)
	if n.Reachable {
		s.spec.Addresses = append(s.spec.Addresses, initproc.OwnIP, initproc.PeerIP)
	}
	if len(n.Hosts) > maxHosts {
		return fmt.Errorf("a step reaches %d services at most", maxHosts)
	}
	for i, h := range n.Hosts {
		address := fmt.Sprintf("198.18.1.%d", i+1)
		s.spec.Addresses = append(s.spec.Addresses, address)
		s.hosts += address + "\t" + strings.Join(h.Names, " ") + "\n"
		for _, p := range h.Ports {
			s.spec.Listen = append(s.spec.Listen, initproc.Listen{Address: address, Port: p.Number, UDP: p.UDP})
		}
	}
	return nil
}

// joinContained is join for a step without namespaces: each host is another
// loopback address, on which only the step is answered.
func (s *step) joinContained() error {
	if len(s.network.Hosts) > maxHosts-hostOffset {
		return fmt.Errorf("a step reaches %d services at most", maxHosts-hostOffset)
	}
	for i, h := range s.network.Hosts {
		ip := s.addresses.own.As4()
		ip[3] = byte(hostOffset + i)
		address := netip.AddrFrom4(ip)
		s.hosts += address.String() + "\t" + strings.Join(h.Names, " ") + "\n"
		for _, p := range h.Ports {
			if p.UDP {
				return fmt.Errorf("service %s, port %d/udp: a step of tier T2 sends no datagrams", h.Names[0], p.Number)
			}
			l, err := listenFor(address, p.Number)
			if err != nil {
				return fmt.Errorf("listening for service %s: %w", h.Names[0], err)
			}
			s.later(func() error { l.Close(); return nil })
			s.listeners = append(s.listeners, &ownListener{l, s.addresses.own})
			serves(s.spec.Contained.Hosts, address, p.Number, l)
		}
	}
	return nil
}

// hostOffset is the last part of the first host's address.
const hostOffset = 10

// contained starts to answer on the listeners of a step without namespaces.
func (b *switchboard) contained(ctx context.Context, s *step) {
	b.ctx, b.cancel = context.WithCancel(ctx)
	i := 0
	for _, h := range s.network.Hosts {
		for _, p := range h.Ports {
			b.accept(s.listeners[i], h, p)
			i++
		}
	}
}

// switchboard connects what a step wants of its hosts.
type switchboard struct {
	ctx    context.Context
	cancel context.CancelFunc
	stderr io.Writer
	wait   sync.WaitGroup
}

// open starts to answer on the listeners, which are in the order of the ports.
func (b *switchboard) open(ctx context.Context, n Network, files []*os.File) error {
	b.ctx, b.cancel = context.WithCancel(ctx)
	for _, h := range n.Hosts {
		for _, p := range h.Ports {
			if len(files) == 0 {
				return errors.New("the step's init sent too few listeners")
			}
			if err := b.listen(h, p, files[0]); err != nil {
				return fmt.Errorf("taking the step's listener: %w", err)
			}
			files = files[1:]
		}
	}
	return nil
}

func (b *switchboard) listen(h Host, p Port, f *os.File) error {
	if p.UDP {
		conn, err := net.FilePacketConn(f)
		if err != nil {
			return err
		}
		context.AfterFunc(b.ctx, func() { conn.Close() })
		b.wait.Go(func() { b.datagrams(conn, h, p) })
		return nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	b.accept(l, h, p)
	return nil
}

func (b *switchboard) accept(l net.Listener, h Host, p Port) {
	context.AfterFunc(b.ctx, func() { l.Close() })
	b.wait.Go(func() {
		for b.ctx.Err() == nil {
			c, err := l.Accept()
			if err != nil {
				if !pause(b.ctx, 10*time.Millisecond) {
					return
				}
				continue
			}
			b.wait.Go(func() { b.stream(c, h, p) })
		}
	})
}

// close ends every connection.
func (b *switchboard) close() {
	if b.cancel != nil {
		b.cancel()
		b.wait.Wait()
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (b *switchboard) stream(in net.Conn, h Host, p Port) {
	defer in.Close()
	ctx, cancel := context.WithTimeout(b.ctx, dialTime)
	out, err := h.Dial(ctx, p)
	cancel()
	if err != nil { // the step sees its connection end; why is said here
		fmt.Fprintf(b.stderr, "drydock: connecting to %s port %d: %v\n", h.Names[0], p.Number, err)
		return
	}
	defer out.Close()
	defer context.AfterFunc(b.ctx, func() { in.Close(); out.Close() })()
	Splice(in, out)
}

// Splice copies both ways until both sides have ended, passing on when one has
// said all it will.
func Splice(a, b net.Conn) {
	var both sync.WaitGroup
	one := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			_ = to.Close()
		}
	}
	both.Go(func() { one(a, b) })
	both.Go(func() { one(b, a) })
	both.Wait()
}

const (
	maxDatagram = 64 << 10
	// flowIdle is how long a peer may be silent before it is forgotten.
	flowIdle = time.Minute
)

// datagrams passes datagrams on and the answers back, one connection for each
// address they come from.
func (b *switchboard) datagrams(conn net.PacketConn, h Host, p Port) {
	flows := map[string]net.Conn{}
	var mu sync.Mutex
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		mu.Lock()
		out := flows[from.String()]
		mu.Unlock()
		if out == nil {
			if out, err = h.Dial(b.ctx, p); err != nil {
				continue // lost, as datagrams may be
			}
			mu.Lock()
			flows[from.String()] = out
			mu.Unlock()
			b.wait.Go(func() {
				answers(conn, from, out)
				mu.Lock()
				delete(flows, from.String())
				mu.Unlock()
			})
			context.AfterFunc(b.ctx, func() { out.Close() })
		}
		_, _ = out.Write(buf[:n])
	}
}

func answers(conn net.PacketConn, to net.Addr, from net.Conn) {
	defer from.Close()
	buf := make([]byte, maxDatagram)
	for {
		_ = from.SetReadDeadline(time.Now().Add(flowIdle))
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.WriteTo(buf[:n], to); err != nil {
			return
		}
	}
}
