package warden

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// loopback is the interface inet sockets of a step are bound to: they neither
// reach nor hear any other.
const loopback = "lo"

// maxHeld is how many sockets are kept before those the step has closed are
// looked for.
const maxHeld = 64

type socketState int

const (
	fresh socketState = iota
	bound
	connected
)

// endpoint is a socket made for the step. fd is our duplicate of its open
// file, on which we bind and connect; it is let go when the socket is
// connected, so that closing it in the step ends the connection.
type endpoint struct {
	fd           int // -1: let go
	family, kind int
	state        socketState
	tgid, number int       // who asked, and the descriptor it got
	serial       int       // the later made, the higher
	port         int       // of one that is bound, as the step knows it
	at           int       // the port that it is bound to
	seen         time.Time // when the step still had it
	using        int       // calls on fd that go on
	name         []byte    // of a unix socket, as the step knows it
	last         done      // what was done on it last
	peers        *peers    // of a unix socket of a translated step that we connected
}

// done is a call that succeeded.
type done struct {
	call, tid, port int
	ip              netip.Addr
	path            string
}

// again reports whether a call was answered already. Before Linux 6.17 a thread
// that is signalled as it gets its answer makes the call once more.
func (s *sockets) again(e *endpoint, r *notify.Request, a address) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.last == doneBy(r, a)
}

func (s *sockets) did(e *endpoint, r *notify.Request, a address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.last = doneBy(r, a)
}

func doneBy(r *notify.Request, a address) done {
	return done{call: r.Call, tid: r.PID, port: a.port, ip: a.ip, path: string(a.path)}
}

// sockets are the step's, by inode number.
type sockets struct {
	mu      sync.Mutex
	m       map[uint64]*endpoint
	sweepAt int
	made    int
	swept   time.Time
	binding sync.Mutex  // one socket is bound at a time
	moved   map[int]int // ports that are others to the step, by the real ones
}

func (s *sockets) init() { s.m, s.sweepAt = map[uint64]*endpoint{}, maxHeld }

// socket makes a socket for the caller.
func (w *Warden) socket(r *notify.Request) notify.Response {
	family, kind, proto := int(uint32(r.Args[0])), int(uint32(r.Args[1])), int(uint32(r.Args[2]))
	flags := kind & (unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK)
	kind &^= flags
	if family == unix.AF_NETLINK {
		return w.netlink(r)
	}
	if errno := servedKind(family, kind, proto); errno != 0 {
		if errno == unix.EPERM {
			w.told.refuse(fmt.Sprintf("a socket of type %d, protocol %d", kind, proto))
		}
		return notify.Errno(errno)
	}
	fd, err := unix.Socket(family, kind|flags|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	if err := w.fence(fd, family, kind); err != nil {
		unix.Close(fd)
		return notify.Errno(errnoOf(err))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return notify.Errno(errnoOf(err))
	}
	n, err := r.PutFD(fd, -1, flags&unix.SOCK_CLOEXEC != 0)
	if err != nil {
		unix.Close(fd)
		return notify.Errno(errnoOf(err))
	}
	e := &endpoint{fd: fd, family: family, kind: kind, tgid: tgidOf(r.PID), number: n}
	if family != unix.AF_UNIX && kind == unix.SOCK_DGRAM {
		unix.Close(fd) // we never do anything on it
		e.fd = -1
	}
	w.sockets.add(&w.ids, st.Ino, e)
	return notify.Return(int64(n))
}

func servedKind(family, kind, proto int) unix.Errno {
	switch {
	case family == unix.AF_UNIX:
		if kind != unix.SOCK_STREAM && kind != unix.SOCK_SEQPACKET {
			return unix.EPROTONOSUPPORT
		}
	case kind == unix.SOCK_STREAM && (proto == 0 || proto == unix.IPPROTO_TCP):
	case kind == unix.SOCK_DGRAM && (proto == 0 || proto == unix.IPPROTO_UDP):
	case kind == unix.SOCK_STREAM:
		return unix.EPROTONOSUPPORT // multipath TCP is tried first, and done without
	default:
		return unix.EPERM
	}
	return 0
}

// fence makes a new inet socket one of the step's: on loopback only, with the
// step's own address (its port still open), and one for datagrams unable to
// send any.
func (w *Warden) fence(fd, family, kind int) error {
	if family == unix.AF_UNIX {
		return nil
	}
	if err := unix.BindToDevice(fd, loopback); err != nil {
		return err
	}
	if kind == unix.SOCK_DGRAM {
		// ENOTCONN, but shut all the same (inet_shutdown): see it fail
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		if err := unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT, w.sockaddr(family, w.own(), 9)); err != unix.EPIPE {
			return unix.EPERM
		}
		return nil
	}
	// an address without a port: a socket that listens before it is bound is
	// on the step's address too
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, w.sockaddr(family, w.own(), 0)); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 0)
}

func (w *Warden) own() netip.Addr { a, _ := netip.ParseAddr(w.config.Own); return a }

