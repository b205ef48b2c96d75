package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// call is one system call that waits for an answer.
type call struct {
	*notify.Request
	ids   *identities
	roots *roots
	in    *Inside // nil in a user namespace
	links int     // followed to what is made
}

// handler is a system call the keeper answers.
type handler struct {
	name string
	only []jail.Test // arguments for which it is asked for
	do   func(call) notify.Response
}

func (c call) fd(n int) int32 { return int32(c.Args[n]) }

// id is a user or group id; -1 is "as it is".
func (c call) id(n int) uint32 { return uint32(c.Args[n]) }

// handlers are the calls every architecture has, by number.
func handlers() map[int]handler {
	all := map[int]handler{
		unix.SYS_FSTAT: {"fstat", nil, func(c call) notify.Response {
			f := c.in.meant(c.descriptor(c.fd(0)))
			defer f.close()
			return c.stat(f, c.Args[1])
		}},
		sysFstatat: {"newfstatat", nil, func(c call) notify.Response {
			return c.statAt(c.fd(0), c.Args[1], c.Args[2], int(c.Args[3]))
		}},
		unix.SYS_STATX: {"statx", nil, call.statx},
		unix.SYS_FCHOWN: {"fchown", nil, func(c call) notify.Response {
			return c.chown(c.descriptor(c.fd(0)), c.id(1), c.id(2))
		}},
		unix.SYS_FCHOWNAT: {"fchownat", nil, func(c call) notify.Response {
			return c.chownAt(c.fd(0), c.Args[1], c.id(2), c.id(3), int(c.Args[4]))
		}},
		unix.SYS_OPENAT: {"openat", creating(2), func(c call) notify.Response {
			return c.openAt(c.fd(0), c.Args[1], int(c.Args[2]), uint32(c.Args[3]))
		}},
		unix.SYS_MKDIRAT: {"mkdirat", nil, func(c call) notify.Response {
			return c.mkdirAt(c.fd(0), c.Args[1], uint32(c.Args[2]))
		}},
		unix.SYS_MKNODAT: {"mknodat", nil, func(c call) notify.Response {
			return c.mknodAt(c.fd(0), c.Args[1], uint32(c.Args[2]))
		}},
		unix.SYS_SYMLINKAT: {"symlinkat", nil, func(c call) notify.Response {
			return c.symlinkAt(c.Args[0], c.fd(1), c.Args[2])
		}},
		unix.SYS_GETSOCKOPT: {
			"getsockopt", []jail.Test{{Arg: 1, Value: unix.SOL_SOCKET}, {Arg: 2, Value: unix.SO_PEERCRED}}, call.peer,
		},
		unix.SYS_CHROOT:     {"chroot", nil, call.changesRoot},
		unix.SYS_PIVOT_ROOT: {"pivot_root", nil, call.changesRoot},
		unix.SYS_UNSHARE:    {"unshare", nil, call.changesRoot},
		unix.SYS_SETNS:      {"setns", nil, call.changesRoot},
		unix.SYS_EXECVE: {"execve", nil, func(c call) notify.Response {
			return c.execAt(unix.AT_FDCWD, c.Args[0], 0)
		}},
		unix.SYS_EXECVEAT: {"execveat", nil, func(c call) notify.Response {
			return c.execAt(c.fd(0), c.Args[1], int(c.Args[4]))
		}},
		unix.SYS_RT_SIGACTION: {"rt_sigaction", []jail.Test{{Arg: 0, Value: uint32(unix.SIGCHLD)}}, func(c call) notify.Response {
			notify.RestartAfter(c.ReadMemory, c.WriteMemory, c.Args[1])
			return notify.Continue()
		}},
		unix.SYS_UTIMENSAT: {"utimensat", nil, func(c call) notify.Response {
			if c.Args[1] == 0 {
				if c.fd(0) == unix.AT_FDCWD {
					return notify.Errno(unix.EFAULT)
				}
				return c.setTimes(c.descriptor(c.fd(0)), c.Args[2], timespecs)
			}
			return c.setTimesAt(c.fd(0), c.Args[1], c.Args[2], int(c.Args[3]), timespecs)
		}},
	}
	for _, list := range []map[int]handler{attributeHandlers(), identityHandlers(), oldHandlers()} {
		for n, h := range list {
			all[n] = h
		}
	}
	return all
}

// creating tests flags for what makes a file.
func creating(arg int) []jail.Test {
	return []jail.Test{{Arg: arg, Mask: unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY, Not: true}}
}

// rules are what the filter hands over.
func rules() []jail.Rule {
	var out []jail.Rule
	for _, h := range handlers() {
		out = append(out, jail.Rule{Call: h.name, If: h.only, Action: jail.Notify})
	}
	return out
}

// StepRules are what a step's own filter refuses so that callers fall back to
// what the keeper sees.
func StepRules() []jail.Rule {
	var out []jail.Rule
	for _, name := range []string{"openat2", "setxattrat", "getxattrat", "listxattrat", "removexattrat", "io_uring_setup"} {
		out = append(out, jail.Rule{Call: name, Action: jail.Refuse, Errno: uint32(unix.ENOSYS)})
	}
	return out
}
