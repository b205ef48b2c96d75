package warden

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// peers are who is at the ends of a unix connection, as they were when it was
// made: who asked us to connect, and who listened.
type peers struct {
	client, server unix.Ucred
}

// met notes who is at the ends of a connection that we made for a caller of a
// translated step: to the kernel we are the client, and all are one user.
func (w *Warden) met(r *notify.Request, e *endpoint) {
	if !w.translates() {
		return
	}
	server, err := unix.GetsockoptUcred(e.fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return
	}
	p := &peers{client: unix.Ucred{Pid: int32(tgidOf(r.PID))}, server: *server}
	p.client.Uid, p.client.Gid = w.files.Effective(r.PID)
	p.server.Uid, p.server.Gid = w.files.Effective(int(server.Pid))
	w.sockets.mu.Lock()
	e.peers = p
	w.sockets.mu.Unlock()
}

// peerOf answers getsockopt(SO_PEERCRED).
func (w *Warden) peerOf(r *notify.Request) notify.Response {
	link, err := w.descriptor(r.PID, int(int32(r.Args[0])))
	inode, ok := socketInode(link)
	if err != nil || !ok {
		return notify.Continue()
	}
	other, _ := otherEnd(inode)
	var c unix.Ucred
	s := &w.sockets
	s.mu.Lock()
	if e := s.m[inode]; e != nil && e.peers != nil {
		c = e.peers.server
	} else if e := s.m[other]; e != nil && e.peers != nil {
		c = e.peers.client
	}
	s.mu.Unlock()
	if c.Pid == 0 {
		return notify.Continue()
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(c.Pid))
	b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, c.Uid), c.Gid)
	var room [4]byte
	if w.read(r, r.Args[4], room[:]) != nil {
		return notify.Errno(unix.EFAULT)
	}
	size := int32(binary.NativeEndian.Uint32(room[:]))
	if size < 0 {
		return notify.Errno(unix.EINVAL)
	}
	b = b[:min(len(b), int(size))]
	binary.NativeEndian.PutUint32(room[:], uint32(len(b)))
	if len(b) > 0 && w.write(r, r.Args[3], b) != nil || w.write(r, r.Args[4], room[:]) != nil {
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(0)
}

// otherEnd asks the kernel which socket a unix socket is connected to
// (sock_diag(7)).
func otherEnd(inode uint64) (uint64, bool) {
	const (
		byFamily, showPeer, peerAttribute = 20, 4, 2
		header, request, message          = 16, 24, 16
	)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	b := make([]byte, header+request)
	n := binary.NativeEndian
	n.PutUint32(b, uint32(len(b)))
	n.PutUint16(b[4:], byFamily)
	n.PutUint16(b[6:], unix.NLM_F_REQUEST)
	b[header] = unix.AF_UNIX
	n.PutUint32(b[header+4:], ^uint32(0)) // states
	n.PutUint32(b[header+8:], uint32(inode))
	n.PutUint32(b[header+12:], showPeer)
	n.PutUint64(b[header+16:], ^uint64(0)) // no cookie
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, false
	}
	answer := make([]byte, 4096)
	size, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || size < header+message || n.Uint16(answer[4:]) != byFamily {
		return 0, false
	}
	for a := answer[header+message : size]; len(a) >= 8; {
		length := int(n.Uint16(a))
		if n.Uint16(a[2:]) == peerAttribute && length == 8 {
			return uint64(n.Uint32(a[4:])), true
		}
		if length = (length + 3) &^ 3; length < 4 || length > len(a) {
			break
		}
		a = a[length:]
	}
	return 0, false
}
