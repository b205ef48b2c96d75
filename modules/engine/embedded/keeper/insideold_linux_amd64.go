package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// oldModeHandlers are the calls without a directory's descriptor.
func oldModeHandlers() map[int]handler {
	return map[int]handler{
		unix.SYS_CHMOD: {"chmod", nil, func(c call) notify.Response {
			return c.chmodAt(cwd, c.Args[0], uint32(c.Args[1]), 0)
		}},
		unix.SYS_MKDIR: {"mkdir", nil, func(c call) notify.Response {
			return c.makeAny(cwd, c.Args[0], unix.S_IFDIR|uint32(c.Args[1])&0o7777)
		}},
		unix.SYS_MKNOD: {"mknod", nil, func(c call) notify.Response {
			return c.makeAny(cwd, c.Args[0], kindOf(uint32(c.Args[1])))
		}},
		unix.SYS_ACCESS: {"access", nil, func(c call) notify.Response {
			return c.access(cwd, c.Args[0], uint32(c.Args[1]), 0)
		}},
		unix.SYS_OPEN: {"open", creating(1), func(c call) notify.Response {
			return c.openAny(cwd, c.Args[0], int(c.Args[1]), uint32(c.Args[2]))
		}},
		unix.SYS_CREAT: {"creat", nil, func(c call) notify.Response {
			return c.openAny(cwd, c.Args[0], unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, uint32(c.Args[1]))
		}},
	}
}

// oldPathHandlers are those that are handed over only with a root.
func oldPathHandlers() map[int]handler {
	return map[int]handler{
		unix.SYS_OPEN: {"open", nil, func(c call) notify.Response {
			return c.openAny(cwd, c.Args[0], int(c.Args[1]), uint32(c.Args[2]))
		}},
		unix.SYS_READLINK: {"readlink", nil, func(c call) notify.Response {
			return c.readLink(cwd, c.Args[0], c.Args[1], int32(c.Args[2]))
		}},
		unix.SYS_SYMLINK: {"symlink", nil, func(c call) notify.Response {
			return c.makeLink(c.Args[0], cwd, c.Args[1])
		}},
		unix.SYS_UNLINK: {"unlink", nil, func(c call) notify.Response {
			return c.remove(cwd, c.Args[0], 0)
		}},
		unix.SYS_RMDIR: {"rmdir", nil, func(c call) notify.Response {
			return c.remove(cwd, c.Args[0], unix.AT_REMOVEDIR)
		}},
		unix.SYS_RENAME: {"rename", nil, func(c call) notify.Response {
			return c.rename(cwd, c.Args[0], cwd, c.Args[1], 0)
		}},
		unix.SYS_LINK: {"link", nil, func(c call) notify.Response {
			return c.link(cwd, c.Args[0], cwd, c.Args[1], 0)
		}},
	}
}
