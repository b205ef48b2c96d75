package initproc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// tree is the step's root while it is being furnished. Every path in it is
// resolved inside it by the kernel, whatever links the image has.
type tree struct{ root *os.File }

func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// OpenIn opens name in the directory root as if that were the root of all
// files: no link leads out of it.
func OpenIn(root *os.File, name string, flags uint64) (*os.File, error) {
	return openIn(root, name, flags)
}

func openIn(root *os.File, name string, flags uint64) (*os.File, error) {
	name = path.Clean("/" + name)
	for {
		fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
			Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue // a concurrent rename; openat2(2) says to try again
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// Place opens name in the directory root, as OpenIn does with O_PATH, making it
// (a directory or an empty file) and what is above it when missing: where
// something is mounted.
func Place(root *os.File, name string, dir bool) (*os.File, error) {
	return tree{root}.place(name, dir)
}

// maxLinks is how many links that lead nowhere are followed for one name.
const maxLinks = 8

// place opens name, making it (a directory or an empty file) when missing.
func (t tree) place(name string, dir bool) (*os.File, error) {
	return t.placeAt(name, dir, maxLinks)
}

func (t tree) placeAt(name string, dir bool, links int) (*os.File, error) {
	name = path.Clean("/" + name)
	f, err := openIn(t.root, name, unix.O_PATH)
	if !errors.Is(err, unix.ENOENT) || name == "/" {
		return f, err
	}
	parent, err := t.placeAt(path.Dir(name), true, links)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if dir {
		err = unix.Mkdirat(int(parent.Fd()), path.Base(name), 0o755)
	} else {
		var fd int
		fd, err = unix.Openat(int(parent.Fd()), path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(fd)
		}
	}
	if errors.Is(err, unix.EEXIST) && links > 0 { // a link to what is not there
		buf := make([]byte, unix.PathMax)
		if n, lerr := unix.Readlinkat(int(parent.Fd()), path.Base(name), buf); lerr == nil {
			target := string(buf[:n])
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(name), target)
			}
			return t.placeAt(target, dir, links-1)
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return openIn(t.root, name, unix.O_PATH)
}

// mount mounts a new file system at name.
func (t tree) mount(fstype, name string, flags uintptr, data string) error {
	f, err := t.place(name, true)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	defer f.Close()
	if err := unix.Mount(fstype, fdPath(f), fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", fstype, name, err)
	}
	return nil
}

// bind mounts src over name and sets attributes on it and below.
func (t tree) bind(src *os.File, name string, attrs uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	dst, err := t.place(name, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	defer dst.Close()
	if err := unix.Mount(fdPath(src), fdPath(dst), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	return t.setAttrs(name, attrs, true)
}

// setAttrs sets mount attributes (mount_setattr(2)) on what is mounted at name.
func (t tree) setAttrs(name string, attrs uint64, recursive bool) error {
	if attrs == 0 {
		return nil
	}
	f, err := openIn(t.root, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err = unix.MountSetattr(int(f.Fd()), "", flags, &unix.MountAttr{Attr_set: attrs})
	if errors.Is(err, unix.ENOSYS) {
		return remount(fdPath(f), attrs)
	}
	if err != nil {
		return fmt.Errorf("setting mount attributes of %s: %w", name, err)
	}
	return nil
}

// remount is setAttrs for kernels before 5.12, without what is mounted below.
func remount(target string, attrs uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	// ST_… and MS_… agree on these bits; flags that are locked must be kept
	keep := uintptr(st.Flags) & (unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSUID |
		unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		keep |= unix.MS_RDONLY
	}
	if attrs&unix.MOUNT_ATTR_NODEV != 0 {
		keep |= unix.MS_NODEV
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|keep, ""); err != nil {
		return fmt.Errorf("remounting: %w", err)
	}
	return nil
}

// enterRoot furnishes the step's root and makes it ours. Device nodes of the
// image or made by the step stay dead: every mount but the few device files
// bound into /dev refuses them, and a step cannot change its mounts.
func enterRoot(s Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if s.Emulator != nil {
		// mounts that came from another user namespace cannot become the root;
		// a mount of them made here can
		if err := unix.Mount(s.Root, s.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting the step's root: %w", err)
		}
	}
	fd, err := unix.Open(s.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the step's root: %w", err)
	}
	t := tree{os.NewFile(uintptr(fd), s.Root)}
	defer t.root.Close()
	for _, furnish := range []func() error{
		t.proc, t.sys, t.dev,
		func() error { return t.binds(s.Mounts) },
		t.mask,
	} {
		if err := furnish(); err != nil {
			return err
		}
	}
	attrs := uint64(unix.MOUNT_ATTR_NODEV)
	if s.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if err := t.setAttrs("/", attrs, false); err != nil {
		return err
	}
	if err := unix.Fchdir(fd); err != nil {
		return fmt.Errorf("entering the step's root: %w", err)
	}
	// pivot_root(2): the old root ends up over the new one and is detached
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	return unix.Chdir("/")
}

func (t tree) binds(mounts []Mount) error {
	for _, m := range mounts {
		base, err := os.OpenFile(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("mounting %s: %w", m.Dest, err)
		}
		src := base
		if path.Clean("/"+m.Selector) != "/" {
			src, err = openIn(base, m.Selector, unix.O_PATH)
			if err != nil {
				base.Close()
				return fmt.Errorf("mounting %s: %w", m.Dest, err)
			}
		}
		attrs := uint64(unix.MOUNT_ATTR_NODEV)
		if m.ReadOnly {
			attrs |= unix.MOUNT_ATTR_RDONLY
		}
		err = t.bind(src, m.Dest, attrs)
		src.Close()
		base.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
