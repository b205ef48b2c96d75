package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

const cwd = unix.AT_FDCWD

// handlers are the calls by number: those of a user namespace, with the modes,
// and with a root all others that name a path.
func (in *Inside) handlers() map[int]handler {
	all := handlers()
	for _, n := range []int{
		unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		unix.SYS_RT_SIGACTION,
	} {
		if in.root != nil {
			delete(all, n)
		}
	}
	lists := []map[int]handler{modeHandlers(), oldModeHandlers(), xattrHandlers()}
	if in.root != nil {
		lists = append(lists, pathHandlers(), oldPathHandlers())
		delete(all, unix.SYS_GETSOCKOPT)
	} else {
		lists = append(lists, map[int]handler{unix.SYS_OPENAT: {"openat", creating(2), func(c call) notify.Response {
			return c.openAny(c.fd(0), c.Args[1], int(c.Args[2]), uint32(c.Args[3]))
		}}})
	}
	for _, list := range lists {
		for n, h := range list {
			all[n] = h
		}
	}
	return all
}

// modeHandlers are the calls that give files modes.
func modeHandlers() map[int]handler {
	return map[int]handler{
		unix.SYS_FCHMOD: {"fchmod", nil, func(c call) notify.Response {
			return c.chmod(c.descriptor(c.fd(0)), uint32(c.Args[1]))
		}},
		unix.SYS_FCHMODAT: {"fchmodat", nil, func(c call) notify.Response {
			return c.chmodAt(c.fd(0), c.Args[1], uint32(c.Args[2]), 0)
		}},
		sysFchmodat2: {"fchmodat2", nil, func(c call) notify.Response {
			return c.chmodAt(c.fd(0), c.Args[1], uint32(c.Args[2]), int(c.Args[3]))
		}},
		unix.SYS_MKDIRAT: {"mkdirat", nil, func(c call) notify.Response {
			return c.makeAny(c.fd(0), c.Args[1], unix.S_IFDIR|uint32(c.Args[2])&0o7777)
		}},
		unix.SYS_MKNODAT: {"mknodat", nil, func(c call) notify.Response {
			return c.makeAny(c.fd(0), c.Args[1], kindOf(uint32(c.Args[2])))
		}},
		unix.SYS_FACCESSAT: {"faccessat", nil, func(c call) notify.Response {
			return c.access(c.fd(0), c.Args[1], uint32(c.Args[2]), 0)
		}},
		unix.SYS_FACCESSAT2: {"faccessat2", nil, func(c call) notify.Response {
			return c.access(c.fd(0), c.Args[1], uint32(c.Args[2]), int(c.Args[3]))
		}},
		unix.SYS_CAPGET: {"capget", nil, call.capabilities},
		unix.SYS_CAPSET: {"capset", nil, func(call) notify.Response { return notify.Return(0) }},
	}
}

const sysFchmodat2 = 452

// kindOf is a mode for mknod(2), which takes none for a file.
func kindOf(mode uint32) uint32 {
	if mode&unix.S_IFMT == 0 {
		mode |= unix.S_IFREG
	}
	return mode
}

// pathHandlers are the further calls that name a path.
func pathHandlers() map[int]handler {
	return map[int]handler{
		unix.SYS_OPENAT: {"openat", nil, func(c call) notify.Response {
			return c.openAny(c.fd(0), c.Args[1], int(c.Args[2]), uint32(c.Args[3]))
		}},
		unix.SYS_READLINKAT: {"readlinkat", nil, func(c call) notify.Response {
			return c.readLink(c.fd(0), c.Args[1], c.Args[2], int32(c.Args[3]))
		}},
		unix.SYS_SYMLINKAT: {"symlinkat", nil, func(c call) notify.Response {
			return c.makeLink(c.Args[0], c.fd(1), c.Args[2])
		}},
		unix.SYS_UNLINKAT: {"unlinkat", nil, func(c call) notify.Response {
			return c.remove(c.fd(0), c.Args[1], int(c.Args[2]))
		}},
		unix.SYS_RENAMEAT2: {"renameat2", nil, func(c call) notify.Response {
			return c.rename(c.fd(0), c.Args[1], c.fd(2), c.Args[3], uint(c.Args[4]))
		}},
		unix.SYS_RENAMEAT: {"renameat", nil, func(c call) notify.Response {
			return c.rename(c.fd(0), c.Args[1], c.fd(2), c.Args[3], 0)
		}},
		unix.SYS_LINKAT: {"linkat", nil, func(c call) notify.Response {
			return c.link(c.fd(0), c.Args[1], c.fd(2), c.Args[3], int(c.Args[4]))
		}},
		unix.SYS_TRUNCATE: {"truncate", nil, func(c call) notify.Response {
			return c.onFile(c.Args[0], true, func(f file) error { return unix.Truncate(f.path, int64(c.Args[1])) })
		}},
		unix.SYS_STATFS: {"statfs", nil, call.statFS},
		unix.SYS_GETCWD: {"getcwd", nil, call.workingDirectory},
		unix.SYS_NAME_TO_HANDLE_AT: {"name_to_handle_at", nil, func(call) notify.Response {
			return notify.Errno(unix.EOPNOTSUPP)
		}},
	}
}