func (w *Warden) gateway() netip.Addr { a, _ := netip.ParseAddr(w.config.Gateway); return a }

func (w *Warden) sockaddr(family int, a netip.Addr, port int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
}

func tgidOf(tid int) int {
	who, ok := idsOf(tid)
	if !ok {
		return tid
	}
	return who.tgid
}

func (s *sockets) add(ids *idThreads, inode uint64, e *endpoint) {
	s.mu.Lock()
	if old := s.m[inode]; old != nil { // an old one was closed: the number is free again
		old.letGo()
	}
	s.made++
	e.serial = s.made
	s.m[inode] = e
	full := len(s.m) > s.sweepAt
	s.mu.Unlock()
	if full {
		s.sweep(ids)
	}
}

func (e *endpoint) letGo() {
	if e.fd >= 0 && e.using == 0 {
		unix.Close(e.fd)
		e.fd = -1
	}
}

// sweep forgets sockets that no process of the step has open.
func (s *sockets) sweep(ids *idThreads) {
	now := time.Now()
	open, hidden := ids.openSockets(family())
	s.mu.Lock()
	defer s.mu.Unlock()
	for inode, e := range s.m {
		if !open[inode] && !hidden[e.tgid] && e.using == 0 {
			e.letGo()
			delete(s.m, inode)
			continue
		}
		e.seen = now
	}
	s.swept = now
	s.sweepAt = max(maxHeld, 2*len(s.m))
}

// seenFor is how long the step is believed to still have a socket.
const seenFor = 20 * time.Millisecond

// reserve finds the socket of the step that is bound to a port of its own
// address and keeps it open until release is called: as long as it is bound
// nobody else in this network has that port, so that a connection gets there
// or nowhere. at is the port it has outside.
func (s *sockets) reserve(ids *idThreads, port int) (at int, release func(), ok bool) {
	s.mu.Lock()
	e := s.at(port)
	old := e != nil && time.Since(e.seen) > seenFor
	s.mu.Unlock()
	if old {
		s.sweep(ids)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.at(port); e == nil {
		return 0, nil, false
	}
	e.using++
	return e.at, func() {
		s.mu.Lock()
		e.using--
		s.mu.Unlock()
	}, true
}

func (s *sockets) at(port int) *endpoint {
	for _, e := range s.m {
		if e.state == bound && e.port == port && e.fd >= 0 {
			return e
		}
	}
	return nil
}

// openSockets lists the sockets processes have open, and the processes that
// do not let us look.
func (t *idThreads) openSockets(list []process) (open map[uint64]bool, hidden map[int]bool) {
	open, hidden = map[uint64]bool{}, map[int]bool{}
	for _, p := range list {
		seen := addSockets(p.pid, open)
		if !seen {
			if who, ok := idsOf(p.pid); ok && (who.uid != 0 || who.gid != 0) {
				t.run(who.uid, who.gid, func() { seen = addSockets(p.pid, open) })
			}
		}
		if !seen {
			hidden[p.pid] = true
		}
	}
	return open, hidden
}

// addSockets adds the sockets of one process; false when we may not look.
func addSockets(pid int, open map[uint64]bool) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return !os.IsPermission(err)
	}
	for _, entry := range entries {
		link, err := os.Readlink(dir + "/" + entry.Name())
		if os.IsPermission(err) {
			return false
		}
		if inode, ok := socketInode(link); ok && err == nil {
			open[inode] = true
		}
	}
	return true
}

func socketInode(link string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return n, err == nil
}

// find returns the endpoint a caller means, for use: call done with it.
// known is false when the descriptor is no socket of ours; hidden when it
// cannot be said.
func (w *Warden) find(r *notify.Request) (e *endpoint, done func(), known bool) {
	number := int(int32(r.Args[0]))
	link, err := w.descriptor(r.PID, number)
	s := &w.sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// by what it got from us; a copy of a descriptor is not found
		tgid := tgidOf(r.PID)
		for _, c := range s.m {
			if c.tgid == tgid && c.number == number && (e == nil || c.serial > e.serial) {
				e = c
			}
		}
	} else if inode, ok := socketInode(link); ok {
		e = s.m[inode]
	}
	if e == nil {
		return nil, nil, false
	}
	e.using++
	return e, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.using--
		if e.state == connected {
			e.letGo()
		}
	}, true
}

// descriptor reads what a descriptor of a thread is.
func (w *Warden) descriptor(tid, number int) (string, error) {
	path := "/proc/" + strconv.Itoa(tid) + "/fd/" + strconv.Itoa(number)
	link, err := os.Readlink(path)
	if err == nil || !os.IsPermission(err) {
		return link, err
	}
	who, ok := idsOf(tid)
	if !ok || who.uid == 0 && who.gid == 0 {
		return "", err
	}
	w.ids.run(who.uid, who.gid, func() { link, err = os.Readlink(path) })
	return link, err
}

func errnoOf(err error) unix.Errno {
	for err != nil {
		if e, ok := err.(unix.Errno); ok {
			return e
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	return unix.EIO
}
