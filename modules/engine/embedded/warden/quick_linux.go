package warden

import (
	"bytes"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// quick answers what most calls are, with one look at the caller's memory:
// paths that are nothing to us, and starting a process. ok is false for all
// that takes longer.
func (w *Warden) quick(r *notify.Request) (p notify.Response, ok bool) {
	switch r.Call {
	case unix.SYS_OPENAT:
		return w.quickOpen(r, openatOf(r))
	case unix.SYS_READLINKAT:
		return w.quickPath(r, unix.AT_FDCWD, r.Args[1], false) // where it starts does not matter
	case unix.SYS_FCHMODAT:
		return w.quickPath(r, int(int32(r.Args[0])), r.Args[1], true)
	case unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT:
		return w.quickPath(r, int(int32(r.Args[0])), r.Args[1], true)
	case unix.SYS_GETXATTR, unix.SYS_LISTXATTR:
		return w.quickPath(r, unix.AT_FDCWD, r.Args[0], false)
	case unix.SYS_EXECVE:
		return w.quickPath(r, unix.AT_FDCWD, r.Args[0], false)
	case unix.SYS_CLONE:
		return w.start(r), true
	}
	return w.quickOld(r)
}

func (w *Warden) quickOpen(r *notify.Request, how openHow) (notify.Response, bool) {
	return w.quickPath(r, how.dir, how.path, how.writes())
}

// quickPath lets a call go on whose path, as it is written, leads neither to
// /proc nor to devices nor, when it writes, to anything fixed.
func (w *Warden) quickPath(r *notify.Request, dir int, addr uint64, writes bool) (p notify.Response, ok bool) {
	var buf [256]byte
	n, err := w.transfer(r, false, addr, buf[:min(pageSize-int(addr%pageSize), len(buf))])
	if err != nil {
		return p, false
	}
	start := buf[:n]
	i := bytes.IndexByte(start, 0)
	if i >= 0 {
		start = start[:i]
	} else if n < len("/proc") {
		return p, false // it goes on in the next page
	}
	if bytes.HasPrefix(start, []byte("/proc")) || bytes.HasPrefix(start, []byte("/dev/")) {
		return p, false
	}
	if writes && (i < 0 || w.fixed.maybe(start)) {
		return p, false
	}
	return notify.Continue(), true
}
