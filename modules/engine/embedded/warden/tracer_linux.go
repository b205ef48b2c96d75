package warden

import (
	"encoding/binary"
	"os"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// What a step without a root of its own does is told to us by notifications,
// and done by us, but for two things the kernel must do with a path: change the
// working directory and execute a program. For these the step is traced
// (ptrace(2)): its thread stops at the call, is given another path, and goes on.
// A step that changes that path meanwhile reaches what Landlock lets it.

const (
	traceSeize  = 0x4206
	traceListen = 0x4208

	traceOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL

	syscallStop = int(unix.SIGTRAP) | 0x80
)

// space is the memory of one or more processes. In it lies the path the program
// was executed by (AT_EXECFN), which we make as long as the kernel takes: room
// to write in that nobody else uses, in a place that is always there.
type space struct {
	room  uint64 // address; 0: not looked for yet
	busy  *tracee
	queue []*tracee
	kept  []byte // what the room had
}

// tracee is a thread of the step.
type tracee struct {
	tid, tgid int
	known     bool // its parent's stop told of it
	waits     bool // it has stopped for that
	space     *space
	saved     *registers // as it made the call that is going on
	program   *program   // that it is about to execute
}

// tracer follows every thread of a step. Only its own thread may use it, but
// for programs.
type tracer struct {
	w     *Warden
	tasks map[int]*tracee

	starter int // starts the step's commands; of it the step has no program

	mu       sync.Mutex
	programs map[int]string // what each process executes, as the step sees it
	begun    map[int]bool   // that the starter started, until somebody asks
}

// started reports, once, that the starter started a process of that number.
func (t *tracer) started(pid int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ok := t.begun[pid]
	delete(t.begun, pid)
	return ok
}

// follow traces the process that starts the step's commands and all that
// descends from it, until nothing is left. seized is told when it is traced.
func (t *tracer) follow(pid int, seized chan<- error) {
	runtime.LockOSThread() // only one thread may trace
	defer runtime.UnlockOSThread()
	t.starter = pid
	if err := t.seize(pid); err != nil {
		seized <- err
		return
	}
	seized <- nil
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // nobody is left
			return
		}
		t.event(tid, ws)
	}
}

// seize traces every thread that a process has: its runtime may have started
// some, and what an untraced one starts is not traced.
func (t *tracer) seize(pid int) error {
	memory := &space{}
	for found := true; found; {
		found = false
		threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
		if err != nil {
			return err
		}
		for _, e := range threads {
			tid, err := strconv.Atoi(e.Name())
			if err != nil || t.tasks[tid] != nil {
				continue
			}
			_, _, errno := unix.Syscall6(unix.SYS_PTRACE, traceSeize, uintptr(tid), 0, traceOptions, 0, 0)
			switch {
			case errno == 0:
				t.tasks[tid] = &tracee{tid: tid, tgid: pid, known: true, space: memory}
				found = true
			case tid == pid: // another thread may have ended, or is traced since one that is started it
				return errno
			}
		}
	}
	return nil
}

func (t *tracer) event(tid int, ws unix.WaitStatus) {
	k := t.tasks[tid]
	if ws.Exited() || ws.Signaled() {
		if k != nil {
			t.gone(k)
		}
		t.w.ended(tid, ws)
		return
	}
	if !ws.Stopped() {
		return
	}
	if k == nil {
		k = &tracee{tid: tid, tgid: tid}
		t.tasks[tid] = k
	}
	sig := int(ws.StopSignal())
	switch event := int(uint32(ws) >> 16); {
	case event == unix.PTRACE_EVENT_STOP && sig == int(unix.SIGTRAP):
		if k.waits = !k.known; k.known {
			t.resume(k, 0)
		}
	case event == unix.PTRACE_EVENT_STOP: // stopped as its job
		_, _, _ = unix.Syscall6(unix.SYS_PTRACE, traceListen, uintptr(tid), 0, 0, 0, 0)
	case event == unix.PTRACE_EVENT_SECCOMP:
		t.stopped(k)
	case event == unix.PTRACE_EVENT_EXEC:
		t.executed(k)
	case event != 0:
		t.forked(k, event)
	case sig == syscallStop:
		t.returned(k)
	default:
		t.resume(k, sig)
	}
}

