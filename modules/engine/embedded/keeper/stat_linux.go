package keeper

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// bytesOf is a structure as the kernel writes it.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// sliceBytes is a list of ids as the kernel reads and writes it; not empty.
func sliceBytes(list []uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(list))), 4*len(list))
}

func (c call) statAt(dir int32, name, buf uint64, flags int) notify.Response {
	f, err := c.named(dir, name, flags)
	if err != nil {
		return c.otherwise(err)
	}
	defer f.close()
	return c.stat(f, buf)
}

// stat leaves it to the kernel where no other owner is recorded.
func (c call) stat(f file, buf uint64) notify.Response {
	l, err := c.look(f)
	if err != nil {
		return c.otherwise(err)
	}
	if !l.recorded && c.in == nil {
		return notify.Continue()
	}
	l.Uid, l.Gid = l.uid, l.gid
	return c.result(buf, bytesOf(&l.Stat_t))
}

func (c call) statx() notify.Response {
	flags := int(c.Args[2])
	f, err := c.named(c.fd(0), c.Args[1], flags)
	if err != nil {
		return c.otherwise(err)
	}
	defer f.close()
	l, err := c.look(f)
	if err != nil {
		return c.otherwise(err)
	}
	if !l.recorded && c.in == nil {
		return notify.Continue()
	}
	var st unix.Statx_t
	mask := int(c.Args[3])
	flags &^= unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH
	if err := unix.Statx(unix.AT_FDCWD, f.path, flags, mask, &st); err != nil {
		return c.otherwise(err)
	}
	st.Uid, st.Gid, st.Mode = l.uid, l.gid, uint16(l.Mode)
	if l.marked {
		st.Atime = st.Mtime
	}
	return c.result(c.Args[4], bytesOf(&st))
}

// result writes what a call returns through a pointer.
func (c call) result(addr uint64, b []byte) notify.Response {
	if err := c.WriteMemory(addr, b); err != nil {
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(0)
}
