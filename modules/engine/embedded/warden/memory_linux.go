package warden

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// errHidden: the kernel does not let us look into the caller.
var errHidden = errors.New("the process hides its memory")

// maxMemories is how many processes' memory is kept open.
const maxMemories = 256

// memories holds /proc/PID/mem of processes that were about to change their
// ids: from then on until they execute something the kernel hides them from
// whoever has not CAP_SYS_PTRACE, but what is open stays open.
type memories struct {
	mu sync.Mutex
	m  map[int]*os.File
}

func (m *memories) keep(tgid int) {
	f, err := os.OpenFile("/proc/"+strconv.Itoa(tgid)+"/mem", os.O_RDWR, 0)
	if err != nil {
		return // hidden already: what is kept is still right
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		m.m = map[int]*os.File{}
	}
	if old := m.m[tgid]; old != nil {
		old.Close()
	} else if len(m.m) >= maxMemories {
		for k, old := range m.m {
			old.Close()
			delete(m.m, k)
			break
		}
	}
	m.m[tgid] = f
}

// transfer reads or writes through a kept file; a process that has executed
// something since has another memory, and this one is empty.
func (m *memories) transfer(tgid int, write bool, addr uint64, b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.m[tgid]
	if f == nil {
		return 0, errHidden
	}
	if write {
		return f.WriteAt(b, int64(addr))
	}
	n, err := f.ReadAt(b, int64(addr))
	if n > 0 {
		return n, nil
	}
	return n, err
}

// vmAllowed: the profiles of docker before 23 and of others refuse
// process_vm_readv(2) to whom has not CAP_SYS_PTRACE, even for itself. Then
// memory is read through /proc/PID/mem, of which the kernel asks the same.
func vmAllowed() bool {
	var from, to [1]byte
	_, errno := vm(unix.SYS_PROCESS_VM_READV, unix.Getpid(), uint64(uintptr(unsafe.Pointer(&from[0]))), to[:])
	runtime.KeepAlive(&from)
	return errno == 0
}

// throughFile is vm by /proc/PID/mem.
func throughFile(r *notify.Request, write bool, addr uint64, b []byte) (int, unix.Errno) {
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if write {
		flags = unix.O_RDWR | unix.O_CLOEXEC
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(r.PID)+"/mem", flags, 0)
	if err != nil {
		if errno := errnoOf(err); errno != unix.EACCES {
			return 0, errno
		}
		return 0, unix.EPERM
	}
	defer unix.Close(fd)
	if !r.Valid() { // of another process, which has the number now
		return 0, unix.ESRCH
	}
	var n int
	if write {
		n, err = unix.Pwrite(fd, b, int64(addr))
	} else {
		n, err = unix.Pread(fd, b, int64(addr))
	}
	if err == unix.EIO { // nothing is mapped there
		return 0, unix.EFAULT
	}
	return max(n, 0), errnoOrNone(err)
}

func vm(call uintptr, pid int, addr uint64, b []byte) (int, unix.Errno) {
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(b)}
	n, _, errno := unix.Syscall6(call, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	runtime.KeepAlive(b)
	return int(n), errno
}

// transfer moves memory of a caller, as ourselves, as its user or through a
// kept file. It returns how much was moved.
func (w *Warden) transfer(r *notify.Request, write bool, addr uint64, b []byte) (int, error) {
	if r.PID == 0 || len(b) == 0 {
		return 0, unix.EFAULT
	}
	move := func() (int, unix.Errno) { return throughFile(r, write, addr, b) }
	if w.vm {
		call := uintptr(unix.SYS_PROCESS_VM_READV)
		if write {
			call = unix.SYS_PROCESS_VM_WRITEV
			if !r.Valid() { // another process may have the number
				return 0, notify.ErrGone
			}
		}
		move = func() (int, unix.Errno) { return vm(call, r.PID, addr, b) }
	}
	n, errno := move()
	if errno == unix.EPERM {
		who, ok := idsOf(r.PID)
		if !ok {
			return 0, notify.ErrGone
		}
		if who.uid != 0 || who.gid != 0 {
			w.ids.run(who.uid, who.gid, func() { n, errno = move() })
		}
		if errno == unix.EPERM {
			return w.memory.transfer(who.tgid, write, addr, b)
		}
	}
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// read fills b from the caller's memory.
func (w *Warden) read(r *notify.Request, addr uint64, b []byte) error {
	n, err := w.transfer(r, false, addr, b)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

func (w *Warden) write(r *notify.Request, addr uint64, b []byte) error {
	n, err := w.transfer(r, true, addr, b)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

const (
	pageSize = 4096 // divides every page size there is
	maxPath  = 4096
)

// text reads a string of the caller; first is how much is read at first, or up
// to the end of the page when that is nearer.
func (w *Warden) text(r *notify.Request, addr uint64) (string, error) {
	var buf [256]byte
	var out []byte
	for len(out) < maxPath {
		n := min(pageSize-int(addr%pageSize), len(buf))
		n, err := w.transfer(r, false, addr, buf[:n])
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
			return string(append(out, buf[:i]...)), nil
		}
		out = append(out, buf[:n]...)
		addr += uint64(n)
	}
	return "", unix.ENAMETOOLONG
}
