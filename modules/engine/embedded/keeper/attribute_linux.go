package keeper

import (
	"bytes"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// attributeHandlers hide the record from everybody.
func attributeHandlers() map[int]handler {
	out := map[int]handler{
		unix.SYS_LISTXATTR: {"listxattr", nil, func(c call) notify.Response {
			return c.listAttributes(c.named(unix.AT_FDCWD, c.Args[0], 0))
		}},
		unix.SYS_LLISTXATTR: {"llistxattr", nil, func(c call) notify.Response {
			return c.listAttributes(c.named(unix.AT_FDCWD, c.Args[0], unix.AT_SYMLINK_NOFOLLOW))
		}},
		unix.SYS_FLISTXATTR: {"flistxattr", nil, func(c call) notify.Response {
			return c.listAttributes(c.descriptor(c.fd(0)), nil)
		}},
	}
	for n, name := range map[int]string{
		unix.SYS_GETXATTR: "getxattr", unix.SYS_LGETXATTR: "lgetxattr", unix.SYS_FGETXATTR: "fgetxattr",
		unix.SYS_REMOVEXATTR: "removexattr", unix.SYS_LREMOVEXATTR: "lremovexattr", unix.SYS_FREMOVEXATTR: "fremovexattr",
	} {
		out[n] = handler{name, nil, func(c call) notify.Response { return c.hide(unix.ENODATA) }}
	}
	for n, name := range map[int]string{
		unix.SYS_SETXATTR: "setxattr", unix.SYS_LSETXATTR: "lsetxattr", unix.SYS_FSETXATTR: "fsetxattr",
	} {
		out[n] = handler{name, nil, func(c call) notify.Response { return c.hide(unix.EOPNOTSUPP) }}
	}
	return out
}

// hide fails for our attribute. All these calls have the name second.
func (c call) hide(e unix.Errno) notify.Response {
	name, err := c.ReadString(c.Args[1], 256)
	if err == nil && name == attribute {
		return notify.Errno(e)
	}
	return notify.Continue()
}

func (c call) listAttributes(f file, err error) notify.Response {
	if err != nil {
		return notify.Continue()
	}
	defer f.close()
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Listxattr(f.path, buf)
	if err != nil {
		return notify.Continue()
	}
	list := bytes.Replace(append([]byte{0}, buf[:n]...), []byte("\x00"+attribute+"\x00"), []byte{0}, 1)[1:]
	if len(list) == n {
		return notify.Continue()
	}
	addr, size := c.Args[1], c.Args[2]
	switch {
	case size == 0:
	case size < uint64(len(list)):
		return notify.Errno(unix.ERANGE)
	default:
		if err := c.WriteMemory(addr, list); err != nil {
			return notify.Errno(unix.EFAULT)
		}
	}
	return notify.Return(int64(len(list)))
}
