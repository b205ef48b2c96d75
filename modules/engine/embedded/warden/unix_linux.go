package warden

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/fnv"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// Unix sockets are the warden's to connect and bind where Landlock does not
// scope abstract ones: a name in a caller's memory may be another one when the
// kernel reads it.

// abstractName is what an abstract name of the step is outside: no other
// step's, and nobody else's.
func (w *Warden) abstractName(name []byte) string {
	sum := fnv.New128a() // names that meet are the step's own
	_, _ = sum.Write(name)
	return "@drydock/" + w.config.Own + "/" + hex.EncodeToString(sum.Sum(nil))
}

func (w *Warden) connectUnix(r *notify.Request, e *endpoint, a address) notify.Response {
	switch {
	case e.fd < 0:
		return notify.Errno(unix.EISCONN)
	case a.family != unix.AF_UNIX || len(a.path) == 0:
		return notify.Errno(unix.EINVAL)
	}
	w.sockets.sweepOld(&w.ids) // what the step has closed does not listen
	errno := unix.Errno(0)
	if a.path[0] == 0 {
		errno = errnoOrNone(unix.Connect(e.fd, &unix.SockaddrUnix{Name: w.abstractName(a.path[1:])}))
	} else if !w.as(r, func() { errno = w.connectPath(r, e, a) }) {
		errno = unix.ENOENT
	}
	if errno == 0 {
		w.met(r, e)
		w.sockets.did(e, r, a)
		w.sockets.mu.Lock()
		e.state = connected
		w.sockets.mu.Unlock()
	}
	return notify.Errno(errno)
}

// pathIn is the text of an address, from the step's root on.
func (w *Warden) pathIn(r *notify.Request, a address) (string, unix.Errno) {
	name, _, _ := bytes.Cut(a.path, []byte{0})
	if strings.HasPrefix(string(name), "/") {
		return string(name), 0
	}
	cwd, ok := w.inside(readlinkIn(unix.AT_FDCWD, "/proc/"+strconv.Itoa(r.PID)+"/cwd"))
	if !ok {
		return "", unix.ENOENT
	}
	return cwd + "/" + string(name), 0 // not cleaned: links come before ".."
}

func (w *Warden) openIn(name string, flags uint64) (int, unix.Errno) {
	fd, err := unix.Openat2(int(w.root.Fd()), name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	return fd, errnoOrNone(err)
}

func descriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (w *Warden) connectPath(r *notify.Request, e *endpoint, a address) unix.Errno {
	fd, errno := w.findSocket(r, a)
	if errno != 0 {
		return errno
	}
	defer unix.Close(fd)
	if w.translates() && !w.files.May(r.PID, fd, 2) { // to the kernel they all are one user
		return unix.EACCES
	}
	return errnoOrNone(unix.Connect(e.fd, &unix.SockaddrUnix{Name: descriptorPath(fd)}))
}

// findSocket opens (O_PATH) what an address names.
func (w *Warden) findSocket(r *notify.Request, a address) (int, unix.Errno) {
	if w.translates() {
		name, _, _ := bytes.Cut(a.path, []byte{0})
		return w.findInside(r, string(name))
	}
	name, errno := w.pathIn(r, a)
	if errno != 0 {
		return -1, errno
	}
	return w.openIn(name, unix.O_PATH)
}

// findInside opens (O_PATH) what a path names in the root of a translated step,
// for who may.
func (w *Warden) findInside(r *notify.Request, name string) (int, unix.Errno) {
	fd, err := w.files.Find(r.PID, unix.AT_FDCWD, name, 0)
	if err != nil {
		return -1, errnoOf(err)
	}
	if _, ok := w.inside(readlinkIn(unix.AT_FDCWD, descriptorPath(fd))); !ok {
		unix.Close(fd)
		return -1, unix.ENOENT
	}
	return fd, 0
}

func (w *Warden) bindUnix(r *notify.Request, e *endpoint, a address) notify.Response {
	if e.fd < 0 || a.family != unix.AF_UNIX || len(a.path) == 0 {
		return notify.Errno(unix.EINVAL)
	}
	errno := unix.Errno(0)
	if a.path[0] == 0 {
		name := &unix.SockaddrUnix{Name: w.abstractName(a.path[1:])}
		if errno = errnoOrNone(unix.Bind(e.fd, name)); errno == unix.EADDRINUSE {
			w.sockets.sweep(&w.ids)
			errno = errnoOrNone(unix.Bind(e.fd, name))
		}
	} else if !w.as(r, func() { errno = w.bindPath(r, e, a) }) {
		errno = unix.ENOENT
	}
	if errno == 0 {
		w.sockets.did(e, r, a)
		w.sockets.mu.Lock()
		e.name = a.path
		w.sockets.mu.Unlock()
	}
	return notify.Errno(errno)
}

// getsockname tells a socket's name as the step gave it: the kernel knows the
// one that we bound it to, and servers remove their socket's file by its name.
func (w *Warden) getsockname(r *notify.Request) notify.Response {
	e, done, known := w.find(r)
	if !known {
		return w.portName(r, false)
	}
	defer done()
	w.sockets.mu.Lock()
	name := e.name
	w.sockets.mu.Unlock()
	if len(name) == 0 {
		return w.portName(r, false)
	}
	if i := bytes.IndexByte(name, 0); name[0] != 0 && i >= 0 {
		name = name[:i]
	}
	b := append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), name...)
	if name[0] != 0 {
		b = append(b, 0)
	}
	return w.putName(r, b)
}

