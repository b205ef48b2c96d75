package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// execAt gives the process the ids that executing the file gives: those of a
// setuid or setgid program, and the saved ones (execve(2)). Should the kernel
// then not execute it, the process has them all the same.
func (c call) execAt(dir int32, name uint64, flags int) notify.Response {
	f, err := c.named(dir, name, flags)
	if err != nil {
		return notify.Continue()
	}
	defer f.close()
	l, err := look(f)
	if err != nil {
		return notify.Continue()
	}
	who := c.ids.of(c.PID)
	after := who.executing(l)
	if after == who {
		return notify.Continue()
	}
	if l.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && !gives(f) {
		l.Mode &^= unix.S_ISUID | unix.S_ISGID
		after = who.executing(l)
	}
	if err := c.ids.become(c.PID, after); err != nil {
		return failure(err)
	}
	return notify.Continue()
}

// executing is who a process is after it executed the file.
func (i identity) executing(l looked) identity {
	const setgid = unix.S_ISGID | unix.S_IXGRP // else it marks a mandatory lock
	if l.Mode&unix.S_IFMT == unix.S_IFREG && l.Mode&0o111 != 0 {
		if l.Mode&unix.S_ISUID != 0 {
			i.euid = l.uid
		}
		if l.Mode&setgid == setgid {
			i.egid = l.gid
		}
	}
	i.suid, i.fsuid, i.sgid, i.fsgid = i.euid, i.euid, i.egid, i.egid
	return i
}

// gives: neither scripts nor programs on nosuid mounts give ids.
func gives(f file) bool {
	var st unix.Statfs_t
	if unix.Statfs(f.path, &st) != nil || st.Flags&unix.MS_NOSUID != 0 {
		return false
	}
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return true // it can be executed and not read
	}
	defer unix.Close(fd)
	var magic [2]byte
	n, err := unix.Pread(fd, magic[:], 0)
	return err == nil && n == 2 && magic != [2]byte{'#', '!'}
}