// resume lets a thread go on. One that was killed meanwhile tells so itself.
func (t *tracer) resume(k *tracee, signal int) { _ = unix.PtraceCont(k.tid, signal) }

// forked learns of a new thread or process.
func (t *tracer) forked(k *tracee, event int) {
	msg, err := unix.PtraceGetEventMsg(k.tid)
	tid := int(msg)
	if err != nil || tid == 0 {
		t.resume(k, 0)
		return
	}
	c := t.tasks[tid]
	if c == nil {
		c = &tracee{tid: tid, tgid: tid}
		t.tasks[tid] = c
	}
	// which event it is says what the parent is told in the end, not what is shared
	shared := event == unix.PTRACE_EVENT_VFORK
	if regs, err := getRegisters(k.tid); err == nil && regs.call() == unix.SYS_CLONE {
		shared = regs.arg(0)&unix.CLONE_VM != 0
		if regs.arg(0)&unix.CLONE_THREAD != 0 {
			c.tgid = k.tgid
		}
	}
	if c.space = k.space; !shared {
		c.space = &space{room: k.space.room}
	}
	t.mu.Lock()
	if c.tgid == c.tid {
		t.programs[c.tgid] = t.programs[k.tgid]
		if k.tgid == t.starter {
			t.begun[c.tgid] = true
		}
	}
	t.mu.Unlock()
	c.known = true
	if c.waits {
		c.waits = false
		t.resume(c, 0)
	}
	t.resume(k, 0)
}

// gone forgets a thread.
func (t *tracer) gone(k *tracee) {
	delete(t.tasks, k.tid)
	if k.tid == k.tgid {
		t.mu.Lock()
		delete(t.programs, k.tgid)
		t.mu.Unlock()
	}
	t.release(k)
}

// programOf is what a process executes.
func (t *tracer) programOf(tgid int) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.programs[tgid]
	return p, ok && p != ""
}

// take gives a thread the room of its memory; false when another has it, after
// which the thread's call is looked at again.
func (t *tracer) take(k *tracee) bool {
	s := k.space
	if s.busy != nil && s.busy != k {
		s.queue = append(s.queue, k)
		return false
	}
	if s.room == 0 {
		s.room = auxiliary(k.tid, unix_AT_EXECFN)
	}
	if s.room != 0 {
		s.kept = make([]byte, roomSize)
		if !readMemory(k.tid, s.room, s.kept) {
			s.room = 0
		}
	}
	s.busy = k
	return true
}

// release puts back what was in the room and lets the next have it.
func (t *tracer) release(k *tracee) {
	k.saved, k.program = nil, nil
	if s := k.space; s != nil && s.busy == k {
		t.free(s)
	}
}

func (t *tracer) free(s *space) {
	s.busy = nil
	for _, other := range t.tasks {
		if other.space == s && s.room != 0 && s.kept != nil {
			if writeMemory(other.tid, s.room, s.kept) {
				break
			}
		}
	}
	s.kept = nil
	for len(s.queue) > 0 && s.busy == nil {
		next := s.queue[0]
		s.queue = s.queue[1:]
		if t.tasks[next.tid] == next {
			t.stopped(next)
		}
	}
}

