package notify

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrGone says that the caller does not wait any more: what was read is not
// its.
var ErrGone = errors.New("the calling process is gone")

// pageSize divides every page size there is.
const pageSize = 4096

// ReadMemory fills b from the caller's memory at addr. The error is EFAULT
// when that is not all mapped, EPERM when the kernel does not let us look:
// without CAP_SYS_PTRACE that is so for a process which changed its user or
// group and has not executed a program since (open /proc/PID/mem before it
// does). See ErrGone for the rest.
func (r *Request) ReadMemory(addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := r.transfer(unix.SYS_PROCESS_VM_READV, addr, b)
	if err != nil {
		return err
	}
	if n != len(b) {
		return fmt.Errorf("reading a process's memory: %w", unix.EFAULT)
	}
	return nil
}

// ReadString reads up to a null byte, of at most limit bytes with it; a longer
// one is ENAMETOOLONG.
func (r *Request) ReadString(addr uint64, limit int) (string, error) {
	var b []byte
	for len(b) < limit {
		// up to the end of the page: the next may not be mapped
		n := min(int(pageSize-addr%pageSize), limit-len(b), 256)
		from := len(b)
		b = slices.Grow(b, n)[:from+n]
		if err := r.ReadMemory(addr, b[from:]); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b[from:], 0); i >= 0 {
			return string(b[:from+i]), nil
		}
		addr += uint64(n)
	}
	return "", fmt.Errorf("reading a process's memory: %w", unix.ENAMETOOLONG)
}

// WriteMemory writes b into the caller's memory at addr; errors are as
// ReadMemory's. A caller that was killed meanwhile cannot be told apart before
// the write: the kernel does not give its number to another while it waits,
// so Valid is asked first.
func (r *Request) WriteMemory(addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if !r.Valid() {
		return ErrGone
	}
	n, err := r.transfer(unix.SYS_PROCESS_VM_WRITEV, addr, b)
	if err != nil {
		return err
	}
	if n != len(b) {
		return fmt.Errorf("writing a process's memory: %w", unix.EFAULT)
	}
	return nil
}

// transfer moves memory as this thread and, when that is refused, as a thread
// that took the caller's ids: the kernel then asks no capability.
func (r *Request) transfer(call uintptr, addr uint64, b []byte) (int, error) {
	if r.PID == 0 {
		return 0, ErrGone
	}
	n, errno := vm(call, r.PID, addr, b)
	if errno == unix.EPERM && os.Geteuid() == 0 {
		n, errno = r.asCaller(call, addr, b)
	}
	if !r.Valid() {
		return 0, ErrGone
	}
	if errno == unix.ESRCH {
		return 0, ErrGone
	}
	if errno != 0 {
		return 0, fmt.Errorf("looking into a process's memory: %w", errno)
	}
	return n, nil
}

func vm(call uintptr, pid int, addr uint64, b []byte) (int, unix.Errno) {
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(b)}
	n, _, errno := unix.Syscall6(call, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	runtime.KeepAlive(b)
	if errno == unix.EPERM || errno == unix.ENOSYS {
		// older containers' seccomp profiles refuse the call to all (Docker 20.10)
		return memoryFile(call, pid, addr, b)
	}
	return int(n), errno
}

// memoryFile is vm by proc(5): the same rights are asked for.
func memoryFile(call uintptr, pid int, addr uint64, b []byte) (n int, errno unix.Errno) {
	flags, move := unix.O_RDONLY, unix.Pread
	if call == unix.SYS_PROCESS_VM_WRITEV {
		flags, move = unix.O_WRONLY, unix.Pwrite
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/mem", pid), flags|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		n, err = move(fd, b, int64(addr))
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return 0, unix.ESRCH
	case errors.Is(err, unix.EACCES):
		return 0, unix.EPERM
	case errors.Is(err, unix.EIO) || err == nil && n == 0:
		return 0, unix.EFAULT // not mapped
	case err != nil:
		errors.As(err, &errno)
		return 0, errno
	}
	return n, 0
}

// asCaller runs vm on a thread of its own, which ends with the goroutine that
// is locked to it.
func (r *Request) asCaller(call uintptr, addr uint64, b []byte) (n int, errno unix.Errno) {
	uid, gid, err := owner(r.PID)
	if err != nil {
		return 0, unix.EPERM
	}
	onOtherThread(func() {
		n, errno = 0, unix.EPERM
		// the raw calls: ids of this thread only
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
			return
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
			return
		}
		n, errno = vm(call, r.PID, addr, b)
	})
	return n, errno
}

// onOtherThread runs f on a thread that is not used again. It is not the
// first one, which /proc shows as the process.
func onOtherThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onOtherThread(f)
			runtime.UnlockOSThread()
			return
		}
		f() // and never unlock: the thread ends with the goroutine
	}()
	<-done
}

// owner reads the effective ids of a process.
func owner(pid int) (uid, gid uintptr, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	var found int
	for line := range bytes.Lines(b) {
		var a, e uintptr
		if n, _ := fmt.Sscanf(string(line), "Uid:\t%d\t%d", &a, &e); n == 2 {
			uid = e
			found++
		}
		if n, _ := fmt.Sscanf(string(line), "Gid:\t%d\t%d", &a, &e); n == 2 {
			gid = e
			found++
		}
	}
	if found != 2 {
		return 0, 0, errors.New("its ids are not told")
	}
	return uid, gid, nil
}
