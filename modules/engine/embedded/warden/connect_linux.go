package warden

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// maxSockaddr is the size of struct sockaddr_storage.
const maxSockaddr = 128

// address is a socket address as the caller wrote it.
type address struct {
	family int
	ip     netip.Addr
	port   int
	path   []byte // of AF_UNIX, as it is
}

func (w *Warden) address(r *notify.Request) (address, error) {
	size := int(int32(r.Args[2]))
	if size < 2 || size > maxSockaddr {
		return address{}, unix.EINVAL
	}
	b := make([]byte, size)
	if err := w.read(r, r.Args[1], b); err != nil {
		return address{}, err
	}
	return parseAddress(b)
}

func parseAddress(b []byte) (address, error) {
	a := address{family: int(binary.NativeEndian.Uint16(b))}
	switch a.family {
	case unix.AF_INET:
		if len(b) < unix.SizeofSockaddrInet4 {
			return a, unix.EINVAL
		}
		a.port = int(binary.BigEndian.Uint16(b[2:]))
		a.ip = netip.AddrFrom4([4]byte(b[4:8]))
	case unix.AF_INET6:
		if len(b) < unix.SizeofSockaddrInet6-4 { // without the scope: RFC 2133
			return a, unix.EINVAL
		}
		a.port = int(binary.BigEndian.Uint16(b[2:]))
		a.ip = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	case unix.AF_UNIX:
		a.path = b[2:]
	case unix.AF_UNSPEC:
	default:
		return a, unix.EAFNOSUPPORT
	}
	return a, nil
}

// connect connects the caller's socket to where it may go.
func (w *Warden) connect(r *notify.Request) notify.Response {
	e, done, known := w.find(r)
	if !known {
		return w.notOurs()
	}
	defer done()
	a, err := w.address(r)
	if err == errHidden {
		// only the gateway answers without being told what for
		a, err = address{family: e.family, ip: w.gateway(), port: hiddenPort}, nil
	}
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	switch {
	case w.sockets.again(e, r, a):
		return notify.Return(0)
	case e.family == unix.AF_UNIX:
		return w.connectUnix(r, e, a)
	case e.kind == unix.SOCK_DGRAM:
		return w.connectDatagram(e.family, a)
	case e.fd < 0:
		return notify.Errno(unix.EISCONN)
	case a.family == unix.AF_UNSPEC:
		return notify.Errno(errnoOf(disconnect(e.fd)))
	case a.family != e.family:
		return notify.Errno(unix.EAFNOSUPPORT)
	}
	return w.connectStream(r, e, a)
}

// connectStream connects a TCP socket to where it may go.
func (w *Warden) connectStream(r *notify.Request, e *endpoint, a address) notify.Response {
	ip, errno := w.destination(a)
	if errno != 0 {
		w.told.refuse(fmt.Sprintf("tcp %s", netip.AddrPortFrom(a.ip, uint16(a.port))))
		return notify.Errno(errno)
	}
	port := a.port
	if at, ok := w.hostPort(a); ok {
		port = at
	}
	switch {
	case ip == w.own():
		at, release, ok := w.sockets.reserve(&w.ids, a.port)
		if !ok {
			return notify.Errno(unix.ECONNREFUSED)
		}
		defer release()
		w.comeFrom(e, localhost)
		port = at
	}
	err := unix.Connect(e.fd, w.sockaddr(e.family, ip, port))
	if ip == w.own() && err != nil && err != unix.EINPROGRESS {
		w.comeFrom(e, w.own())
	}
	if err == nil || err == unix.EINPROGRESS {
		w.sockets.mu.Lock()
		e.state = connected
		w.sockets.mu.Unlock()
	}
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	w.sockets.did(e, r, a)
	return notify.Return(0)
}

var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// comeFrom makes a connection come from an address, its port still open: from
// 127.0.0.1 when a step connects to itself, since servers ask whether their
// peer is that. A socket that has a port keeps its address.
func (w *Warden) comeFrom(e *endpoint, from netip.Addr) {
	if unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) != nil {
		return
	}
	_ = unix.Bind(e.fd, w.sockaddr(e.family, from, 0))
	_ = unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 0)
}

// notOurs is the answer for a descriptor that is not a socket we made. The
// kernel may go on where Landlock refuses what matters, whatever the
// descriptor has become meanwhile: connecting and binding TCP, and abstract
// unix sockets. Where it does not, we make every socket, and one that is not
// known is accepted from another or one of a pair, hence connected. So do we
// where the step has the container's root: Landlock lets it connect to any unix
// socket that has a path there.
func (w *Warden) notOurs() notify.Response {
	if w.config.ABI >= ScopedABI && !w.translates() {
		return notify.Continue()
	}
	return notify.Errno(unix.EISCONN)
}

// destination maps an address onto where the step gets: its own 127.0.0.1, the
// gateway's ports and those of its services.
func (w *Warden) destination(a address) (netip.Addr, unix.Errno) {
	switch {
	case a.ip == w.own(), a.ip.IsUnspecified(), a.ip == netip.IPv6Loopback(), a.ip == localhost:
		return w.own(), 0
	case a.ip.IsLoopback(), a.ip == w.gateway():
		if _, ok := w.hostPort(a); ok {
			return a.ip, 0
		}
		return a.ip, unix.ECONNREFUSED
	}
	return a.ip, unix.ENETUNREACH
}