// onFile does something with the file that a path names.
func (c call) onFile(name uint64, changes bool, do func(file) error) notify.Response {
	f, err := c.named(cwd, name, 0)
	if err != nil {
		return failure(err)
	}
	defer f.close()
	if changes {
		err := c.permits(f, 2)
		if err == nil {
			err = c.mayChange(f)
		}
		if err != nil {
			return failure(err)
		}
	}
	if err := do(f); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) chmodAt(dir int32, name uint64, mode uint32, flags int) notify.Response {
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return notify.Errno(unix.EINVAL)
	}
	f, err := c.named(dir, name, flags)
	if err != nil {
		return c.otherwise(err)
	}
	defer f.close()
	return c.chmod(f, mode)
}

// chmod gives a file the mode that was meant, or one with which the user still
// reaches it and a record of that.
func (c call) chmod(f file, mode uint32) notify.Response {
	l, err := c.look(f)
	if err != nil {
		return failure(err)
	}
	who := c.ids.of(c.PID)
	switch {
	case l.Mode&unix.S_IFMT == unix.S_IFLNK:
		return notify.Errno(unix.EOPNOTSUPP)
	case who.fsuid != 0 && who.fsuid != l.uid:
		return notify.Errno(unix.EPERM)
	case who.fsuid != 0 && !who.in(l.gid):
		mode &^= unix.S_ISGID
	}
	if err := c.mayChange(f); err != nil {
		return failure(err)
	}
	if c.ofMachine(f, l.Mode) {
		return notify.Return(0)
	}
	if err := c.setMode(f, l, mode&0o7777); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) setMode(f file, l looked, mode uint32) error {
	disk := mode | reachable(l.Mode)
	if err := unix.Chmod(f.path, disk); err != nil {
		return err
	}
	before := l.meant
	l.Mode, l.meant = l.Mode&unix.S_IFMT|mode, disk != mode && attributed(l.Mode)
	if !before && !l.meant {
		return nil
	}
	return record(f, l, l.owner)
}

// access is access(2): root may read and write all, and execute what anybody
// may.
func (c call) access(dir int32, name uint64, want uint32, flags int) notify.Response {
	if want&^7 != 0 || flags&^(unix.AT_EACCESS|unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return notify.Errno(unix.EINVAL)
	}
	f, err := c.named(dir, name, flags&^unix.AT_EACCESS)
	if err != nil {
		return c.otherwise(err)
	}
	defer f.close()
	l, err := c.look(f)
	if err != nil {
		return failure(err)
	}
	if want&2 != 0 {
		if err := c.mayChange(f); err != nil {
			return failure(err)
		}
	}
	who := c.ids.of(c.PID)
	if flags&unix.AT_EACCESS == 0 {
		who.fsuid, who.fsgid = who.ruid, who.rgid
	}
	switch {
	case who.fsuid == 0 && want&1 != 0 && l.Mode&unix.S_IFMT != unix.S_IFDIR && l.Mode&0o111 == 0:
		return notify.Errno(unix.EACCES)
	case !who.may(l, want):
		return notify.Errno(unix.EACCES)
	}
	return notify.Return(0)
}

// capabilities are root's of a container, for who is root.
func (c call) capabilities() notify.Response {
	var version uint32
	if c.ReadMemory(c.Args[0], bytesOf(&version)) != nil || version != unix.LINUX_CAPABILITY_VERSION_3 || c.Args[1] == 0 {
		return notify.Continue()
	}
	var data [2]unix.CapUserData
	if c.ids.of(c.PID).euid == 0 {
		const bits = containerCapabilities
		data[0] = unix.CapUserData{Effective: bits, Permitted: bits}
	}
	return c.result(c.Args[1], bytesOf(&data))
}

// containerCapabilities are those whose effects are kept up: on files and ids.
const containerCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
	1<<unix.CAP_KILL | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SETFCAP

