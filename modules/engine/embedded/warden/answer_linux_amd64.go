package warden

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// oldHandler handles calls that newer architectures do not have.
func (w *Warden) oldHandler(call int) func(*notify.Request) notify.Response {
	switch call {
	case unix.SYS_FORK, unix.SYS_VFORK:
		return w.start
	case unix.SYS_OPEN:
		return w.open
	case unix.SYS_READLINK:
		return w.readlink
	case unix.SYS_CHMOD:
		return w.chmod
	}
	return nil
}

// quickOld is quick for those calls.
func (w *Warden) quickOld(r *notify.Request) (p notify.Response, ok bool) {
	switch r.Call {
	case unix.SYS_FORK, unix.SYS_VFORK:
		return w.start(r), true
	case unix.SYS_OPEN:
		return w.quickOpen(r, openOf(r))
	case unix.SYS_READLINK:
		return w.quickPath(r, unix.AT_FDCWD, r.Args[0], false)
	case unix.SYS_CHMOD, unix.SYS_CHOWN:
		return w.quickPath(r, unix.AT_FDCWD, r.Args[0], true)
	}
	return p, false
}

// fixedCallsOld are further calls that change files by their path.
func fixedCallsOld() map[string]fixedCall {
	return map[string]fixedCall{
		"mkdir": {-1, 0, makes, 0}, "mknod": {-1, 0, makes, 0}, "symlink": {-1, 1, makes, 0},
		"unlink": {-1, 0, removes, 0}, "rmdir": {-1, 0, removes, 0}, "rename": {-1, 0, moves, 1}, "link": {-1, 0, links, 1},
		"creat": {-1, 0, changes, 0}, "chmod": {-1, 0, changes, 0}, "chown": {-1, 0, changes, 0}, "lchown": {-1, 0, changes, 0},
		"utime": {-1, 0, changes, 0}, "utimes": {-1, 0, changes, 0}, "futimesat": {0, 1, changes, 0},
	}
}

func fixedNumbersOld() map[int]string {
	return map[int]string{
		unix.SYS_MKDIR: "mkdir", unix.SYS_MKNOD: "mknod", unix.SYS_SYMLINK: "symlink", unix.SYS_UNLINK: "unlink", unix.SYS_RMDIR: "rmdir",
		unix.SYS_RENAME: "rename", unix.SYS_LINK: "link", unix.SYS_CREAT: "creat", unix.SYS_CHMOD: "chmod", unix.SYS_CHOWN: "chown",
		unix.SYS_LCHOWN: "lchown", unix.SYS_UTIME: "utime", unix.SYS_UTIMES: "utimes", unix.SYS_FUTIMESAT: "futimesat",
	}
}

// linkedCallsOld are further calls on what a path leads to.
func linkedCallsOld() map[int]linkedCall {
	return map[int]linkedCall{unix.SYS_CHOWN: {-1, 0, -1, true, linkedChown(1)}}
}

func linkedOld() []string { return []string{"chown"} }

func isReadlink(call int) bool { return call == unix.SYS_READLINK }