// putName answers with a socket's address.
func (w *Warden) putName(r *notify.Request, b []byte) notify.Response {
	var room [4]byte
	if w.read(r, r.Args[2], room[:]) != nil {
		return notify.Continue()
	}
	size := int32(binary.NativeEndian.Uint32(room[:]))
	if size < 0 {
		return notify.Errno(unix.EINVAL)
	}
	binary.NativeEndian.PutUint32(room[:], uint32(len(b)))
	if b = b[:min(len(b), int(size))]; len(b) > 0 && w.write(r, r.Args[1], b) != nil || w.write(r, r.Args[2], room[:]) != nil {
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(0)
}

// bindPath makes the socket's file in the directory it is meant in, as the
// caller and with its mask.
func (w *Warden) bindPath(r *notify.Request, e *endpoint, a address) unix.Errno {
	name, errno := w.pathIn(r, a)
	if errno != 0 {
		return errno
	}
	who, ok := idsOf(r.PID)
	base := path.Base(name)
	if !ok || base == "." || base == ".." || base == "/" {
		return unix.EADDRINUSE
	}
	find := func(up string) (int, unix.Errno) { return w.openIn(up, unix.O_PATH|unix.O_DIRECTORY) }
	if w.translates() {
		find = func(up string) (int, unix.Errno) { return w.findInside(r, up) }
	}
	dir, errno := find(strings.TrimSuffix(name, base))
	if errno != 0 {
		return errno
	}
	defer unix.Close(dir)
	if w.translates() {
		if err := w.files.MayMake(r.PID, dir, base); err != nil {
			return errnoOf(err)
		}
	}
	if err := unix.Bind(e.fd, &unix.SockaddrUnix{Name: descriptorPath(dir) + "/" + base}); err != nil {
		return errnoOf(err)
	}
	if w.translates() {
		return errnoOrNone(w.files.Made(r.PID, dir, base))
	}
	_ = unix.Fchmodat(dir, base, 0o777&^who.umask, 0)
	return 0
}

// sweepOld sweeps unless that was just done.
func (s *sockets) sweepOld(ids *idThreads) {
	s.mu.Lock()
	recent := time.Since(s.swept) < seenFor
	s.mu.Unlock()
	if !recent {
		s.sweep(ids)
	}
}
