package trees

import (
	"bytes"
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blockSize is how much is read at once; most files are smaller.
const blockSize = 64 << 10

// openFile is open(2) without what a poller would need, of which files know
// nothing.
func openFile(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, mode)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// copyRegular is copyFile of a regular file, by descriptors: this is done for
// every file that a step changed. It tells how dst then looks.
func copyRegular(dst, src string, f *file, block []byte) (now *file, err error) {
	in, err := openFile(src, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(in)
	out, err := openFile(dst, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := unix.Close(out); err == nil && cerr != nil {
			err = &os.PathError{Op: "close", Path: dst, Err: cerr}
		}
	}()
	if err := pour(out, in, f.Size, block); err != nil {
		return nil, &os.PathError{Op: "copy", Path: dst, Err: err}
	}
	if err := dress(out, in, f, dst, src); err != nil {
		return nil, err
	}
	now, _, err = lookAt(out, "")
	return now, err
}

// dress is copyMeta for open files, in the same order.
func dress(out, in int, f *file, dst, src string) error {
	if err := unix.Fchown(out, int(f.UID), int(f.GID)); err != nil {
		return &os.PathError{Op: "chown", Path: dst, Err: err}
	}
	if err := unix.Fchmod(out, f.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: dst, Err: err}
	}
	if n, err := unix.Flistxattr(in, nil); err != nil || n > 0 { // few have any
		if err := copyXattrs(dst, src); err != nil {
			return err
		}
	}
	t := unix.NsecToTimespec(f.Mtime)
	times := [2]unix.Timespec{t, t}
	// futimens(3): no name, so the descriptor itself
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(out), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0); errno != 0 {
		return &os.PathError{Op: "utimes", Path: dst, Err: errno}
	}
	return nil
}

// pour copies what is in a file of that size.
func pour(out, in int, size int64, block []byte) error {
	if size > int64(len(block)) {
		if unix.IoctlFileClone(out, in) == nil { // file systems that share blocks
			return nil
		}
		if done, err := pourRange(out, in); done || err != nil {
			return err
		}
	}
	for left := size; left > 0; {
		n, err := fill(in, block[:min(left, int64(len(block)))])
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF // deltas never change
		}
		left -= int64(n)
		for b := block[:n]; len(b) > 0; {
			n, err := unix.Write(out, b)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			b = b[max(n, 0):]
		}
	}
	return nil
}

// pourRange has the kernel copy; done is false where it cannot.
func pourRange(out, in int) (done bool, err error) {
	for copied := 0; ; {
		n, err := unix.CopyFileRange(in, nil, out, nil, 1<<30, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil && copied == 0, err == nil && n == 0 && copied == 0:
			return false, nil
		case err != nil || n == 0:
			return true, err
		default:
			copied += n
		}
	}
}

// fill reads until b is full or the file ends.
func fill(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

// sameContent reads both; a and b have the type and size of f.
func sameContent(a, b string, f *file, block []byte) (bool, error) {
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		x, err := os.Readlink(a)
		if err != nil {
			return false, err
		}
		y, err := os.Readlink(b)
		return x == y, err
	case unix.S_IFREG:
	default:
		return true, nil // what they are is in the mode and device number
	}
	x, err := openFile(a, unix.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(x)
	y, err := openFile(b, unix.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(y)
	return sameBytes(x, y, f.Size, block)
}

// sameBytes reads as many from both, half a block at a time.
func sameBytes(x, y int, size int64, block []byte) (bool, error) {
	half := len(block) / 2
	for left := size; left > 0; {
		want := int(min(left, int64(half)))
		n, errX := fill(x, block[:want])
		m, errY := fill(y, block[half:half+want])
		if err := errors.Join(errX, errY); err != nil {
			return false, err
		}
		if n != want || m != want || !bytes.Equal(block[:n], block[half:half+m]) {
			return false, nil
		}
		left -= int64(want)
	}
	return true, nil
}