// stopped looks at a call the step's filter stops at.
func (t *tracer) stopped(k *tracee) {
	if k.space == nil || !t.take(k) {
		return
	}
	regs, err := getRegisters(k.tid)
	if err != nil {
		t.release(k)
		t.resume(k, 0)
		return
	}
	saved := regs
	k.saved = &saved
	if k.space.room == 0 {
		err = unix.EFAULT
	} else {
		switch regs.call() {
		case unix.SYS_CHDIR:
			err = t.givePath(k, &regs, 0)
		case unix.SYS_EXECVE:
			err = t.execute(k, &regs, unix.AT_FDCWD, regs.arg(0), 0)
		case unix.SYS_EXECVEAT:
			err = t.execute(k, &regs, int32(regs.arg(0)), regs.arg(1), int(int32(regs.arg(4))))
		default:
			err = unix.ENOSYS
		}
	}
	if err != nil { // the call is not made
		regs.setCall(-1)
		regs.setResult(-int64(errnoOf(err)))
		_ = regs.set(k.tid)
		t.release(k)
		t.resume(k, 0)
		return
	}
	_ = regs.set(k.tid)
	_ = unix.PtraceSyscall(k.tid, 0) // it stops again as the call ends
}

// givePath has a call take the path outside of what one of its arguments names.
func (t *tracer) givePath(k *tracee, regs *registers, arg int) error {
	name, err := textOf(k.tid, regs.arg(arg))
	if err != nil {
		return err
	}
	fd, err := t.w.files.Find(k.tid, unix.AT_FDCWD, name, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	outside := readlinkIn(unix.AT_FDCWD, descriptorPath(fd))
	if _, ok := t.w.inside(outside); !ok {
		return unix.ENOENT
	}
	if err := t.w.files.Enters(k.tid, fd); err != nil {
		return err
	}
	if len(outside)+1 > roomSize {
		return unix.ENAMETOOLONG
	}
	at := k.space.room + roomSize - uint64(len(outside)) - 1
	if !writeMemory(k.tid, at, append([]byte(outside), 0)) {
		return unix.EFAULT
	}
	regs.setArg(arg, at)
	return nil
}

// returned: a call ended. Its arguments are again what the caller gave.
func (t *tracer) returned(k *tracee) {
	if k.saved != nil {
		if regs, err := getRegisters(k.tid); err == nil {
			for i := range 6 {
				regs.setArg(i, k.saved.arg(i))
			}
			_ = regs.set(k.tid)
		}
		t.release(k)
	}
	t.resume(k, 0)
}

// unix_AT_EXECFN is of linux/auxvec.h.
const unix_AT_EXECFN = 31

// roomSize is PATH_MAX, the end included.
const roomSize = 4096

// auxiliary reads one of the values the kernel gave a program.
func auxiliary(tid int, key uint64) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/auxv")
	if err != nil {
		return 0
	}
	for ; len(b) >= 16; b = b[16:] {
		if binary.NativeEndian.Uint64(b) == key {
			return binary.NativeEndian.Uint64(b[8:])
		}
	}
	return 0
}

func memoryOf(tid, flags int) (int, error) {
	return unix.Open("/proc/"+strconv.Itoa(tid)+"/mem", flags|unix.O_CLOEXEC, 0)
}

// readMemory fills b from a stopped thread's memory.
func readMemory(tid int, addr uint64, b []byte) bool {
	fd, err := memoryOf(tid, unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Pread(fd, b, int64(addr))
	return err == nil && n == len(b)
}

func writeMemory(tid int, addr uint64, b []byte) bool {
	fd, err := memoryOf(tid, unix.O_WRONLY)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Pwrite(fd, b, int64(addr))
	return err == nil && n == len(b)
}

// textOf reads a path of a stopped thread.
func textOf(tid int, addr uint64) (string, error) {
	var out []byte
	for len(out) < maxPath {
		b := make([]byte, min(pageSize-int(addr%pageSize), 256))
		if !readMemory(tid, addr, b) {
			return "", unix.EFAULT
		}
		for i, c := range b {
			if c == 0 {
				return string(append(out, b[:i]...)), nil
			}
		}
		out = append(out, b...)
		addr += uint64(len(b))
	}
	return "", unix.ENAMETOOLONG
}
