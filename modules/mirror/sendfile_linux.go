package mirror

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendChunk bounds one call, which the kernel does at 2 GiB as well.
const sendChunk = 4 << 20

// sendFile writes up to n bytes of a file, from where it stands, to a stream
// socket. handled is false when the kernel does not do that here: then the
// caller goes on from where the file now stands.
func sendFile(c net.Conn, f *os.File, n int64) (sent int64, handled bool, err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, false, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	from, err := f.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	var failed error
	handled = true
	err = from.Control(func(src uintptr) {
		werr := raw.Write(func(dst uintptr) (done bool) {
			done, handled, failed = sendSome(int(dst), int(src), n, &sent)
			return done
		})
		if failed == nil {
			failed = werr
		}
	})
	if failed == nil {
		failed = err
	}
	return sent, handled, failed
}

// sendSome sends until there is no more, or the socket takes no more: done is
// false then.
func sendSome(dst, src int, n int64, sent *int64) (done, handled bool, err error) {
	for *sent < n {
		m, err := unix.Sendfile(dst, src, nil, int(min(n-*sent, sendChunk)))
		*sent += int64(max(m, 0))
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false, true, nil
		case *sent == 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)):
			return true, false, nil
		case err != nil:
			return true, true, os.NewSyscallError("sendfile", err)
		case m == 0:
			return true, true, io.ErrUnexpectedEOF // the file is shorter than it was
		}
	}
	return true, true, nil
}
