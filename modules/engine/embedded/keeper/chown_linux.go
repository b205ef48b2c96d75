package keeper

import (
	"errors"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// unchanged is -1 as an id: leave it.
const unchanged = ^uint32(0)

func failure(err error) notify.Response {
	var e unix.Errno
	if errors.As(err, &e) {
		return notify.Errno(e)
	}
	return notify.Errno(unix.EIO)
}

func (c call) chownAt(dir int32, name uint64, uid, gid uint32, flags int) notify.Response {
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return notify.Errno(unix.EINVAL)
	}
	f, err := c.named(dir, name, flags)
	if err != nil {
		return failure(err)
	}
	defer f.close()
	return c.chown(f, uid, gid)
}

// chown changes the owner to the one there is, so that the kernel does what
// else belongs to it (change time, setuid bits, refusals), and records the
// owner that was meant.
func (c call) chown(f file, uid, gid uint32) notify.Response {
	l, err := c.look(f)
	if err != nil {
		return failure(err)
	}
	if who := c.ids.of(c.PID); !who.mayChown(l.owner, uid, gid) {
		return notify.Errno(unix.EPERM)
	}
	if err := c.mayChange(f); err != nil {
		return failure(err)
	}
	to, real, we := l.owner, [2]int{-1, -1}, c.in.real()
	if uid != unchanged {
		to.uid, real[0] = uid, we[0]
	}
	if gid != unchanged {
		to.gid, real[1] = gid, we[1]
	}
	if !attributed(l.Mode) && l.Mode&unix.S_IFMT != unix.S_IFLNK && !onDisk(f) {
		return notify.Return(0) // a pipe, a socket: nobody asks for its owner
	}
	if c.ofMachine(f, l.Mode) {
		return notify.Return(0)
	}
	if err := unix.Chown(f.path, real[0], real[1]); err != nil {
		return failure(err)
	}
	if l.meant { // the kernel has cleared these bits of what it knows
		l.Mode = c.afterChown(l.Mode)
	}
	if to != l.owner || !l.recorded {
		if err := record(f, l, to); err != nil {
			return failure(err)
		}
	}
	return notify.Return(0)
}

// afterChown is the mode of a file that was given away.
func (c call) afterChown(mode uint32) uint32 {
	if mode&unix.S_IFMT == unix.S_IFDIR {
		return mode
	}
	mode &^= unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	return mode
}

// onDisk: the file is in a directory, unlike a pipe or a socket pair.
func onDisk(f file) bool {
	var st unix.Statfs_t
	if unix.Statfs(f.path, &st) != nil {
		return false
	}
	switch st.Type {
	case unix.PIPEFS_MAGIC, unix.SOCKFS_MAGIC, unix.ANON_INODE_FS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.PROC_SUPER_MAGIC:
		return false
	}
	return true
}
