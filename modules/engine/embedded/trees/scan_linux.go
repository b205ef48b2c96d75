package trees

import (
	"errors"
	"maps"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// scan looks at everything below dir. was is how it was before, or nil: what
// nobody touched since is the same in the result, node for node, so that a
// scan costs little but the kernel's answers and finding the differences
// little but the differences.
//
// Every file is looked at: the kernel changes its change time whatever is done
// to it, also a write in place, which its directory does not tell. Names are
// read only where a directory itself was touched.
func scan(dir string, was *file) (*file, error) {
	s := &scanner{}
	s.others.SetLimit(runtime.NumCPU())
	now, _, err := look(dir)
	if err != nil {
		return nil, err
	}
	now, err = s.directory(now, was, unix.AT_FDCWD, dir, dir)
	return now, errors.Join(err, s.others.Wait())
}

// scanner looks at several directories at once.
type scanner struct{ others errgroup.Group }

// directory looks at what is in the directory of a name in an open one; path
// is its whole path, for who does not have that open. It returns was when all
// of it is as it was.
func (s *scanner) directory(now, was *file, at int, name, path string) (*file, error) {
	if len(path) >= unix.PathMax { // nothing else could be done with it
		return nil, &os.PathError{Op: "open", Path: path[:64] + "…", Err: unix.ENAMETOOLONG}
	}
	if !was.dir() {
		was = nil
	}
	same := was != nil && now.untouched(was)
	flags := unix.O_RDONLY
	if same {
		flags = unix.O_PATH // its names are known
	}
	fd, err := unix.Openat(at, name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	v := &visit{s: s, fd: fd, path: path, was: was}
	if same {
		defer unix.Close(fd)
		err = v.known()
	} else {
		dir := os.NewFile(uintptr(fd), name)
		defer dir.Close()
		err = v.read(dir)
	}
	if err != nil {
		return nil, err
	}
	v.below.Wait() // our descriptor is needed no more, but the answers are
	if v.err != nil {
		return nil, v.err
	}
	switch {
	case same && v.kids == nil:
		return was, nil
	case same:
		now.From, now.Delta = was.From, was.Delta
	}
	now.Kids = v.kids
	return now, nil
}

// visit is one directory being looked at.
type visit struct {
	s    *scanner
	fd   int
	path string
	was  *file
	name [unix.NAME_MAX + 1]byte
	st   unix.Statx_t

	mu    sync.Mutex
	kids  map[string]*file // nil: as in was
	err   error
	below sync.WaitGroup
}

// known looks at the files of a directory whose names are those it had.
func (v *visit) known() error {
	for name, was := range v.was.Kids {
		if err := v.look(name, was); err != nil {
			return err
		}
	}
	return nil
}

// read looks at whatever is in the directory.
func (v *visit) read(dir *os.File) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	v.kids = make(map[string]*file, len(names))
	for _, name := range names {
		if err := v.look(name, v.was.kid(name)); err != nil {
			return err
		}
	}
	return nil
}

// look looks at one file, and what is below it.
func (v *visit) look(name string, was *file) error {
	if err := v.stat(name); err != nil {
		return err
	}
	if was != nil && !was.dir() && seen(&v.st, was) {
		v.keep(name, was, was)
		return nil
	}
	now := fileOf(&v.st)
	if !now.dir() {
		v.keep(name, was, now)
		return nil
	}
	v.below.Add(1)
	visit := func(at int, of string) {
		defer v.below.Done()
		path := v.path + "/" + name
		if of == "" {
			of = path
		}
		k, err := v.s.directory(now, was, at, of, path)
		if err != nil {
			v.fail(err)
			return
		}
		v.keep(name, was, k)
	}
	if len(was.kids()) == 0 || !v.s.others.TryGo(func() error { visit(unix.AT_FDCWD, ""); return nil }) {
		visit(v.fd, name)
	}
	return v.failed()
}

func (v *visit) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = errors.Join(v.err, err)
}

func (v *visit) failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// keep notes what a name is now.
func (v *visit) keep(name string, was, now *file) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kids == nil {
		if now == was {
			return
		}
		v.kids = maps.Clone(v.was.Kids)
	}
	v.kids[name] = now
}

// stat fills v.st. It is statx(2) without a copy of the name on the heap: this
// is done for every file of a tree.
func (v *visit) stat(name string) error {
	if len(name) >= len(v.name) {
		return &os.PathError{Op: "stat", Path: name, Err: unix.ENAMETOOLONG}
	}
	v.name[copy(v.name[:], name)] = 0
	_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(v.fd), uintptr(unsafe.Pointer(&v.name[0])),
		unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_SYNC_AS_STAT, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&v.st)), 0)
	if errno == unix.ENOSYS {
		return v.statOld(name)
	}
	if errno != 0 {
		return &os.PathError{Op: "stat", Path: v.path + "/" + name, Err: errno}
	}
	return nil
}

// statOld is for kernels, or filters, without statx.
func (v *visit) statOld(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(v.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "lstat", Path: v.path + "/" + name, Err: err}
	}
	v.st = unix.Statx_t{
		Mode: uint16(st.Mode), Uid: st.Uid, Gid: st.Gid, Ino: st.Ino, Nlink: uint32(st.Nlink), Size: uint64(st.Size),
		Rdev_major: unix.Major(st.Rdev), Rdev_minor: unix.Minor(st.Rdev),
	}
	v.st.Mtime.Sec, v.st.Mtime.Nsec = st.Mtim.Sec, uint32(st.Mtim.Nsec)
	v.st.Ctime.Sec, v.st.Ctime.Nsec = st.Ctim.Sec, uint32(st.Ctim.Nsec)
	return nil
}

// seen: a file that is no directory is as it was.
func seen(st *unix.Statx_t, was *file) bool {
	return st.Ino == was.Ino && nanoseconds(st.Ctime) == was.Ctime && nanoseconds(st.Mtime) == was.Mtime &&
		int64(st.Size) == was.Size && uint32(st.Mode) == was.Mode && st.Uid == was.UID && st.Gid == was.GID &&
		st.Nlink == was.Links && unix.Mkdev(st.Rdev_major, st.Rdev_minor) == was.Rdev
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// fileOf is what the kernel told of a file.
func fileOf(st *unix.Statx_t) *file {
	return &file{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor),
		Size: int64(st.Size), Mtime: nanoseconds(st.Mtime), Ctime: nanoseconds(st.Ctime), Ino: st.Ino, Links: st.Nlink,
	}
}
