package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// Find opens (O_PATH) what a path of a process names, as openat(2) finds it;
// flags are AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH.
func (in *Inside) Find(pid int, dir int32, name string, flags int) (int, error) {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	f, err := c.find(dir, name, flags)
	if err != nil {
		return -1, err
	}
	if f.fd >= 0 {
		return f.fd, nil
	}
	fd, err := unix.Open(f.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, f.why(err)
	}
	return fd, nil
}

// Made records whose a socket is that was bound in a directory, opened with
// O_PATH, for a process, and gives it the mode it would have.
func (in *Inside) Made(pid, dir int, base string) error {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	n, err := c.newFile(dir, base, unix.S_IFSOCK|0o777)
	if err == nil {
		err = unix.Fchmodat(dir, base, n.mode&0o7777, 0)
	}
	if err != nil {
		return err
	}
	return n.recordAt(dir, base)
}

// MayMake says why a process may not make a file in a directory.
func (in *Inside) MayMake(pid, dir int, base string) error {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	_, err := c.newFile(dir, base, unix.S_IFSOCK|0o777)
	return err
}

// May says whether a process may read (4), write (2) or execute (1) a file,
// which Find opened, as the user it was made.
func (in *Inside) May(pid, fd int, want uint32) bool {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	l, err := c.look(file{path: ours(fd).path, fd: -1})
	return err == nil && in.ids.of(pid).may(l, want)
}

// Executable says whether a process may execute the file, which Find opened.
func (in *Inside) Executable(pid, fd int) error {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	l, err := c.look(file{path: ours(fd).path, fd: -1})
	if err != nil {
		return err
	}
	if l.Mode&unix.S_IFMT != unix.S_IFREG || l.Mode&0o111 == 0 || !in.ids.of(pid).may(l, 1) {
		return unix.EACCES
	}
	return nil
}

// Enters says whether a process may have the directory, which Find opened, as its
// working directory.
func (in *Inside) Enters(pid, fd int) error {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	f := file{path: ours(fd).path, fd: -1}
	l, err := c.look(f)
	if err == nil && l.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = unix.ENOTDIR
	}
	if err != nil {
		return err
	}
	return c.permits(f, 1)
}

// Effective are the ids by which others know a process.
func (in *Inside) Effective(pid int) (uid, gid uint32) {
	who := in.ids.of(pid)
	return who.euid, who.egid
}

// Sees says whether a process may look into another as a debugger does
// (ptrace(2), "Ptrace access mode checking").
func (in *Inside) Sees(pid, other int) bool {
	who, o := in.ids.of(pid), in.ids.of(other)
	return who.fsuid == 0 || who == o || [3]uint32{o.ruid, o.euid, o.suid} == [3]uint32{who.fsuid, who.fsuid, who.fsuid} &&
		[3]uint32{o.rgid, o.egid, o.sgid} == [3]uint32{who.fsgid, who.fsgid, who.fsgid}
}

// Executes gives a process the ids that executing the file gives.
func (in *Inside) Executes(pid, fd int) error {
	c := call{Request: &notify.Request{PID: pid}, ids: in.ids, roots: in.roots, in: in}
	f := file{path: ours(fd).path, fd: -1}
	l, err := c.look(f)
	if err != nil {
		return err
	}
	who := in.ids.of(pid)
	after := who.executing(l)
	if after != who && l.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && !gives(f) {
		l.Mode &^= unix.S_ISUID | unix.S_ISGID
		after = who.executing(l)
	}
	if after == who {
		return nil
	}
	return in.ids.become(pid, after)
}
