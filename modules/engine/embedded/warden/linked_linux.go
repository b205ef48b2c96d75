package warden

import (
	"encoding/binary"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// linkedCall is a call on what a path leads to, which may be a descriptor's name
// under /proc: what was opened with O_PATH, or has no name yet, can be changed
// by that alone.
type linkedCall struct {
	dir, path int // arguments; dir -1: there is none
	flags     int // argument that says whether links are followed; -1: they are
	changes   bool
	read      func(*Warden, *notify.Request) (linkedDo, error) // the rest of its arguments
}

// linkedDo does a call on a name of ours, as the caller's user. What it gives is
// written into the caller's memory, at the address in argument out.
type linkedDo struct {
	do  func(own string) (n int, given []byte, err error)
	out int
}

func simply(do func(own string) error) (linkedDo, error) {
	return linkedDo{do: func(own string) (int, []byte, error) { return 0, nil, do(own) }}, nil
}

func linkedCalls() map[int]linkedCall {
	return map[int]linkedCall{
		unix.SYS_FCHOWNAT:    {0, 1, 4, true, linkedChown(2)},
		unix.SYS_UTIMENSAT:   {0, 1, 3, true, linkedTimes},
		unix.SYS_TRUNCATE:    {-1, 0, -1, true, linkedTruncate},
		unix.SYS_SETXATTR:    {-1, 0, -1, true, linkedSetAttribute},
		unix.SYS_REMOVEXATTR: {-1, 0, -1, true, linkedRemoveAttribute},
		unix.SYS_GETXATTR:    {-1, 0, -1, false, linkedAttribute},
		unix.SYS_LISTXATTR:   {-1, 0, -1, false, linkedAttributes},
		unix.SYS_LINKAT:      {0, 1, -1, false, linkedLink},
	}
}

// linkedRules hands over those calls where their arguments tell that the path
// may be such a name. Status and access are not among them: every program asks
// for those of so many files that it would cost more than it brings.
func linkedRules() []jail.Rule {
	const follow, nofollow = unix.AT_SYMLINK_FOLLOW, unix.AT_SYMLINK_NOFOLLOW
	cwd := unix.AT_FDCWD
	var rules []jail.Rule
	for call, flags := range map[string]int{"fchownat": 4, "utimensat": 3} {
		rules = append(rules,
			jail.Rule{Call: call, If: when(isNot(0, uint32(cwd))), Action: jail.Allow},
			jail.Rule{Call: call, If: when(jail.Test{Arg: flags, Mask: nofollow, Value: nofollow}), Action: jail.Allow})
	}
	rules = append(rules, jail.Rule{Call: "linkat", If: when(jail.Test{Arg: 4, Mask: follow, Value: follow}), Action: jail.Notify})
	rules = append(rules, notified("fchownat", "utimensat", "truncate", "setxattr", "removexattr", "getxattr", "listxattr")...)
	return append(rules, notified(linkedOld()...)...)
}

// linked answers such a call; known is false for all others, and for what the
// kernel shall go on with.
func (w *Warden) linked(r *notify.Request) (p notify.Response, known bool) {
	c, ok := linkedCalls()[r.Call]
	if !ok {
		if c, ok = linkedCallsOld()[r.Call]; !ok {
			return p, false
		}
	}
	if c.flags >= 0 && r.Args[c.flags]&unix.AT_SYMLINK_NOFOLLOW != 0 {
		return p, false
	}
	if r.Call == unix.SYS_LINKAT && r.Args[4]&unix.AT_SYMLINK_FOLLOW == 0 {
		return p, false
	}
	a, ok := w.ask(r, r.Args[c.path], true)
	if !ok || a.pid == 0 || !a.link() {
		return p, false
	}
	n, err := w.doLinked(r, c, a)
	if err != nil {
		return notify.Errno(errnoOf(err)), true
	}
	return notify.Return(int64(n)), true
}

// doLinked looks at the caller's memory before and after it is the caller's
// user: that may take being it, too.
func (w *Warden) doLinked(r *notify.Request, c linkedCall, a asked) (n int, err error) {
	what, err := c.read(w, r)
	if err != nil {
		return 0, err
	}
	var given []byte
	err = unix.ENOENT
	w.as(r, func() {
		fd, errno := w.openProc(a, unix.O_PATH|unix.O_CLOEXEC, true)
		if errno != 0 {
			err = errno
			return
		}
		defer unix.Close(fd)
		own, errno := w.ownName(fd, c.changes)
		if errno != 0 {
			err = errno
			return
		}
		n, given, err = what.do(own)
	})
	if err == nil && len(given) > 0 {
		err = w.write(r, r.Args[what.out], given)
	}
	return n, err
}

// ownName is how we name what a descriptor of ours is of: something of the
// step's and, when it is to be changed, nothing that was mounted read-only.
func (w *Warden) ownName(fd int, changes bool) (string, unix.Errno) {
	own := "/proc/thread-self/fd/" + strconv.Itoa(fd)
	if target := readlinkIn(unix.AT_FDCWD, own); strings.HasPrefix(target, "/") {
		in, ok := w.inside(target)
		switch {
		case !ok:
			return "", unix.ENOENT
		case changes && w.fixed.has(in):
			return "", unix.EROFS
		}
	}
	return own, 0
}

// linkedChown is chown with the owner in an argument and the group in the next.
func linkedChown(owner int) func(*Warden, *notify.Request) (linkedDo, error) {
	return func(_ *Warden, r *notify.Request) (linkedDo, error) {
		uid, gid := int(int32(r.Args[owner])), int(int32(r.Args[owner+1]))
		return simply(func(own string) error { return unix.Chown(own, uid, gid) })
	}
}

func linkedTimes(w *Warden, r *notify.Request) (linkedDo, error) {
	times := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if r.Args[2] != 0 {
		var b [32]byte
		if err := w.read(r, r.Args[2], b[:]); err != nil {
			return linkedDo{}, err
		}
		for i := range times {
			times[i].Sec = int64(binary.NativeEndian.Uint64(b[16*i:]))
			times[i].Nsec = int64(binary.NativeEndian.Uint64(b[16*i+8:]))
		}
	}
	return simply(func(own string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, own, times, 0) })
}

