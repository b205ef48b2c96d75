package notify

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Install puts a filter on the calling thread and what it starts, and returns
// the listener on which its notifications arrive. It needs no-new-privs or
// CAP_SYS_ADMIN. Give the listener to the supervisor and close it here: calls
// of this thread that the filter hands over wait for an answer too, and fail
// with ENOSYS when nobody holds the listener any more. A process has one
// listener at most: under an older one this fails with EBUSY.
func Install(filter []unix.SockFilter) (*os.File, error) {
	if len(filter) == 0 {
		return nil, errors.New("installing the seccomp filter: it is empty")
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	install := func(flags uintptr) (uintptr, unix.Errno) {
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		return fd, errno
	}
	// a call that was received is not interrupted by signals (Linux 5.19), so
	// that what the supervisor did for it is not asked for twice
	fd, errno := install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if errno == unix.EINVAL {
		fd, errno = install(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	}
	if errno != 0 {
		return nil, fmt.Errorf("installing the seccomp filter: %w", errno)
	}
	return os.NewFile(fd, "seccomp listener"), nil
}

// Pass sends the listener, with one byte of data, over a unix socket.
func Pass(socket int, listener *os.File) error {
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(int(listener.Fd())), nil, 0); err != nil {
		return fmt.Errorf("passing the seccomp listener: %w", err)
	}
	return nil
}

// Accept receives what Pass sends.
func Accept(socket int) (*os.File, error) {
	data, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(socket, data, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receiving the seccomp listener: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || n != 1 || len(msgs) != 1 {
		return nil, errors.New("receiving the seccomp listener: the message has none")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("receiving the seccomp listener: the message has none")
	}
	return os.NewFile(uintptr(fds[0]), "seccomp listener"), nil
}
