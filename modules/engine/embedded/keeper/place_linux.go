package keeper

import (
	"errors"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// file is what a call names, as a path of the keeper's own that leads to it
// and nowhere else: /proc/…/fd/N. A link that is named itself is not followed.
type file struct {
	path string
	fd   int // ours, to be closed; -1 without
}

func (f file) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
}

// why tells what is wrong with a descriptor as the kernel would.
func (f file) why(err error) error {
	if f.fd < 0 && errors.Is(err, unix.ENOENT) {
		return unix.EBADF
	}
	return err
}

func ours(fd int) file { return file{path: "/proc/self/fd/" + strconv.Itoa(fd), fd: fd} }

func (c call) proc(name string) string { return "/proc/" + strconv.Itoa(c.PID) + "/" + name }

// descriptor is an open file of the caller.
func (c call) descriptor(n int32) file {
	if n == unix.AT_FDCWD {
		return file{path: c.proc("cwd"), fd: -1}
	}
	return file{path: c.proc("fd/" + strconv.Itoa(int(n))), fd: -1}
}

// name reads a path from the caller.
func (c call) name(addr uint64) (string, error) { return c.ReadString(addr, unix.PathMax) }

// changesRoot forgets whose root is where. The kernel changes it afterwards.
func (c call) changesRoot() notify.Response {
	c.roots.forget()
	return notify.Continue()
}

// named finds what a call names by directory, path and flags (openat(2)).
func (c call) named(dir int32, addr uint64, flags int) (file, error) {
	name := ""
	if addr != 0 || flags&unix.AT_EMPTY_PATH == 0 {
		var err error
		if name, err = c.name(addr); err != nil {
			return file{}, err
		}
	}
	return c.find(dir, name, flags)
}

func (c call) find(dir int32, name string, flags int) (file, error) {
	if name == "" {
		if flags&unix.AT_EMPTY_PATH == 0 {
			return file{}, unix.ENOENT
		}
		if dir == unix.AT_FDCWD && c.in.translates() {
			// it may have come to be outside of the root: see holds
			fd, err := c.open(dir, ".", unix.O_PATH|unix.O_CLOEXEC)
			return ours(fd), err
		}
		return c.in.meant(c.descriptor(dir)), nil
	}
	if flags&unix.AT_SYMLINK_NOFOLLOW == 0 {
		if n, ok := descriptorName(name); ok {
			return c.in.meant(c.descriptor(n)), nil
		}
	}
	if c.in != nil && c.in.special != nil {
		if fd, ok, err := c.in.special(c.Request, name, flags&unix.AT_SYMLINK_NOFOLLOW == 0); ok {
			if err != nil {
				return file{}, err
			}
			return ours(fd), nil
		}
	}
	open := uint64(unix.O_PATH | unix.O_CLOEXEC)
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		open |= unix.O_NOFOLLOW
	}
	fd, err := c.open(dir, name, open)
	if err != nil {
		return file{}, err
	}
	return c.in.device(ours(fd))
}

// descriptorName: names of one's own descriptors mean the caller's, not the
// keeper's.
func descriptorName(name string) (int32, bool) {
	for i, std := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if name == std {
			return int32(i), true
		}
	}
	for _, prefix := range []string{"/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			n, err := strconv.ParseInt(rest, 10, 32)
			return int32(n), err == nil && n >= 0
		}
	}
	return 0, false
}

// belowDescriptor is what a path names below one of one's own descriptors.
func belowDescriptor(name string) (n int32, below string, ok bool) {
	for _, prefix := range []string{"/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			number, below, _ := strings.Cut(rest, "/")
			n, err := strconv.ParseInt(number, 10, 32)
			below = strings.TrimLeft(below, "/")
			return int32(n), below, err == nil && n >= 0 && below != ""
		}
	}
	return 0, "", false
}

// open opens a path as the caller would, but through no magic link of /proc:
// that of another process might lead out of the caller's root.
func (c call) open(dir int32, name string, flags uint64) (int, error) {
	if n, below, ok := belowDescriptor(name); ok {
		dir, name = n, below
	}
	who, asks := c.asks()
	if !strings.HasPrefix(name, "/") {
		from := c.descriptor(dir)
		base, err := unix.Open(from.path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, from.why(err)
		}
		if !c.in.holds(base) {
			unix.Close(base)
			return -1, unix.ENOENT
		}
		defer unix.Close(base)
		if asks {
			return c.walk(who, base, name, flags)
		}
		fd, err := openat2(base, name, flags, unix.RESOLVE_BENEATH)
		if !errors.Is(err, unix.EXDEV) {
			return fd, err
		}
		// out of the directory: by the whole name instead
		if name, err = c.absolute(dir, name); err != nil {
			return -1, err
		}
	}
	if asks {
		return c.walk(who, -1, name, flags)
	}
	if c.in.translates() {
		return openat2(int(c.in.root.Fd()), name, flags, unix.RESOLVE_IN_ROOT)
	}
	r, err := c.roots.take(c)
	if err != nil {
		return -1, err
	}
	defer c.roots.put(r)
	return openat2(r.fd, name, flags, unix.RESOLVE_IN_ROOT)
}

// absolute is a relative name from the caller's root on. Nothing is cleaned:
// what stands before ".." may be a link.
func (c call) absolute(dir int32, name string) (string, error) {
	base, err := readlink(c.descriptor(dir).path)
	if err != nil {
		return "", err
	}
	root := ""
	if c.in.translates() {
		root = c.in.path
	} else if root, err = readlink(c.proc("root")); err != nil {
		return "", err
	}
	if root != "/" {
		rest, ok := strings.CutPrefix(base, root)
		if !ok || rest != "" && rest[0] != '/' {
			return "", unix.ENOENT
		}
		base = rest
	}
	return base + "/" + name, nil
}

func readlink(name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlink(name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// attempts is how often a lookup is tried again that a rename disturbed.
const attempts = 100

func openat2(dir int, name string, flags, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: flags, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	for range attempts {
		fd, err = unix.Openat2(dir, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, err
}

// parent opens the directory in which a call makes something, and gives the
// name it makes there; "" when it makes nothing new.
func (c call) parent(dir int32, name string) (fd int, base string, err error) {
	trimmed := strings.TrimRight(name, "/")
	base = path.Base(trimmed)
	if trimmed == "" || base == "." || base == ".." {
		return -1, "", nil
	}
	up := trimmed[:len(trimmed)-len(base)]
	if up == "" {
		up = "."
	}
	fd, err = c.open(dir, up, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	return fd, base, err
}
