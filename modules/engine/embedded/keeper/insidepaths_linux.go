package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

func (c call) readLink(dir int32, addr, buf uint64, size int32) notify.Response {
	if size <= 0 {
		return notify.Errno(unix.EINVAL)
	}
	f, err := c.named(dir, addr, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
	if err != nil {
		return failure(err)
	}
	defer f.close()
	fd := f.fd
	if fd < 0 {
		if fd, err = unix.Open(f.path, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return failure(f.why(err))
		}
		defer unix.Close(fd)
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err == unix.ENOENT {
		err = unix.EINVAL // as no link is named
	}
	if err != nil {
		return failure(err)
	}
	b = b[:min(n, int(size))]
	if err := c.WriteMemory(buf, b); err != nil {
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(int64(len(b)))
}

// place is a name in an open directory that a call changes.
type place struct {
	dir  int
	base string
}

func (p place) close() {
	if p.dir >= 0 {
		unix.Close(p.dir)
	}
}

// placeOf finds what a call changes the name of, for someone who may. A name that
// is to be taken away is not there before that is forbidden, and one that is
// made is.
func (c call) placeOf(dir int32, addr uint64, does fate) (p place, err error) {
	p.dir = -1
	name, err := c.name(addr)
	if err != nil {
		return p, err
	}
	if name == "" {
		return p, unix.ENOENT
	}
	if p.dir, p.base, err = c.parent(dir, name); err != nil || p.base == "" {
		return p, err
	}
	if err = c.permitsAt(p, does); err != nil {
		p.close()
		p.dir = -1
	}
	return p, err
}

// permitsAt says why the caller may not do that to a name.
func (c call) permitsAt(p place, does fate) error {
	l, err := c.look(file{path: ours(p.dir).path, fd: -1})
	if err == nil && !c.ids.of(c.PID).may(l, 3) {
		err = unix.EACCES
	}
	if err == nil {
		err = c.mayChangeAt(p.dir, p.base)
	}
	var st unix.Stat_t
	switch there := unix.Fstatat(p.dir, p.base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.EACCES && does == taken && there == unix.ENOENT:
		return unix.ENOENT
	case err != nil && does == made && there == nil:
		return unix.EEXIST
	case err == nil && does != made && there == nil:
		return c.permitsRemoval(p)
	}
	return err
}

// fate is what becomes of a name.
type fate int

const (
	made     fate = iota
	taken         // what is there
	replaced      // what may be there
)

func (c call) makeLink(text uint64, dir int32, addr uint64) notify.Response {
	to, err := c.name(text)
	if err != nil {
		return failure(err)
	}
	p, err := c.placeOf(dir, addr, made)
	if err != nil {
		return failure(err)
	}
	defer p.close()
	if p.base == "" {
		return notify.Errno(unix.EEXIST)
	}
	n, err := c.newFile(p.dir, p.base, unix.S_IFLNK|0o777)
	if err != nil {
		return failure(err)
	}
	err = unix.Symlinkat(to, p.dir, p.base)
	if err == nil {
		err = n.recordAt(p.dir, p.base)
	}
	if err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) remove(dir int32, addr uint64, flags int) notify.Response {
	p, err := c.placeOf(dir, addr, taken)
	if err != nil {
		return failure(err)
	}
	defer p.close()
	switch {
	case p.base != "":
	case flags&unix.AT_REMOVEDIR != 0:
		return notify.Errno(unix.EINVAL)
	default:
		return notify.Errno(unix.EISDIR)
	}
	if err := unix.Unlinkat(p.dir, p.base, flags); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) rename(fromDir int32, from uint64, toDir int32, to uint64, flags uint) notify.Response {
	if flags&unix.RENAME_WHITEOUT != 0 {
		return notify.Errno(unix.EPERM)
	}
	a, err := c.placeOf(fromDir, from, taken)
	if err != nil {
		return failure(err)
	}
	defer a.close()
	b, err := c.placeOf(toDir, to, replaced)
	if err != nil {
		return failure(err)
	}
	defer b.close()
	if a.base == "" || b.base == "" {
		return notify.Errno(unix.EBUSY)
	}
	if err := c.permitsMove(a, b); err != nil {
		return failure(err)
	}
	if c.in.standsForDevice(a) || c.in.standsForDevice(b) {
		return notify.Errno(unix.EXDEV) // it is in no file system of the step's
	}
	if err := unix.Renameat2(a.dir, a.base, b.dir, b.base, flags); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) link(fromDir int32, from uint64, toDir int32, to uint64, flags int) notify.Response {
	if flags&^(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return notify.Errno(unix.EINVAL)
	}
	if flags&unix.AT_EMPTY_PATH == 0 && flags&unix.AT_SYMLINK_FOLLOW == 0 {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	f, err := c.named(fromDir, from, flags&^unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return failure(err)
	}
	defer f.close()
	b, err := c.placeOf(toDir, to, made)
	if err != nil {
		return failure(err)
	}
	defer b.close()
	if b.base == "" {
		return notify.Errno(unix.EEXIST)
	}
	if c.mayChange(f) != nil {
		return notify.Errno(unix.EXDEV) // it is mounted, read-only
	}
	if err := unix.Linkat(cwd, f.path, b.dir, b.base, unix.AT_SYMLINK_FOLLOW); err != nil {
		return failure(f.why(err))
	}
	return notify.Return(0)
}

func (c call) statFS() notify.Response {
	var st unix.Statfs_t
	p := c.onFile(c.Args[0], false, func(f file) error { return unix.Statfs(f.path, &st) })
	if p != notify.Return(0) {
		return p
	}
	return c.result(c.Args[1], bytesOf(&st))
}

func (c call) workingDirectory() notify.Response {
	at, err := readlink(c.proc("cwd"))
	if err != nil {
		return failure(err)
	}
	inner, ok := c.in.Inner(at)
	if !ok {
		return notify.Errno(unix.ENOENT)
	}
	b := append([]byte(inner), 0)
	if uint64(len(b)) > c.Args[1] {
		return notify.Errno(unix.ERANGE)
	}
	if err := c.WriteMemory(c.Args[0], b); err != nil {
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(int64(len(b)))
}

// fileCapability cannot be set without capabilities: it is kept under a name
// of ours.
const (
	fileCapability = "security.capability"
	keptCapability = "user.drydock.capability"
)

// attributeName is a name a call has second, as it is on disk.
func (c call) attributeName() (string, error) {
	name, err := c.ReadString(c.Args[1], 256)
	switch {
	case err != nil:
		return "", err
	case name == "":
		return "", unix.ERANGE
	case name == fileCapability:
		return keptCapability, nil
	}
	return name, nil
}

const maxAttribute = 64 << 10 // XATTR_SIZE_MAX, XATTR_LIST_MAX

// xattrHandlers are xattr(7).
func xattrHandlers() map[int]handler {
	out := map[int]handler{}
	add := func(path, link, fd int, name string, do func(call, file) notify.Response) {
		at := func(flags int) func(c call) notify.Response {
			return func(c call) notify.Response {
				f, err := c.named(cwd, c.Args[0], flags)
				if err != nil {
					return c.otherwise(err)
				}
				defer f.close()
				return do(c, f)
			}
		}
		out[path] = handler{name, nil, at(0)}
		out[link] = handler{"l" + name, nil, at(unix.AT_SYMLINK_NOFOLLOW)}
		out[fd] = handler{"f" + name, nil, func(c call) notify.Response { return do(c, c.descriptor(c.fd(0))) }}
	}
	add(unix.SYS_GETXATTR, unix.SYS_LGETXATTR, unix.SYS_FGETXATTR, "getxattr", call.getAttribute)
	add(unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, "setxattr", call.setAttribute)
	add(unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR, "removexattr", call.removeAttribute)
	add(unix.SYS_LISTXATTR, unix.SYS_LLISTXATTR, unix.SYS_FLISTXATTR, "listxattr", call.allAttributes)
	return out
}

func (c call) getAttribute(f file) notify.Response {
	name, err := c.attributeName()
	if err != nil {
		return failure(err)
	}
	if name == attribute {
		return notify.Errno(unix.ENODATA)
	}
	if err := c.permitsAttribute(f, name, 4); err != nil {
		return failure(err)
	}
	b := make([]byte, maxAttribute)
	n, err := unix.Getxattr(f.path, name, b)
	if err != nil {
		return failure(f.why(err))
	}
	return c.fill(b[:n])
}

// fill writes a value into the buffer that is the third argument.
func (c call) fill(b []byte) notify.Response {
	switch size := c.Args[3]; {
	case size == 0 || len(b) == 0:
	case size < uint64(len(b)):
		return notify.Errno(unix.ERANGE)
	case c.WriteMemory(c.Args[2], b) != nil:
		return notify.Errno(unix.EFAULT)
	}
	return notify.Return(int64(len(b)))
}

func (c call) setAttribute(f file) notify.Response {
	name, err := c.attributeName()
	if err != nil {
		return failure(err)
	}
	if name == attribute {
		return notify.Errno(unix.EOPNOTSUPP)
	}
	if c.Args[3] > maxAttribute {
		return notify.Errno(unix.E2BIG)
	}
	if err := c.permitsAttribute(f, name, 2); err != nil {
		return failure(err)
	}
	if err := c.mayChange(f); err != nil {
		return failure(err)
	}
	b := make([]byte, c.Args[3])
	if err := c.ReadMemory(c.Args[2], b); err != nil {
		return notify.Errno(unix.EFAULT)
	}
	if err := unix.Setxattr(f.path, name, b, int(c.Args[4])); err != nil {
		return failure(f.why(err))
	}
	return notify.Return(0)
}

func (c call) removeAttribute(f file) notify.Response {
	name, err := c.attributeName()
	if err != nil {
		return failure(err)
	}
	if name == attribute {
		return notify.Errno(unix.ENODATA)
	}
	if err := c.permitsAttribute(f, name, 2); err != nil {
		return failure(err)
	}
	if err := c.mayChange(f); err != nil {
		return failure(err)
	}
	if err := unix.Removexattr(f.path, name); err != nil {
		return failure(f.why(err))
	}
	return notify.Return(0)
}

func (c call) allAttributes(f file) notify.Response {
	b := make([]byte, maxAttribute)
	n, err := unix.Listxattr(f.path, b)
	if err != nil {
		return failure(f.why(err))
	}
	list := append([]byte(nil), shown(b[:n])...)
	moved := *c.Request
	moved.Args[3], moved.Args[2] = c.Args[2], c.Args[1]
	c.Request = &moved
	return c.fill(list)
}

// shown is a list of attributes without ours.
func shown(list []byte) []byte {
	var out []byte
	for len(list) > 0 {
		i := 0
		for i < len(list) && list[i] != 0 {
			i++
		}
		name := string(list[:i])
		list = list[min(i+1, len(list)):]
		switch name {
		case attribute:
			continue
		case keptCapability:
			name = fileCapability
		}
		out = append(append(out, name...), 0)
	}
	return out
}
