package keeper

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// To the kernel all of a translated step is one user, who reaches every file.
// What owner and mode that are recorded refuse somebody else than root is
// therefore refused here: on the way to a file, and at the file.

// maxLinks is how many links in a row lead anywhere (path_resolution(7)).
const maxLinks = 40

// asks says whose rights decide; false for who may do all, and where the kernel
// decides.
func (c call) asks() (identity, bool) {
	if !c.in.translates() {
		return identity{}, false
	}
	who := c.ids.of(c.PID)
	return who, who.fsuid != 0
}

// permits says why the caller may not read (4), write (2) or execute (1) a file.
// What is in no directory it was given by someone, and of /proc is seen what
// special lets see.
func (c call) permits(f file, want uint32) error {
	who, asks := c.asks()
	if !asks || !onDisk(f) {
		return nil
	}
	l, err := c.look(f)
	if err == nil && !who.may(l, want) {
		err = unix.EACCES
	}
	return err
}

// permitsAttribute says why the caller may not read or write an attribute: those
// of users go with the file, others are root's to write.
func (c call) permitsAttribute(f file, name string, want uint32) error {
	if name != keptCapability {
		return c.permits(f, want)
	}
	if want == 2 && c.ids.of(c.PID).fsuid != 0 {
		return unix.EPERM
	}
	return nil
}

// openBits are what opening a file asks for.
func openBits(flags int) uint32 {
	bits := uint32(6)
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		bits = 4
	case unix.O_WRONLY:
		bits = 2
	}
	if flags&unix.O_TRUNC != 0 {
		bits |= 2
	}
	return bits
}

// permitsRemoval: in a directory with the sticky bit names belong to whose the
// files are.
func (c call) permitsRemoval(p place) error {
	who, asks := c.asks()
	if !asks {
		return nil
	}
	dir, err := c.look(file{path: ours(p.dir).path, fd: -1})
	if err != nil || dir.Mode&unix.S_ISVTX == 0 || dir.uid == who.fsuid {
		return err
	}
	l, err := c.entry(p)
	if err == nil && l.uid != who.fsuid {
		err = unix.EPERM
	}
	return err
}

// permitsMove: what a directory is in is written in it.
func (c call) permitsMove(from, to place) error {
	who, asks := c.asks()
	if !asks || sameFile(from.dir, to.dir) {
		return nil
	}
	l, err := c.entry(from)
	if err == nil && l.Mode&unix.S_IFMT == unix.S_IFDIR && !who.may(l, 2) {
		err = unix.EACCES
	}
	return err
}

// entry looks at what a name in an open directory is of.
func (c call) entry(p place) (looked, error) {
	fd, err := unix.Openat(p.dir, p.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return looked{}, err
	}
	defer unix.Close(fd)
	return c.look(ours(fd))
}

func sameFile(a, b int) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a, &x) == nil && unix.Fstat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// walk opens (O_PATH) what a path names for who may search the directories on
// the way, one after the other, from an open one on. Of flags it knows
// O_NOFOLLOW and O_DIRECTORY.
func (c call) walk(who identity, start int, name string, flags uint64) (int, error) {
	root := int(c.in.root.Fd())
	if strings.HasPrefix(name, "/") {
		start = root
	}
	w := walker{c: c, root: root, rest: name, nofollow: flags&unix.O_NOFOLLOW != 0}
	var err error
	if w.at, err = unix.FcntlInt(uintptr(start), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return -1, err
	}
	for err == nil && strings.Trim(w.rest, "/") != "" {
		err = w.step(who)
	}
	var st unix.Stat_t
	if err == nil && (flags&unix.O_DIRECTORY != 0 || w.rest != "") {
		if err = unix.Fstat(w.at, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
	}
	if err != nil {
		unix.Close(w.at)
		return -1, err
	}
	return w.at, nil
}

type walker struct {
	c        call
	root, at int
	rest     string // what is to be gone yet
	links    int
	nofollow bool // the last link
}

// step goes one name further.
func (w *walker) step(who identity) error {
	l, err := w.c.look(file{path: ours(w.at).path, fd: -1})
	switch {
	case err != nil:
		return err
	case l.Mode&unix.S_IFMT != unix.S_IFDIR:
		return unix.ENOTDIR
	case !who.may(l, 1):
		return unix.EACCES
	}
	rest := strings.TrimLeft(w.rest, "/")
	name := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		name = rest[:i]
	}
	w.rest = rest[len(name):]
	switch name {
	case ".":
		return nil
	case "..":
		return w.up()
	}
	fd, err := unix.Openat(w.at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK && (w.rest != "" || !w.nofollow) {
		defer unix.Close(fd)
		return w.follow(fd)
	}
	w.goTo(fd)
	return nil
}

func (w *walker) goTo(fd int) {
	unix.Close(w.at)
	w.at = fd
}

// up goes to the directory above, which of the root is the root.
func (w *walker) up() error {
	if sameFile(w.at, w.root) {
		return nil
	}
	name, err := readlink(ours(w.at).path)
	if err != nil {
		return err
	}
	inner, ok := w.c.in.Inner(name)
	if !ok {
		return unix.ENOENT
	}
	fd, err := openat2(w.root, path.Dir(inner), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		w.goTo(fd)
	}
	return err
}

// follow goes where a link leads.
func (w *walker) follow(link int) error {
	if w.links++; w.links > maxLinks {
		return unix.ELOOP
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", b)
	if err != nil {
		return err
	}
	if n == 0 {
		return unix.ENOENT
	}
	w.rest = string(b[:n]) + w.rest
	if b[0] != '/' {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(w.root), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		w.goTo(fd)
	}
	return err
}

// createLinked makes the file that a link means, or opens what somebody else
// has made there first.
func (c call) createLinked(up int, base string, dir int32, name string, flags int, mode uint32) (r notify.Response, err error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(up, base, b)
	if err == unix.EINVAL { // no link
		f, err := c.find(dir, name, 0)
		if err != nil {
			return r, err
		}
		defer f.close()
		return c.reopen(f, flags), nil
	}
	if err != nil {
		return r, err
	}
	if c.links++; c.links > maxLinks {
		return r, unix.ELOOP
	}
	to := string(b[:n])
	if !strings.HasPrefix(to, "/") {
		at, err := readlink(ours(up).path)
		if err != nil {
			return r, err
		}
		inner, ok := c.in.Inner(at)
		if !ok {
			return r, unix.ENOENT
		}
		to = inner + "/" + to
	}
	return c.create(cwd, to, flags, mode), nil
}