// openAny is openat(2).
func (c call) openAny(dir int32, addr uint64, flags int, mode uint32) notify.Response {
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return c.openTemporary(dir, addr, flags, mode)
	}
	name, err := c.name(addr)
	if err != nil {
		return failure(err)
	}
	if name == "" {
		return notify.Errno(unix.ENOENT)
	}
	follow := 0
	if flags&unix.O_NOFOLLOW != 0 || flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL {
		follow = unix.AT_SYMLINK_NOFOLLOW
	}
	f, err := c.find(dir, name, follow)
	if err == unix.ENOENT && flags&unix.O_CREAT != 0 {
		return c.create(dir, name, flags, mode)
	}
	if err != nil {
		return c.otherwise(err)
	}
	defer f.close()
	if flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL {
		return notify.Errno(unix.EEXIST)
	}
	if !c.in.translates() {
		return notify.Continue() // it is there: nothing is to be recorded
	}
	return c.reopen(f, flags)
}

// reopen opens a file that was found.
func (c call) reopen(f file, flags int) notify.Response {
	const writes = unix.O_WRONLY | unix.O_RDWR | unix.O_TRUNC
	var st unix.Stat_t
	if err := unix.Stat(f.path, &st); err != nil {
		return failure(f.why(err))
	}
	kind := st.Mode & unix.S_IFMT
	if flags&unix.O_PATH != 0 {
		return c.openPath(f, kind, flags)
	}
	if kind == unix.S_IFLNK {
		return notify.Errno(unix.ELOOP)
	}
	if kind == unix.S_IFDIR && flags&(writes|unix.O_CREAT) != 0 {
		return notify.Errno(unix.EISDIR)
	}
	if err := c.permits(f, openBits(flags)); err != nil {
		return failure(err)
	}
	if flags&writes != 0 {
		if err := c.mayChange(f); err != nil {
			return failure(err)
		}
	}
	if who := c.ids.of(c.PID); flags&unix.O_NOATIME != 0 && who.fsuid != 0 {
		flags &^= unix.O_NOATIME
	}
	const never = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err := unix.Open(f.path, flags&^never|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return failure(err)
	}
	return notify.GiveFD(fd, flags&unix.O_CLOEXEC != 0)
}

// openPath is openat(2) with O_PATH. The kernel hands nobody a descriptor that is
// a path only, so files and directories are opened to be read, by who may. Links,
// special files and what may not be read have one that stands for them;
// directories that may be searched alone are shown whole.
func (c call) openPath(f file, kind uint32, flags int) notify.Response {
	if flags&unix.O_DIRECTORY != 0 && kind != unix.S_IFDIR {
		return notify.Errno(unix.ENOTDIR)
	}
	refused := c.permits(f, 4)
	if refused != nil && (kind == unix.S_IFREG || kind == unix.S_IFDIR && c.permits(f, 1) != nil) {
		kind = 0
	}
	var fd int
	var err error
	switch kind {
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFCHR:
		fd, err = unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	default:
		fd, err = c.in.standFor(f)
	}
	if err != nil {
		return failure(f.why(err))
	}
	return notify.GiveFD(fd, flags&unix.O_CLOEXEC != 0)
}

// create makes a file that was not there, or finds it after all.
func (c call) create(dir int32, name string, flags int, mode uint32) notify.Response {
	up, base, err := c.parent(dir, name)
	if err != nil {
		return c.otherwise(err)
	}
	if base == "" {
		return notify.Errno(unix.EISDIR)
	}
	defer unix.Close(up)
	if name[len(name)-1] == '/' {
		return notify.Errno(unix.EISDIR)
	}
	n, err := c.newFile(up, base, unix.S_IFREG|mode&0o7777)
	if err != nil {
		return failure(err)
	}
	const never = unix.O_TRUNC
	how := flags&^never | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err := unix.Openat(up, base, how, n.disk())
	if _, asks := c.asks(); asks && err == unix.EEXIST && flags&unix.O_EXCL == 0 {
		r, err := c.createLinked(up, base, dir, name, flags, mode)
		if err != nil {
			return failure(err)
		}
		return r
	}
	if err == unix.EEXIST && flags&unix.O_EXCL == 0 { // a link to what is not there, or somebody was first
		how = how&^(unix.O_EXCL|unix.O_NOFOLLOW) | flags&(unix.O_TRUNC|unix.O_NOFOLLOW)
		fd, err = c.createThrough(up, base, how, n)
	}
	if err != nil {
		return failure(err)
	}
	if err := n.recordOn(file{path: ours(fd).path, fd: -1}); err != nil {
		unix.Close(fd)
		return failure(err)
	}
	return notify.GiveFD(fd, flags&unix.O_CLOEXEC != 0)
}