// hostPort is where a service of the step's is listened for.
func (w *Warden) hostPort(a address) (int, bool) {
	at, ok := w.config.Hosts[net.JoinHostPort(a.ip.String(), strconv.Itoa(a.port))]
	return at, ok
}

// hiddenPort is where the gateway answers callers whose memory cannot be read:
// it finds out what they speak.
const hiddenPort = 81

// connectDatagram answers what resolvers ask by connecting: whether there is a
// way. Nothing is connected, nothing can be sent. An address of version 4 on a
// socket of version 6 is refused: glibc takes a socket of version 4 then, and
// ends the program when the other's own name is not one of version 4.
func (w *Warden) connectDatagram(family int, a address) notify.Response {
	switch {
	case a.family == unix.AF_UNSPEC:
		return notify.Return(0)
	case a.family != family:
		return notify.Errno(unix.EAFNOSUPPORT)
	}
	if _, errno := w.destination(address{ip: a.ip, port: 53}); errno != 0 {
		return notify.Errno(unix.ENETUNREACH)
	}
	return notify.Return(0)
}

func disconnect(fd int) error {
	raw := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}

// bind binds the caller's socket to the step's own address.
func (w *Warden) bind(r *notify.Request) notify.Response {
	e, done, known := w.find(r)
	if !known {
		return w.notOurs()
	}
	defer done()
	a, err := w.address(r)
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	switch {
	case w.sockets.again(e, r, a):
		return notify.Return(0)
	case e.family == unix.AF_UNIX:
		return w.bindUnix(r, e, a)
	case e.kind == unix.SOCK_DGRAM:
		w.told.refuse(fmt.Sprintf("listening on udp port %d", a.port))
		return notify.Errno(unix.EACCES)
	case e.fd < 0:
		return notify.Errno(unix.EINVAL)
	case a.family != e.family:
		return notify.Errno(unix.EAFNOSUPPORT)
	case !a.ip.IsUnspecified() && a.ip != w.own() && !a.ip.IsLoopback():
		return notify.Errno(unix.EADDRNOTAVAIL)
	}
	if e.family == unix.AF_INET6 {
		if only, err := unix.GetsockoptInt(e.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); err == nil && only != 0 {
			return notify.Errno(unix.EADDRNOTAVAIL) // the step has no address of version 6
		}
	}
	return w.bindPort(r, e, a)
}

// bindPort gives a socket the port it wants, or one that stands for it.
func (w *Warden) bindPort(r *notify.Request, e *endpoint, a address) notify.Response {
	w.sockets.binding.Lock()
	defer w.sockets.binding.Unlock()
	at, err := w.bindOwn(e, a.port)
	port := at
	if err == unix.EACCES && w.translates() {
		port = a.port
		at, err = w.bindMoved(e, port)
	}
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	w.sockets.did(e, r, a)
	w.sockets.isBound(e, port, at)
	return notify.Return(0)
}

// Ports given out where a socket is bound to none in particular. They are
// asked for by number: one that the kernel chose it frees as soon as the
// socket does not listen any more.
const (
	firstPort = 32768
	lastPort  = 60999
	portTries = 100
)

// bindMoved binds an endpoint to another port than the one it wants, which
// this user may not have.
func (w *Warden) bindMoved(e *endpoint, port int) (int, error) {
	w.sockets.sweep(&w.ids)
	if w.sockets.has(port) {
		return 0, unix.EADDRINUSE
	}
	at, err := w.bindOwn(e, MovedPort(port))
	if err == unix.EADDRINUSE { // somebody else's, on all addresses
		at, err = w.bindOwn(e, 0)
	}
	return at, err
}

// bindOwn binds an endpoint to a port of the step's address that nobody in
// this network has, on whatever address: what listens on all addresses would
// hear the step otherwise. For that the socket must not share, unless all that
// is in the way are ends of old connections.
func (w *Warden) bindOwn(e *endpoint, port int) (int, error) {
	_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
	shared, _ := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	defer func() { _ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, shared) }()
	try := func(port int) error { return unix.Bind(e.fd, w.sockaddr(e.family, w.own(), port)) }
	if port == 0 {
		var err error
		for range portTries {
			port = firstPort + rand.IntN(lastPort-firstPort+1)
			if err = try(port); err != unix.EADDRINUSE {
				break
			}
		}
		return port, err
	}
	err := try(port)
	if err == unix.EADDRINUSE {
		w.sockets.sweep(&w.ids) // the step may have closed what we still hold
		err = try(port)
	}
	if err == unix.EADDRINUSE && shared != 0 && !listening(port) {
		_ = unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		err = try(port)
	}
	if err == nil {
		if shared, err := unix.GetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil || shared != 0 {
			return -1, nil // it was made to share meanwhile: nobody is let connect to it
		}
	}
	return port, err
}

// listening reports whether anybody listens on a port, on any address
// (proc_net_tcp: local address is the second field, 0A is the state).
func listening(port int) bool {
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return true
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}
