package keeper

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// making is where a call makes a file whose owner must be recorded.
type making struct {
	dir   int
	base  string
	owner owner
	mask  uint32 // the caller's umask
}

// making prepares to make a file for the caller. ok is false when the kernel
// may do it: the owner is root, or there is nothing to make. The response then
// is Continue or a refusal.
func (c call) making(dir int32, name uint64) (m making, done func(), r notify.Response, ok bool) {
	path, err := c.name(name)
	if err != nil {
		return m, nil, notify.Continue(), false
	}
	fd, base, err := c.parent(dir, path)
	if err != nil || base == "" {
		return m, nil, notify.Continue(), false
	}
	done = func() { unix.Close(fd) }
	who := c.ids.of(c.PID)
	up, err := look(file{path: "/proc/self/fd/" + strconv.Itoa(fd), fd: -1})
	if err != nil {
		return m, done, notify.Continue(), false
	}
	m = making{dir: fd, base: base, owner: owner{who.fsuid, who.fsgid}}
	if up.Mode&unix.S_ISGID != 0 {
		m.owner.gid = up.gid
	}
	if m.owner == (owner{}) {
		return m, done, notify.Continue(), false
	}
	var st unix.Stat_t
	if unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return m, done, notify.Continue(), false // it is there already
	}
	if !who.may(up, 3) { // search and write
		return m, done, notify.Errno(unix.EACCES), false
	}
	m.mask, err = c.umask()
	if err != nil {
		return m, done, notify.Continue(), false
	}
	return m, done, r, true
}

// umask reads the caller's file mode creation mask.
func (c call) umask() (uint32, error) {
	b, err := os.ReadFile(c.proc("status"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := strings.CutPrefix(string(line), "Umask:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32)
			return uint32(n), err
		}
	}
	return 0, fmt.Errorf("the kernel does not tell a process's umask")
}

// made records the owner of what has just been made.
func (m making) made() error {
	fd, err := unix.Openat(m.dir, m.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return m.madeAs(ours(fd))
}

func (m making) madeAs(f file) error {
	defer f.close()
	l, err := look(f)
	if err != nil {
		return err
	}
	return record(f, l, m.owner)
}

// finish answers for a call that made something without opening it.
func (m making) finish(err error) notify.Response {
	if err == nil {
		err = m.made()
	}
	if err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

func (c call) openAt(dir int32, name uint64, flags int, mode uint32) notify.Response {
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return c.temporary(dir, name, flags, mode)
	}
	m, done, r, ok := c.making(dir, name)
	if done != nil {
		defer done()
	}
	if !ok {
		return r
	}
	fd, err := unix.Openat(m.dir, m.base, flags|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, mode&^m.mask&0o7777)
	if err == unix.EEXIST && flags&unix.O_EXCL == 0 {
		return notify.Continue()
	}
	if err != nil {
		return failure(err)
	}
	if err := m.madeAs(file{path: ours(fd).path, fd: -1}); err != nil {
		unix.Close(fd)
		return failure(err)
	}
	return notify.GiveFD(fd, flags&unix.O_CLOEXEC != 0)
}

// temporary opens a file without a name; it gets one with its owner.
func (c call) temporary(dir int32, name uint64, flags int, mode uint32) notify.Response {
	who := c.ids.of(c.PID)
	if who.fsuid == 0 && who.fsgid == 0 {
		return notify.Continue()
	}
	at, err := c.named(dir, name, 0)
	if err != nil {
		return notify.Continue()
	}
	defer at.close()
	mask, err := c.umask()
	if err != nil {
		return notify.Continue()
	}
	fd, err := unix.Open(at.path, flags|unix.O_CLOEXEC, mode&^mask&0o7777)
	if err != nil {
		return failure(err)
	}
	m := making{owner: owner{who.fsuid, who.fsgid}}
	if err := m.madeAs(file{path: ours(fd).path, fd: -1}); err != nil {
		unix.Close(fd)
		return failure(err)
	}
	return notify.GiveFD(fd, flags&unix.O_CLOEXEC != 0)
}

func (c call) mkdirAt(dir int32, name uint64, mode uint32) notify.Response {
	m, done, r, ok := c.making(dir, name)
	if done != nil {
		defer done()
	}
	if !ok {
		return r
	}
	return m.finish(unix.Mkdirat(m.dir, m.base, mode&^m.mask&0o7777))
}

// mknodAt makes pipes, sockets and files; devices are the kernel's to refuse.
func (c call) mknodAt(dir int32, name uint64, mode uint32) notify.Response {
	if t := mode & unix.S_IFMT; t == unix.S_IFCHR || t == unix.S_IFBLK {
		return notify.Continue()
	}
	m, done, r, ok := c.making(dir, name)
	if done != nil {
		defer done()
	}
	if !ok {
		return r
	}
	return m.finish(unix.Mknodat(m.dir, m.base, mode&^m.mask, 0))
}

func (c call) symlinkAt(target uint64, dir int32, name uint64) notify.Response {
	m, done, r, ok := c.making(dir, name)
	if done != nil {
		defer done()
	}
	if !ok {
		return r
	}
	to, err := c.name(target)
	if err != nil {
		return notify.Continue()
	}
	return m.finish(unix.Symlinkat(to, m.dir, m.base))
}
