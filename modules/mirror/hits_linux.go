package mirror

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/mirror/internal/store"
)

// A file of oneWrite bytes at most goes with the head of the answer, in one write.
// Of a larger one firstWrite bytes do, and the rest from the kernel's cache to the
// socket: to copy it would cost more than another call.
const (
	oneWrite   = 64 << 10
	firstWrite = 4 << 10
)

// send writes an answer anew. false: the file is not what it was, and nothing
// has been written. given is called before anything is.
func (b *hitBook) send(c net.Conn, h *hit, now time.Time, given func()) (bool, error) {
	fd, err := openFile(h.file)
	if err != nil {
		return false, nil
	}
	defer unix.Close(fd) //nolint:errcheck // it was read
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || store.RawID(&st) != h.id {
		return false, nil
	}
	store.Used(h.file, time.Unix(st.Mtim.Unix()), now)
	buf, _ := b.bufs.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
		*buf = make([]byte, 0, oneWrite+4<<10)
	}
	defer b.bufs.Put(buf)
	out := append((*buf)[:0], h.head...)
	out = append(now.UTC().AppendFormat(out, http.TimeFormat), "\r\n\r\n"...)
	begin, first := len(out), int(st.Size)
	if st.Size > oneWrite {
		first = firstWrite
	}
	out = slices.Grow(out, first)[:begin+first]
	if !fill(fd, out[begin:]) {
		return false, nil
	}
	*buf = out
	given()
	b.served.Add(1)
	if _, err := c.Write(out); err != nil || int64(first) == st.Size {
		return true, err
	}
	return true, sendRest(c, fd, st.Size-int64(first))
}

func openFile(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// fill fills p from where a file stands.
func fill(fd int, p []byte) bool {
	for len(p) > 0 {
		n, err := unix.Read(fd, p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return false
		}
		p = p[n:]
	}
	return true
}

// sendRest sends n bytes of a file from where it stands.
func sendRest(c net.Conn, fd int, n int64) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return copyRest(c, fd, n)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var sent int64
	var failed error
	handled := true
	err = raw.Write(func(dst uintptr) (done bool) {
		done, handled, failed = sendSome(int(dst), fd, n, &sent)
		return done
	})
	if failed == nil {
		failed = err
	}
	if failed != nil || handled {
		return failed
	}
	return copyRest(c, fd, n)
}

// copyRest is sendRest where the kernel does not do that.
func copyRest(c net.Conn, fd int, n int64) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(own), "")
	defer f.Close()
	_, err = io.CopyN(struct{ io.Writer }{c}, f, n)
	return err
}
