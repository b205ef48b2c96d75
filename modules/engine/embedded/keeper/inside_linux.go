package keeper

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// Inside keeps owners for processes that have no user namespace: the one real
// user stands for root, who may do nothing that others may not. What root may
// besides is made possible: files stay readable and writable for the user, and
// the mode that was meant is in the record.
//
// With a root it also takes the place of chroot(2): it carries out every call
// that names a path itself, found race-free below the root, and the kernel
// never sees a path of the caller's.
type Inside struct {
	root     *os.File // nil: of the process
	path     string   // of root, as the kernel says it
	uid, gid uint32   // the real ones
	special  Special
	refuse   func(path string, entry bool) unix.Errno
	devices  map[fileID]string
	stand    standIns
	ids      *identities
	roots    *roots
	table    map[int]handler
}

// Special opens (O_PATH) what no file of the root is: files of /proc. ok is
// false for other paths.
type Special func(r *notify.Request, name string, follow bool) (fd int, ok bool, err error)

type fileID struct{ dev, ino uint64 }

// InsideOptions configure NewInside.
type InsideOptions struct {
	Root    *os.File // the directory that is the processes' root
	Special Special
	// Refuse says why nothing at a path of the root may be changed, or which file
	// it names (entry); 0 when it may.
	Refuse func(path string, entry bool) unix.Errno
	// Devices are the files that stand for device nodes, by their name in the
	// root, and the node that is meant.
	Devices map[string]string
}

// NewInside keeps owners below a root.
func NewInside(o InsideOptions) (*Inside, error) {
	in := newBare()
	var err error
	if in.path, err = readlink(ours(int(o.Root.Fd())).path); err != nil {
		return nil, err
	}
	in.root, in.special, in.refuse, in.devices = o.Root, o.Special, o.Refuse, map[fileID]string{}
	for name, node := range o.Devices {
		fd, err := openat2(int(o.Root.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, unix.RESOLVE_IN_ROOT)
		if err != nil {
			continue // it is not there
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			in.devices[fileID{st.Dev, st.Ino}] = node
		}
		unix.Close(fd)
	}
	in.table = in.handlers()
	return in, nil
}

// newBare keeps owners for processes that have the root we have.
func newBare() *Inside {
	in := &Inside{uid: uint32(os.Getuid()), gid: uint32(os.Getgid()), ids: newIdentities(), roots: &roots{}}
	in.table = in.handlers()
	return in
}

func (in *Inside) translates() bool { return in != nil && in.root != nil }

// real are the ids that stand for root.
func (in *Inside) real() [2]int {
	if in == nil {
		return [2]int{}
	}
	return [2]int{int(in.uid), int(in.gid)}
}

// Rules are what the filter of processes in a root hands over.
func (in *Inside) Rules() []jail.Rule {
	var out []jail.Rule
	for _, h := range in.table {
		out = append(out, jail.Rule{Call: h.name, If: h.only, Action: jail.Notify})
	}
	for _, name := range []string{"openat2", "setxattrat", "getxattrat", "listxattrat", "removexattrat", "file_getattr", "file_setattr"} {
		out = append(out, jail.Rule{Call: name, Action: jail.Refuse, Errno: uint32(unix.ENOSYS)})
	}
	return out
}

// InsideRules are Rules for every root.
func InsideRules() []jail.Rule {
	in := &Inside{root: os.Stdin}
	in.table = in.handlers()
	return in.Rules()
}

// Answer answers a call; ok is false when it is none of its.
func (in *Inside) Answer(r *notify.Request) (p notify.Response, ok bool) {
	h, ok := in.table[r.Call]
	if !ok || r.PID == 0 {
		return p, false
	}
	return h.do(call{Request: r, ids: in.ids, roots: in.roots, in: in}), true
}

// device is f, or the device that it stands for.
func (in *Inside) device(f file) (file, error) {
	if in == nil || len(in.devices) == 0 {
		return f, nil
	}
	var st unix.Stat_t
	if unix.Fstat(f.fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return f, nil
	}
	node, ok := in.devices[fileID{st.Dev, st.Ino}]
	if !ok {
		return f, nil
	}
	f.close()
	fd, err := unix.Open(node, unix.O_PATH|unix.O_CLOEXEC, 0)
	return ours(fd), err
}

// standsForDevice: the name is of a file that stands for a device node.
func (in *Inside) standsForDevice(p place) bool {
	var st unix.Stat_t
	if len(in.devices) == 0 || unix.Fstatat(p.dir, p.base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return false
	}
	_, ok := in.devices[fileID{st.Dev, st.Ino}]
	return ok
}

// Inner is a path of ours as the processes see it; false when it is not below
// their root.
func (in *Inside) Inner(name string) (string, bool) {
	if name == in.path {
		return "/", true
	}
	inner, ok := strings.CutPrefix(name, strings.TrimSuffix(in.path, "/")+"/")
	return "/" + inner, ok
}

// holds: an open directory is below the root, if there is one. A step that
// changes the path while it changes its working directory may get to another,
// which shall be of no use to it.
func (in *Inside) holds(fd int) bool {
	if !in.translates() {
		return true
	}
	name, err := readlink(ours(fd).path)
	if err != nil {
		return false
	}
	_, ok := in.Inner(name)
	return ok
}

// mayChange says why a file may not be changed.
func (c call) mayChange(f file) error {
	if c.in == nil || c.in.refuse == nil {
		return nil
	}
	name, err := readlink(f.path)
	if err != nil {
		return nil //nolint:nilerr // it cannot be opened either
	}
	return c.mayChangeName(name, false)
}

// ofMachine: the file is a device that is no step's. Its descriptor was handed
// in; owner, mode and times are the machine's, and what is said of them is
// taken for done.
func (c call) ofMachine(f file, mode uint32) bool {
	if kind := mode & unix.S_IFMT; !c.in.translates() || kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return false
	}
	name, err := readlink(f.path)
	if err != nil {
		return true
	}
	_, inner := c.in.Inner(name)
	return !inner
}

// mayChangeAt is mayChange for a name in an open directory.
func (c call) mayChangeAt(dir int, base string) error {
	if c.in == nil || c.in.refuse == nil {
		return nil
	}
	name, err := readlink(file{path: ours(dir).path}.path)
	if err != nil {
		return nil //nolint:nilerr // the same
	}
	return c.mayChangeName(strings.TrimSuffix(name, "/")+"/"+base, true)
}

func (c call) mayChangeName(name string, entry bool) error {
	inner, ok := c.in.Inner(name)
	if !ok {
		return nil
	}
	if errno := c.in.refuse(inner, entry); errno != 0 {
		return errno
	}
	return nil
}

// otherwise ends a call whose file was not found: the kernel says why, where it
// sees the same files.
func (c call) otherwise(err error) notify.Response {
	if c.in.translates() {
		return failure(err)
	}
	return notify.Continue()
}

// look is look, with what root of a user namespace would see.
func (c call) look(f file) (looked, error) {
	l, err := look(f)
	if err != nil || c.in == nil {
		return l, err
	}
	switch {
	case l.recorded:
	case l.Uid == c.in.uid || l.Uid == 0:
		l.owner = owner{}
	default:
		l.owner = owner{l.Uid, l.Gid}
	}
	l.Uid, l.Gid = l.uid, l.gid
	return l, nil
}

// reachable are the permission bits a file needs so that the user can do what
// root could.
func reachable(kind uint32) uint32 {
	switch kind & unix.S_IFMT {
	case unix.S_IFDIR:
		return 0o700
	case unix.S_IFREG:
		return 0o600
	}
	return 0
}
