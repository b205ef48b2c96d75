package keeper

import (
	"slices"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// identityHandlers are the calls by which a process becomes somebody or asks
// who it is (credentials(7)).
func identityHandlers() map[int]handler {
	ask := func(name string, of func(identity) uint32) handler {
		return handler{name, nil, func(c call) notify.Response { return notify.Return(int64(of(c.ids.of(c.PID)))) }}
	}
	ask3 := func(name string, of func(identity) [3]uint32) handler {
		return handler{name, nil, func(c call) notify.Response {
			for n, v := range of(c.ids.of(c.PID)) {
				if c.WriteMemory(c.Args[n], bytesOf(&v)) != nil {
					return notify.Errno(unix.EFAULT)
				}
			}
			return notify.Return(0)
		}}
	}
	token := []jail.Test{{Arg: 0, Value: tokenLimit}}
	out := map[int]handler{
		unix.SYS_GETUID:    ask("getuid", func(i identity) uint32 { return i.ruid }),
		unix.SYS_GETEUID:   ask("geteuid", func(i identity) uint32 { return i.euid }),
		unix.SYS_GETGID:    ask("getgid", func(i identity) uint32 { return i.rgid }),
		unix.SYS_GETEGID:   ask("getegid", func(i identity) uint32 { return i.egid }),
		unix.SYS_GETRESUID: ask3("getresuid", func(i identity) [3]uint32 { return [3]uint32{i.ruid, i.euid, i.suid} }),
		unix.SYS_GETRESGID: ask3("getresgid", func(i identity) [3]uint32 { return [3]uint32{i.rgid, i.egid, i.sgid} }),
		unix.SYS_GETGROUPS: {"getgroups", nil, call.getGroups},
		unix.SYS_SETGROUPS: {"setgroups", nil, call.setGroups},
		unix.SYS_PRLIMIT64: {"prlimit64", []jail.Test{{Arg: 1, Value: tokenLimit}}, func(c call) notify.Response { return c.limit(c.Args[3]) }},
		unix.SYS_GETRLIMIT: {"getrlimit", token, func(c call) notify.Response { return c.limit(c.Args[1]) }},
		unix.SYS_SETRLIMIT: {"setrlimit", token, func(c call) notify.Response { return c.limit(0) }},
	}
	set := func(n int, name string, f func(call, *identity) (int64, error)) {
		out[n] = handler{name, nil, func(c call) notify.Response {
			i := c.ids.of(c.PID)
			before := i
			value, err := f(c, &i)
			if err == nil && i != before {
				err = c.ids.become(c.PID, i)
			}
			if err != nil {
				return failure(err)
			}
			return notify.Return(value)
		}}
	}
	set(unix.SYS_SETUID, "setuid", func(c call, i *identity) (int64, error) {
		return 0, setOne(i.privileged(), c.id(0), &i.ruid, &i.euid, &i.suid, &i.fsuid)
	})
	set(unix.SYS_SETGID, "setgid", func(c call, i *identity) (int64, error) {
		return 0, setOne(i.privileged(), c.id(0), &i.rgid, &i.egid, &i.sgid, &i.fsgid)
	})
	set(unix.SYS_SETREUID, "setreuid", func(c call, i *identity) (int64, error) {
		return 0, setTwo(i.privileged(), c.id(0), c.id(1), &i.ruid, &i.euid, &i.suid, &i.fsuid)
	})
	set(unix.SYS_SETREGID, "setregid", func(c call, i *identity) (int64, error) {
		return 0, setTwo(i.privileged(), c.id(0), c.id(1), &i.rgid, &i.egid, &i.sgid, &i.fsgid)
	})
	set(unix.SYS_SETRESUID, "setresuid", func(c call, i *identity) (int64, error) {
		return 0, setThree(i.privileged(), c.id(0), c.id(1), c.id(2), &i.ruid, &i.euid, &i.suid, &i.fsuid)
	})
	set(unix.SYS_SETRESGID, "setresgid", func(c call, i *identity) (int64, error) {
		return 0, setThree(i.privileged(), c.id(0), c.id(1), c.id(2), &i.rgid, &i.egid, &i.sgid, &i.fsgid)
	})
	set(unix.SYS_SETFSUID, "setfsuid", func(c call, i *identity) (int64, error) {
		return setFS(i.privileged(), c.id(0), i.ruid, i.euid, i.suid, &i.fsuid), nil
	})
	set(unix.SYS_SETFSGID, "setfsgid", func(c call, i *identity) (int64, error) {
		return setFS(i.privileged(), c.id(0), i.rgid, i.egid, i.sgid, &i.fsgid), nil
	})
	return out
}

// setOne is setuid(2) and setgid(2).
func setOne(privileged bool, id uint32, r, e, s, fs *uint32) error {
	switch {
	case id == unchanged:
		return unix.EINVAL
	case privileged:
		*r, *s = id, id
	case id != *r && id != *s:
		return unix.EPERM
	}
	*e, *fs = id, id
	return nil
}

// setTwo is setreuid(2) and setregid(2).
func setTwo(privileged bool, ruid, euid uint32, r, e, s, fs *uint32) error {
	oldR, oldE := *r, *e
	if !privileged {
		if ruid != unchanged && ruid != oldR && ruid != oldE || euid != unchanged && euid != oldR && euid != oldE && euid != *s {
			return unix.EPERM
		}
	}
	if ruid != unchanged {
		*r = ruid
	}
	if euid != unchanged {
		*e = euid
	}
	if ruid != unchanged || euid != unchanged && euid != oldR {
		*s = *e
	}
	*fs = *e
	return nil
}

// setThree is setresuid(2) and setresgid(2).
func setThree(privileged bool, ruid, euid, suid uint32, r, e, s, fs *uint32) error {
	have := []uint32{unchanged, *r, *e, *s}
	for _, id := range []uint32{ruid, euid, suid} {
		if !privileged && !slices.Contains(have, id) {
			return unix.EPERM
		}
	}
	for id, to := range map[*uint32]*uint32{&ruid: r, &euid: e, &suid: s} {
		if *id != unchanged {
			*to = *id
		}
	}
	*fs = *e
	return nil
}

// setFS is setfsuid(2) and setfsgid(2): they return the former, always.
func setFS(privileged bool, id, r, e, s uint32, fs *uint32) int64 {
	former := *fs
	if id != unchanged && (privileged || slices.Contains([]uint32{r, e, s, former}, id)) {
		*fs = id
	}
	return int64(former)
}

// maxGroups is NGROUPS_MAX.
const maxGroups = 65536

func (c call) setGroups() notify.Response {
	i := c.ids.of(c.PID)
	n := int32(c.Args[0])
	switch {
	case !i.privileged():
		return notify.Errno(unix.EPERM)
	case n < 0 || n > maxGroups:
		return notify.Errno(unix.EINVAL)
	}
	list := make([]uint32, n)
	if n > 0 {
		if err := c.ReadMemory(c.Args[1], sliceBytes(list)); err != nil {
			return notify.Errno(unix.EFAULT)
		}
	}
	i.groups, i.groupsKnown = packGroups(list), true
	if err := c.ids.become(c.PID, i); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) getGroups() notify.Response {
	i := c.ids.of(c.PID)
	if !i.groupsKnown && c.in == nil {
		return notify.Continue()
	}
	list := i.groupList()
	n := int32(c.Args[0])
	switch {
	case n < 0 || n > 0 && int(n) < len(list):
		return notify.Errno(unix.EINVAL)
	case n > 0 && c.WriteMemory(c.Args[1], sliceBytes(list)) != nil:
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(int64(len(list)))
}

// limit hides the token: the limit is that there is none.
func (c call) limit(old uint64) notify.Response {
	if old == 0 {
		return notify.Return(0)
	}
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	return c.result(old, bytesOf(&none))
}
