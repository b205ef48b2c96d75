package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

const sysFstatat = unix.SYS_NEWFSTATAT

// oldHandlers are the calls without a directory's descriptor.
func oldHandlers() map[int]handler {
	const cwd = unix.AT_FDCWD
	return map[int]handler{
		unix.SYS_STAT: {"stat", nil, func(c call) notify.Response {
			return c.statAt(cwd, c.Args[0], c.Args[1], 0)
		}},
		unix.SYS_LSTAT: {"lstat", nil, func(c call) notify.Response {
			return c.statAt(cwd, c.Args[0], c.Args[1], unix.AT_SYMLINK_NOFOLLOW)
		}},
		unix.SYS_UTIME: {"utime", nil, func(c call) notify.Response {
			return c.setTimesAt(cwd, c.Args[0], c.Args[1], 0, utimbuf)
		}},
		unix.SYS_UTIMES: {"utimes", nil, func(c call) notify.Response {
			return c.setTimesAt(cwd, c.Args[0], c.Args[1], 0, timevals)
		}},
		unix.SYS_FUTIMESAT: {"futimesat", nil, func(c call) notify.Response {
			return c.setTimesAt(c.fd(0), c.Args[1], c.Args[2], 0, timevals)
		}},
		unix.SYS_CHOWN: {"chown", nil, func(c call) notify.Response {
			return c.chownAt(cwd, c.Args[0], c.id(1), c.id(2), 0)
		}},
		unix.SYS_LCHOWN: {"lchown", nil, func(c call) notify.Response {
			return c.chownAt(cwd, c.Args[0], c.id(1), c.id(2), unix.AT_SYMLINK_NOFOLLOW)
		}},
		unix.SYS_OPEN: {"open", creating(1), func(c call) notify.Response {
			return c.openAt(cwd, c.Args[0], int(c.Args[1]), uint32(c.Args[2]))
		}},
		unix.SYS_CREAT: {"creat", nil, func(c call) notify.Response {
			return c.openAt(cwd, c.Args[0], unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, uint32(c.Args[1]))
		}},
		unix.SYS_MKDIR: {"mkdir", nil, func(c call) notify.Response {
			return c.mkdirAt(cwd, c.Args[0], uint32(c.Args[1]))
		}},
		unix.SYS_MKNOD: {"mknod", nil, func(c call) notify.Response {
			return c.mknodAt(cwd, c.Args[0], uint32(c.Args[1]))
		}},
		unix.SYS_SYMLINK: {"symlink", nil, func(c call) notify.Response {
			return c.symlinkAt(c.Args[0], cwd, c.Args[1])
		}},
	}
}
