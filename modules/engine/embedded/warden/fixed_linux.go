package warden

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// fixed are the paths of what was mounted read-only. They are copies, and what
// is written to them goes nowhere: writers are told so, by their path, as it is
// written, links and all.
type fixed struct {
	paths []string
	names map[string]bool // their last elements
	dirs  bool            // some are directories
	calls map[int]fixedCall
}

func fixedOf(list []Fixed) fixed {
	f := fixed{names: map[string]bool{}}
	for _, x := range list {
		f.paths = append(f.paths, x.Path)
		f.names[path.Base(x.Path)] = true
		f.dirs = f.dirs || x.Dir
	}
	if f.dirs { // else none of them is handed over
		f.calls = map[int]fixedCall{}
		at, old := fixedCallsAt(), fixedCallsOld()
		for n, name := range fixedNumbersAt() {
			f.calls[n] = at[name]
		}
		for n, name := range fixedNumbersOld() {
			f.calls[n] = old[name]
		}
	}
	return f
}

// maybe is false for paths that are surely of nothing fixed: a file is told
// from others by its last element alone.
func (f *fixed) maybe(name []byte) bool {
	if len(f.paths) == 0 {
		return false
	}
	if f.dirs || bytes.HasSuffix(name, []byte("/")) || bytes.HasSuffix(name, []byte(".")) {
		return true
	}
	return f.names[string(name[bytes.LastIndexByte(name, '/')+1:])]
}

// has reports whether an absolute, clean path is of something fixed.
func (f *fixed) has(name string) bool {
	for _, x := range f.paths {
		if name == x || strings.HasPrefix(name, x+"/") {
			return true
		}
	}
	return false
}

// isFixed reports whether a path of the caller is of something fixed. dir is
// the descriptor that a relative one starts at.
func (w *Warden) isFixed(r *notify.Request, dir int, addr uint64) bool {
	if len(w.fixed.paths) == 0 {
		return false
	}
	name, ok := w.pathAt(r, dir, addr)
	return ok && w.fixed.has(name)
}

// pathAt is a path of the caller from its root on, links and all.
func (w *Warden) pathAt(r *notify.Request, dir int, addr uint64) (string, bool) {
	name, err := w.text(r, addr)
	if err != nil || name == "" {
		return "", false
	}
	if strings.HasPrefix(name, "/") {
		return path.Clean(name), true
	}
	start := "/proc/" + strconv.Itoa(r.PID) + "/cwd"
	if dir != unix.AT_FDCWD {
		start = "/proc/" + strconv.Itoa(r.PID) + "/fd/" + strconv.Itoa(dir)
	}
	in, ok := "", false
	w.as(r, func() { in, ok = w.inside(readlinkIn(unix.AT_FDCWD, start)) })
	return path.Clean(in + "/" + name), ok
}

// fixedCall is a call that changes what its paths name.
type fixedCall struct {
	dir, path int // arguments; dir -1: there is none
	does      fixedKind
	to        int // argument of a second path, 0 for none; its directory is before it when dir is not -1
}

type fixedKind int

const (
	changes fixedKind = iota // what is there
	makes                    // what is not there
	removes
	moves // to a second path
	links
)

// fixedCallsAt are those that all architectures have, by name.
func fixedCallsAt() map[string]fixedCall {
	return map[string]fixedCall{
		"mkdirat": {0, 1, makes, 0}, "mknodat": {0, 1, makes, 0}, "symlinkat": {1, 2, makes, 0},
		"unlinkat": {0, 1, removes, 0}, "renameat": {0, 1, moves, 3}, "renameat2": {0, 1, moves, 3}, "linkat": {0, 1, links, 3},
		"fchmodat": {0, 1, changes, 0}, "fchmodat2": {0, 1, changes, 0}, "fchownat": {0, 1, changes, 0}, "utimensat": {0, 1, changes, 0},
		"truncate": {-1, 0, changes, 0}, "setxattr": {-1, 0, changes, 0}, "lsetxattr": {-1, 0, changes, 0},
		"removexattr": {-1, 0, changes, 0}, "lremovexattr": {-1, 0, changes, 0},
	}
}

// fixedNumbersAt are their numbers.
func fixedNumbersAt() map[int]string {
	return map[int]string{
		unix.SYS_MKDIRAT: "mkdirat", unix.SYS_MKNODAT: "mknodat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UNLINKAT: "unlinkat",
		unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_LINKAT: "linkat", unix.SYS_FCHMODAT: "fchmodat",
		unix.SYS_FCHMODAT2: "fchmodat2", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_UTIMENSAT: "utimensat", unix.SYS_TRUNCATE: "truncate",
		unix.SYS_SETXATTR: "setxattr", unix.SYS_LSETXATTR: "lsetxattr", unix.SYS_REMOVEXATTR: "removexattr", unix.SYS_LREMOVEXATTR: "lremovexattr",
	}
}

// fixedCalls are the names of those there are here.
func fixedCalls() []string {
	out := []string{"openat2"}
	for _, list := range []map[string]fixedCall{fixedCallsAt(), fixedCallsOld()} {
		for name := range list {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// changeFixed answers calls that change files by their path: as a mount that is
// read-only would.
func (w *Warden) changeFixed(r *notify.Request) (p notify.Response, known bool) {
	c, ok := w.fixed.calls[r.Call]
	if !ok {
		return p, false
	}
	if errno := w.fixedErrno(r, c); errno != 0 {
		return notify.Errno(errno), true
	}
	return notify.Continue(), true
}

// directory is where the path of an argument starts.
func (c fixedCall) directory(r *notify.Request, path int) int {
	if c.dir < 0 {
		return unix.AT_FDCWD
	}
	if path == c.path {
		return int(int32(r.Args[c.dir]))
	}
	return int(int32(r.Args[path-1]))
}

func (w *Warden) fixedErrno(r *notify.Request, c fixedCall) unix.Errno {
	from, ok := w.pathAt(r, c.directory(r, c.path), r.Args[c.path])
	fixed := ok && w.fixed.has(from)
	switch c.does {
	case makes:
		if fixed && w.exists(from) {
			return 0 // the kernel says so
		}
	case removes:
		if fixed && slices.Contains(w.fixed.paths, from) {
			return unix.EBUSY
		}
	case moves, links:
		if c.does == moves && fixed && slices.Contains(w.fixed.paths, from) {
			return unix.EBUSY
		}
		if to, ok := w.pathAt(r, c.directory(r, c.to), r.Args[c.to]); fixed != (ok && w.fixed.has(to)) {
			return unix.EXDEV
		}
	}
	if fixed {
		return unix.EROFS
	}
	return 0
}

func (w *Warden) exists(name string) bool {
	fd, err := unix.Openat2(int(w.root.Fd()), name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// openat2 is handed over for the sake of what is fixed only.
func (w *Warden) openat2(r *notify.Request) notify.Response {
	var flags [8]byte // the first field of struct open_how
	if w.read(r, r.Args[2], flags[:]) != nil {
		return notify.Continue()
	}
	how := openHow{int(int32(r.Args[0])), r.Args[1], int(binary.NativeEndian.Uint64(flags[:]))}
	if how.writes() && w.isFixed(r, how.dir, how.path) {
		return notify.Errno(unix.EROFS)
	}
	return notify.Continue()
}
