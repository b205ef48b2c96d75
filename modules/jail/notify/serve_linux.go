package notify

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctls of a listener (linux/seccomp.h), the same on every little-endian
// architecture built for.
const (
	ioctlReceive  = unix.SECCOMP_IOCTL_NOTIF_RECV
	ioctlSend     = unix.SECCOMP_IOCTL_NOTIF_SEND
	ioctlValid    = 0x40082102
	ioctlAddFD    = 0x40182103
	ioctlSetFlags = 0x40082104
)

// data is struct seccomp_data, notification struct seccomp_notif, answer
// struct seccomp_notif_resp, addFD struct seccomp_notif_addfd.
type data struct {
	nr   int32
	arch uint32
	ip   uint64
	args [6]uint64
}

type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	data  data
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

type addFD struct {
	id       uint64
	flags    uint32
	fd       uint32
	newFD    uint32
	newFlags uint32
}

// Request is a system call that waits for an answer.
type Request struct {
	ID   uint64    // of this call; never used again
	PID  int       // the calling thread, in our process namespace; 0 when it is not in it
	Call int       // the call's number, as unix.SYS_…
	Args [6]uint64 // as passed: the kernel reads an int as the low 32 bits

	listener int
}

type answerKind int

const (
	answerValue answerKind = iota
	answerContinue
	answerFD
)

// Response is how a call ends.
type Response struct {
	kind    answerKind
	value   int64
	errno   unix.Errno
	fd      int
	cloexec bool
	give    bool
}

// Return ends the call with a value, 0 or more.
func Return(value int64) Response { return Response{value: value} }

// Errno ends the call with an error; 0 is success.
func Errno(e unix.Errno) Response { return Response{errno: e} }

// Continue lets the kernel execute the call. It reads the arguments anew:
// what was decided from the caller's memory does not bind it.
func Continue() Response { return Response{kind: answerContinue} }

// AddFD ends the call with a new descriptor, in the caller, of the open file
// that fd is here. fd stays open.
func AddFD(fd int, cloexec bool) Response {
	return Response{kind: answerFD, fd: fd, cloexec: cloexec}
}

// GiveFD is AddFD and closes fd afterwards, however it went.
func GiveFD(fd int, cloexec bool) Response {
	return Response{kind: answerFD, fd: fd, cloexec: cloexec, give: true}
}

// Serve answers calls until every process under the filter has ended. handle
// is called by as many goroutines at a time as workers says, at least one:
// while all of them handle, further calls wait. A handler that never blocks is
// fastest with one. The listener stays open.
func Serve(listener *os.File, workers int, handle func(*Request) Response) error {
	return (&server{listener: listener, workers: workers, handle: handle}).serve()
}

// ServeLasting is Serve for a filter that this process is under itself, in one
// thread: it never ends by itself, so that its end need not be waited for. What
// quick answers, it answers one by one and must not block for; of what it does
// not (ok is false) handle is asked. That is how most calls cost one change of
// threads and not several.
func ServeLasting(listener *os.File, workers int, quick func(*Request) (r Response, ok bool), handle func(*Request) Response) error {
	return (&server{listener: listener, workers: workers, quick: quick, handle: handle, lasting: true}).serve()
}

// server answers what comes to a listener.
type server struct {
	listener *os.File
	workers  int
	quick    func(*Request) (Response, bool)
	handle   func(*Request) Response
	lasting  bool

	turn sync.Mutex // one waits for a call at a time: a receive cannot be interrupted
}

func (s *server) serve() error {
	fd := int(s.listener.Fd())
	defer runtime.KeepAlive(s.listener)
	// the waiting thread and ours take turns on one processor (Linux 6.6)
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	n := max(s.workers, 1)
	errs := make(chan error, n)
	for range n {
		go func() { errs <- s.work(fd) }()
	}
	var failed error
	for range n {
		failed = errors.Join(failed, <-errs)
	}
	return failed
}

