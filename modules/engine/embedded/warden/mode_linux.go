package warden

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

func (w *Warden) fchmodat(r *notify.Request) notify.Response {
	return w.changeMode(r, r.Args[1], uint32(r.Args[2]))
}

func (w *Warden) chmod(r *notify.Request) notify.Response {
	return w.changeMode(r, r.Args[0], uint32(r.Args[1]))
}

// changeMode changes the mode of what a name under /proc leads to. C libraries
// change that of what must be no link by opening it with O_PATH and naming the
// descriptor (fchmodat with AT_SYMLINK_NOFOLLOW): GNU tar does for directories,
// and goes on without a word where it cannot be done.
func (w *Warden) changeMode(r *notify.Request, addr uint64, mode uint32) notify.Response {
	if p, known := w.changeFixed(r); known && p != notify.Continue() {
		return p
	}
	a, ok := w.ask(r, addr, true)
	if !ok || a.pid == 0 || !a.link() {
		return notify.Continue()
	}
	errno := unix.ENOENT
	w.as(r, func() { errno = w.chmodOf(a, mode) })
	if errno != 0 {
		return notify.Errno(errno)
	}
	return notify.Return(0)
}

func (w *Warden) chmodOf(a asked, mode uint32) unix.Errno {
	fd, errno := w.openProc(a, unix.O_PATH|unix.O_CLOEXEC, true)
	if errno != 0 {
		return errno
	}
	defer unix.Close(fd)
	own, errno := w.ownName(fd, true)
	if errno != 0 {
		return errno
	}
	if err := unix.Chmod(own, mode); err != nil {
		return errnoOf(err)
	}
	return 0
}