func linkedTruncate(_ *Warden, r *notify.Request) (linkedDo, error) {
	size := int64(r.Args[1])
	return simply(func(own string) error { return unix.Truncate(own, size) })
}

// maxAttribute is the longest value, or list of names, of extended attributes
// (xattr(7)).
const maxAttribute = 64 << 10

func linkedSetAttribute(w *Warden, r *notify.Request) (linkedDo, error) {
	name, err := w.attribute(r)
	if err != nil {
		return linkedDo{}, err
	}
	if r.Args[3] > maxAttribute {
		return linkedDo{}, unix.E2BIG
	}
	value, flags := make([]byte, r.Args[3]), int(r.Args[4])
	if len(value) > 0 {
		if err := w.read(r, r.Args[2], value); err != nil {
			return linkedDo{}, err
		}
	}
	return simply(func(own string) error { return unix.Setxattr(own, name, value, flags) })
}

func linkedRemoveAttribute(w *Warden, r *notify.Request) (linkedDo, error) {
	name, err := w.attribute(r)
	if err != nil {
		return linkedDo{}, err
	}
	return simply(func(own string) error { return unix.Removexattr(own, name) })
}

// attribute is the name of one that the caller may change. Those of security are
// kept by a capability that is not about files: we have it, other users do not.
func (w *Warden) attribute(r *notify.Request) (string, error) {
	name, err := w.text(r, r.Args[1])
	if err != nil {
		return "", err
	}
	who, ok := idsOf(r.PID)
	if !ok || who.uid != 0 && (strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")) {
		return "", unix.EPERM
	}
	return name, nil
}

func linkedAttribute(w *Warden, r *notify.Request) (linkedDo, error) {
	name, err := w.text(r, r.Args[1])
	if err != nil {
		return linkedDo{}, err
	}
	return filled(r, 2, func(own string, b []byte) (int, error) { return unix.Getxattr(own, name, b) })
}

func linkedAttributes(_ *Warden, r *notify.Request) (linkedDo, error) {
	return filled(r, 1, unix.Listxattr)
}

// filled gives what get gives in the buffer of an argument, whose size is in the
// next; of no size: how much that would be.
func filled(r *notify.Request, buffer int, get func(string, []byte) (int, error)) (linkedDo, error) {
	b := make([]byte, min(r.Args[buffer+1], maxAttribute))
	return linkedDo{out: buffer, do: func(own string) (int, []byte, error) {
		n, err := get(own, b)
		if err != nil {
			return 0, nil, err
		}
		return n, b[:min(n, len(b))], nil
	}}, nil
}

// linkedLink gives what was opened a further name, in the step's root.
func linkedLink(w *Warden, r *notify.Request) (linkedDo, error) {
	to, ok := w.pathAt(r, int(int32(r.Args[2])), r.Args[3])
	switch {
	case !ok:
		return linkedDo{}, unix.ENOENT
	case w.fixed.has(to):
		return linkedDo{}, unix.EROFS
	}
	return simply(func(own string) error {
		parent, err := unix.Openat2(int(w.root.Fd()), path.Dir(to), &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			return err
		}
		defer unix.Close(parent)
		return unix.Linkat(unix.AT_FDCWD, own, parent, path.Base(to), unix.AT_SYMLINK_FOLLOW)
	})
}