func (s *server) work(fd int) error {
	for {
		r, err := s.next(fd)
		if err != nil || r == nil {
			return err
		}
		if err := r.answer(s.handle(r)); err != nil {
			return err
		}
	}
}

// next waits for a call that takes longer, answering the others.
func (s *server) next(fd int) (*Request, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	for {
		r, err := s.receive(fd)
		if err != nil || r == nil || s.quick == nil {
			return r, err
		}
		p, ok := s.quick(r)
		if !ok {
			return r, nil
		}
		if err := r.answer(p); err != nil {
			return nil, err
		}
	}
}

// receive waits for a call; nil when nobody is left who could make one.
func (s *server) receive(fd int) (*Request, error) {
	for {
		if !s.lasting {
			if ok, err := await(fd); err != nil || !ok {
				return nil, err
			}
		}
		var n notification
		err := ioctl(fd, ioctlReceive, unsafe.Pointer(&n))
		switch {
		case err == nil:
			return &Request{ID: n.id, PID: int(n.pid), Call: int(n.data.nr), Args: n.data.args, listener: fd}, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // the caller was killed meanwhile
		default:
			return nil, fmt.Errorf("receiving a system call: %w", err)
		}
	}
}

// await waits until there is a call; false when there never will be one.
func await(fd int) (bool, error) {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return false, fmt.Errorf("waiting for system calls: %w", err)
		}
		switch {
		case poll[0].Revents&unix.POLLIN != 0:
			return true, nil
		case poll[0].Revents&unix.POLLHUP != 0:
			return false, nil
		}
		return false, fmt.Errorf("waiting for system calls: events %#x", poll[0].Revents)
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// answer sends the response. A caller that is gone needs none.
func (r *Request) answer(p Response) error {
	if p.give {
		defer unix.Close(p.fd)
	}
	a := answer{id: r.ID, value: p.value, errno: -int32(p.errno)}
	switch p.kind {
	case answerContinue:
		a = answer{id: r.ID, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	case answerFD:
		// Not with SECCOMP_ADDFD_FLAG_SEND, which does both: when a signal to
		// this thread interrupts that before the caller runs, the call has
		// ended, successfully and with the number 0. Seen with Linux 6.18.
		n, err := r.add(p.fd, -1, p.cloexec)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		a.value = int64(n)
		if err != nil {
			a.value, a.errno = 0, -int32(errnoOf(err))
		}
	}
	err := ioctl(r.listener, ioctlSend, unsafe.Pointer(&a))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("answering a system call: %w", err)
	}
	return nil
}

// errnoOf is what the caller is told: its own limits as they are.
func errnoOf(err error) unix.Errno {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return unix.EIO
}

// PutFD gives the caller a descriptor of the open file that fd is here,
// without ending the call, and returns its number there. at is the number to
// take, replacing what it is, or -1 for a free one.
func (r *Request) PutFD(fd, at int, cloexec bool) (int, error) {
	n, err := r.add(fd, at, cloexec)
	if err != nil {
		return -1, fmt.Errorf("giving a process a descriptor: %w", err)
	}
	return n, nil
}

// add does it once, however often it is interrupted: what the caller has not
// taken then is withdrawn.
func (r *Request) add(fd, at int, cloexec bool) (int, error) {
	a := addFD{id: r.ID, fd: uint32(fd)}
	if at >= 0 {
		a.flags |= unix.SECCOMP_ADDFD_FLAG_SETFD
		a.newFD = uint32(at)
	}
	if cloexec {
		a.newFlags = unix.O_CLOEXEC
	}
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.listener), ioctlAddFD, uintptr(unsafe.Pointer(&a)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// Valid reports whether the caller still waits. Only then is PID still its.
func (r *Request) Valid() bool {
	id := r.ID
	return ioctl(r.listener, ioctlValid, unsafe.Pointer(&id)) == nil
}
