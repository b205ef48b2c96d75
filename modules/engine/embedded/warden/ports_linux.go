package warden

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// isBound notes the port of an endpoint, and the one it has outside.
func (s *sockets) isBound(e *endpoint, port, at int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.state, e.port, e.at, e.seen = bound, port, at, time.Now()
	delete(s.moved, at)
	if port != at {
		if s.moved == nil {
			s.moved = map[int]int{}
		}
		s.moved[at] = port
	}
}

// has: the step has a socket that is bound to the port.
func (s *sockets) has(port int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(port) != nil
}

// Dial connects to a port of the step: to what the step has bound, and to
// nothing else that may listen there.
func (w *Warden) Dial(port int) (int, error) {
	at, release, ok := w.sockets.reserve(&w.ids, port)
	if !ok {
		return -1, unix.ECONNREFUSED
	}
	defer release()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// a full queue of a server must not hold us up for minutes
	if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 3); err == nil {
		err = unix.Connect(fd, w.sockaddr(unix.AF_INET, w.own(), at))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// portName answers getsockname and getpeername (peer) for ports that the step
// knows as others; the kernel does for the rest.
func (w *Warden) portName(r *notify.Request, peer bool) notify.Response {
	s := &w.sockets
	s.mu.Lock()
	none := len(s.moved) == 0
	s.mu.Unlock()
	if none {
		return notify.Continue()
	}
	link, err := w.descriptor(r.PID, int(int32(r.Args[0])))
	inode, ok := socketInode(link)
	if err != nil || !ok {
		return notify.Continue()
	}
	s.mu.Lock()
	e := s.m[inode]
	if e != nil && e.state == bound && !peer && e.port != e.at { // it may not listen yet
		port, family := e.port, e.family
		s.mu.Unlock()
		return w.putName(r, rawAddress(family, netip.AddrPortFrom(w.own(), uint16(port))))
	}
	s.mu.Unlock()
	family, name, ok := connectionOf(inode, peer)
	if !ok || name.Addr().Unmap() != w.own() {
		return notify.Continue()
	}
	s.mu.Lock()
	port, ok := s.moved[int(name.Port())]
	s.mu.Unlock()
	if !ok {
		return notify.Continue()
	}
	return w.putName(r, rawAddress(family, netip.AddrPortFrom(w.own(), uint16(port))))
}

// rawAddress is a struct sockaddr_in or sockaddr_in6.
func rawAddress(family int, a netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, uint16(family)), a.Port())
	if family == unix.AF_INET6 {
		ip := a.Addr().As16()
		return append(append(append(b, 0, 0, 0, 0), ip[:]...), 0, 0, 0, 0)
	}
	ip := a.Addr().As4()
	return append(append(b, ip[:]...), make([]byte, 8)...)
}

// connectionOf is what the kernel says of a TCP socket (proc_net_tcp): its own
// address or its peer's, for those that have one.
func connectionOf(inode uint64, peer bool) (family int, a netip.AddrPort, ok bool) {
	for family, name := range map[int]string{unix.AF_INET: "/proc/self/net/tcp", unix.AF_INET6: "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		number := strconv.FormatUint(inode, 10)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[9] != number {
				continue
			}
			text := f[1]
			if peer {
				text = f[2]
				switch f[3] {
				case "02", "07", "0A": // it is not connected: on its way, closed, listening
					return 0, a, false
				}
			}
			a, ok := parseConnection(text)
			return family, a, ok
		}
	}
	return 0, a, false
}

// parseConnection reads an address of that table: words as the processor has
// them, and the port.
func parseConnection(text string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(ip)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(n)), ok
}
