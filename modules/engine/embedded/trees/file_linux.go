package trees

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// origin names an inode of a delta for as long as the file system lives: a
// number is used again, but not with the same time of birth. Where births are
// not recorded it names the inode only while the delta is there.
type origin struct {
	Ino   uint64
	Birth int64
}

// file is one file as it was last seen, with those below it.
type file struct {
	Mode         uint32
	UID, GID     uint32
	Rdev         uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds since 1970
	Ino          uint64
	Links        uint32

	From   origin // the inode in Delta that has the same content, zero if unknown
	Delta  string // the delta that has this file
	Shared bool   // it is the very inode of the delta
	Below  bool   // of a directory: a file in it is Shared, at whatever depth

	Kids map[string]*file
}

func (f *file) dir() bool { return f != nil && f.Mode&unix.S_IFMT == unix.S_IFDIR }

// names are the names of what is below, in order.
func (f *file) names() []string {
	if f == nil {
		return nil
	}
	out := make([]string, 0, len(f.Kids))
	for n := range f.Kids {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (f *file) kid(name string) *file {
	if f == nil {
		return nil
	}
	return f.Kids[name]
}

// untouched: the kernel has changed nothing about the file.
func (f *file) untouched(was *file) bool {
	return f.Ino == was.Ino && f.Ctime == was.Ctime && f.sameMeta(was) && f.Size == was.Size && f.Mtime == was.Mtime
}

func (f *file) sameMeta(other *file) bool {
	return f.Mode == other.Mode && f.UID == other.UID && f.GID == other.GID && f.Rdev == other.Rdev
}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// look reads what the kernel knows of one file, and its own origin.
func look(path string) (*file, origin, error) { return lookAt(unix.AT_FDCWD, path) }

// lookAt looks at a name in an open directory: the kernel then need not walk
// the whole path for every file.
func lookAt(dir int, path string) (*file, origin, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if path == "" { // the open file itself
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	err := unix.Statx(dir, path, flags|unix.AT_STATX_SYNC_AS_STAT, statMask, &st)
	if errors.Is(err, unix.ENOSYS) {
		return lookOld(dir, path, flags)
	}
	if err != nil {
		return nil, origin{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	f := &file{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor),
		Size: int64(st.Size), Mtime: st.Mtime.Sec*1e9 + int64(st.Mtime.Nsec), Ctime: st.Ctime.Sec*1e9 + int64(st.Ctime.Nsec),
		Ino: st.Ino, Links: st.Nlink,
	}
	o := origin{Ino: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		o.Birth = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return f, o, nil
}

// lookOld is for kernels, or filters, without statx.
func lookOld(dir int, path string, flags int) (*file, origin, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, path, &st, flags); err != nil {
		return nil, origin{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &file{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev, Size: st.Size,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Ino: st.Ino, Links: uint32(st.Nlink),
	}, origin{Ino: st.Ino}, nil
}

// list gives the names in a directory, in no order.
func list(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// named calls fn for every file below f that is no directory and has several
// names, in no order. Paths start with a slash.
func (f *file) named(path string, fn func(path string, f *file)) {
	for n, k := range f.Kids {
		if k.dir() {
			k.named(path+"/"+n, fn)
		} else if k.Links > 1 {
			fn(path+"/"+n, k)
		}
	}
}

// sharedAt marks the directories above a path.
func (f *file) sharedAt(path string) {
	for _, n := range split(path) {
		if !f.dir() {
			return
		}
		f.Below = true
		f = f.kid(n)
	}
}

// at finds the file of a path.
func (f *file) at(path string) *file {
	for _, n := range split(path) {
		f = f.kid(n)
	}
	return f
}

// split gives the names of a path.
func split(path string) []string {
	var out []string
	for path != "" && path != "/" && path != "." {
		dir, base := filepath.Split(filepath.Clean(path))
		out = append(out, base)
		path = filepath.Clean(dir)
	}
	slices.Reverse(out)
	return out
}