// createThrough makes the file that a link means.
func (c call) createThrough(up int, base string, how int, n newFile) (int, error) {
	root, name := up, base
	resolve := uint64(unix.RESOLVE_BENEATH)
	if c.in.translates() {
		at, err := readlink(ours(up).path)
		if err != nil {
			return -1, err
		}
		inner, ok := c.in.Inner(at)
		if !ok {
			return -1, unix.ENOENT
		}
		root, name, resolve = int(c.in.root.Fd()), inner+"/"+base, unix.RESOLVE_IN_ROOT
	}
	o := unix.OpenHow{Flags: uint64(how), Mode: uint64(n.disk()), Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	for range attempts {
		fd, err := unix.Openat2(root, name, &o)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// newFile is who owns a file that is made, and its mode.
type newFile struct {
	owner owner
	mode  uint32 // with its kind
}

func (n newFile) disk() uint32 { return n.mode&0o7777 | reachable(n.mode) }

// newFile prepares to make a file in an open directory.
func (c call) newFile(up int, base string, mode uint32) (n newFile, err error) {
	l, err := c.look(file{path: ours(up).path, fd: -1})
	if err != nil {
		return n, err
	}
	who := c.ids.of(c.PID)
	if !who.may(l, 3) {
		return n, unix.EACCES
	}
	if err := c.mayChangeAt(up, base); err != nil {
		return n, err
	}
	n.owner = owner{who.fsuid, who.fsgid}
	mask, err := c.umask()
	if err != nil {
		return n, err
	}
	n.mode = mode &^ mask
	if l.Mode&unix.S_ISGID != 0 {
		n.owner.gid = l.gid
		if mode&unix.S_IFMT == unix.S_IFDIR {
			n.mode |= unix.S_ISGID
		}
	}
	return n, nil
}

// recordOn writes what the kernel does not know of a file that was made.
func (n newFile) recordOn(f file) error {
	meant := n.disk() != n.mode&0o7777 && attributed(n.mode)
	if n.owner == (owner{}) && !meant {
		return nil
	}
	l, err := look(f)
	if err != nil {
		return err
	}
	l.meant = meant
	l.Mode = l.Mode&unix.S_IFMT | n.mode&0o7777
	return record(f, l, n.owner)
}

// makeAny makes directories, pipes, sockets and files; devices are refused.
func (c call) makeAny(dir int32, addr uint64, mode uint32) notify.Response {
	name, err := c.name(addr)
	if err != nil {
		return failure(err)
	}
	up, base, err := c.parent(dir, name)
	switch {
	case err != nil:
		return c.otherwise(err)
	case base == "" && name == "":
		return notify.Errno(unix.ENOENT)
	case base == "":
		return notify.Errno(unix.EEXIST)
	}
	defer unix.Close(up)
	var st unix.Stat_t
	if unix.Fstatat(up, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return notify.Errno(unix.EEXIST)
	}
	n, err := c.newFile(up, base, mode)
	if err != nil {
		return failure(err)
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		return notify.Errno(unix.EPERM)
	case unix.S_IFDIR:
		err = unix.Mkdirat(up, base, n.disk())
	default:
		err = unix.Mknodat(up, base, mode&unix.S_IFMT|n.disk(), 0)
	}
	if err == nil {
		err = n.recordAt(up, base)
	}
	if err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (n newFile) recordAt(up int, base string) error {
	fd, err := unix.Openat(up, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := ours(fd)
	defer f.close()
	return n.recordOn(f)
}

// openTemporary opens a file without a name.
func (c call) openTemporary(dir int32, addr uint64, flags int, mode uint32) notify.Response {
	at, err := c.named(dir, addr, 0)
	if err != nil {
		return c.otherwise(err)
	}
	defer at.close()
	if err := c.permits(at, 3); err != nil {
		return failure(err)
	}
	if err := c.mayChange(at); err != nil {
		return failure(err)
	}
	who := c.ids.of(c.PID)
	mask, err := c.umask()
	if err != nil {
		return failure(err)
	}
	n := newFile{owner: owner{who.fsuid, who.fsgid}, mode: unix.S_IFREG | mode&^mask&0o7777}
	fd, err := unix.Open(at.path, flags|unix.O_CLOEXEC, n.disk())
	if err != nil {
		return failure(err)
	}
	if err := n.recordOn(file{path: ours(fd).path, fd: -1}); err != nil {
		unix.Close(fd)
		return failure(err)
	}
	return notify.GiveFD(fd, flags&unix.O_CLOEXEC != 0)
}
