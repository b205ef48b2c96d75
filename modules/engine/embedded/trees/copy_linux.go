package trees

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// copyFile makes dst, which does not exist, like src with everything about it.
func copyFile(dst, src string, f *file) error {
	if err := copyBody(dst, src, f); err != nil {
		return err
	}
	return copyMeta(dst, src, f)
}

func copyBody(dst, src string, f *file) error {
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return copyContent(dst, src)
	case unix.S_IFLNK:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(target, dst)
	case unix.S_IFDIR:
		return os.Mkdir(dst, 0o700)
	}
	if err := unix.Mknod(dst, f.Mode, int(f.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: dst, Err: err}
	}
	return nil
}

func copyContent(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil { // file systems that share blocks
		_, err = io.Copy(out, in)
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// copyMeta gives dst the owner, mode, extended attributes and times of src.
// The owner comes first: changing it clears setuid bits and capabilities.
func copyMeta(dst, src string, f *file) error {
	if err := os.Lchown(dst, int(f.UID), int(f.GID)); err != nil {
		return err
	}
	link := f.Mode&unix.S_IFMT == unix.S_IFLNK
	if !link {
		if err := unix.Fchmodat(unix.AT_FDCWD, dst, f.Mode&0o7777, 0); err != nil {
			return &os.PathError{Op: "chmod", Path: dst, Err: err}
		}
	}
	if err := copyXattrs(dst, src); err != nil {
		return err
	}
	return setTime(dst, f.Mtime)
}

func setTime(path string, mtime int64) error {
	t := unix.NsecToTimespec(mtime)
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: path, Err: err}
	}
	return nil
}

func copyXattrs(dst, src string) error {
	have, err := xattrs(src)
	if err != nil {
		return err
	}
	for name, value := range have {
		err := unix.Lsetxattr(dst, name, []byte(value), 0)
		if err != nil && keptXattr(name) {
			return fmt.Errorf("setting %s of %s: %w", name, dst, err)
		}
	}
	return nil
}

// keptXattr: labels of a security module belong to the place, not to the file.
func keptXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

// clearXattrs removes what a file has and its model has not.
func clearXattrs(path, model string) error {
	have, err := xattrs(path)
	if err != nil || have == nil {
		return err
	}
	want, err := xattrs(model)
	if err != nil {
		return err
	}
	for name := range have {
		if _, ok := want[name]; ok || !keptXattr(name) {
			continue
		}
		if err := unix.Lremovexattr(path, name); err != nil {
			return &os.PathError{Op: "removexattr", Path: path, Err: err}
		}
	}
	return nil
}

// xattrs reads the extended attributes of a file; nil when it has none.
func xattrs(path string) (map[string]string, error) {
	var small [512]byte
	names := small[:]
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ERANGE) {
		names = make([]byte, 64<<10)
		n, err = unix.Llistxattr(path, names)
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || (err == nil && n == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	out := map[string]string{}
	value := make([]byte, 64<<10)
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "getxattr", Path: path, Err: err}
		}
		out[name] = string(value[:n])
	}
	return out, nil
}
