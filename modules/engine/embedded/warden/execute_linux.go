package warden

import (
	"bytes"
	"encoding/binary"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// program is what a thread is about to execute.
type program struct {
	name    string   // as it was called: AT_EXECFN
	inner   string   // what /proc/PID/exe is, as the step sees it
	scripts []script // the first names the second, and so on
}

// script is a program that its first line names another for.
type script struct {
	interpreter string // as the line has it
	argument    bool   // the line has one
	line        string // behind the interpreter
}

// execute has execve(2) execute what a path names in the step's root.
func (t *tracer) execute(k *tracee, regs *registers, dir int32, addr uint64, flags int) error {
	if flags&^(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW) != 0 {
		return unix.EINVAL
	}
	name, err := textOf(k.tid, addr)
	if err != nil {
		return err
	}
	fd, inner, err := t.executable(k, dir, name, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if name == "" || !strings.HasPrefix(name, "/") && dir != unix.AT_FDCWD {
		name = inner
	}
	p := &program{name: name, inner: inner}
	outside, err := t.prepare(k, p, fd, inner, 0)
	if err != nil {
		return err
	}
	if err := t.w.files.Executes(k.tid, fd); err != nil {
		return err
	}
	if len(outside) >= roomSize || len(p.strings()) > roomSize {
		return unix.ENAMETOOLONG
	}
	// as long as it may be: the program that is executed gets its room by that
	long := strings.Repeat("/", roomSize-1-len(outside)) + outside + "\x00"
	if !writeMemory(k.tid, k.space.room, []byte(long)) {
		return unix.EFAULT
	}
	if regs.call() == unix.SYS_EXECVEAT {
		regs.setArg(1, regs.arg(2))
		regs.setArg(2, regs.arg(3))
		regs.setCall(unix.SYS_EXECVE)
	}
	regs.setArg(0, k.space.room)
	k.program = p
	return nil
}

// executable opens (O_PATH) what is to be executed.
func (t *tracer) executable(k *tracee, dir int32, name string, flags int) (fd int, inner string, err error) {
	if name == "" && flags&unix.AT_EMPTY_PATH == 0 {
		return -1, "", unix.ENOENT
	}
	if a, ok := procPath(name, true, k.tid, func() int { return k.tgid }); ok && a.rest == "exe" && (a.pid == k.tgid || a.pid == k.tid) {
		if own, ok := t.programOf(k.tgid); ok {
			name = own
		}
	}
	fd, err = t.w.files.Find(k.tid, dir, name, flags)
	if err != nil {
		return -1, "", err
	}
	if err := t.w.files.Executable(k.tid, fd); err != nil {
		unix.Close(fd)
		return -1, "", err
	}
	outside := readlinkIn(unix.AT_FDCWD, descriptorPath(fd))
	if inner, ok := t.w.inside(outside); ok {
		return fd, inner, nil
	}
	return fd, outside, nil // of memory: it has no name
}

// maxLine is how much of a script the kernel looks at.
const maxLine = 255

// maxScripts is how many scripts in a row the kernel takes, each of which names
// the next (exec_binprm).
const maxScripts = 5

// prepare gives the path by which the kernel executes the program, which depth
// scripts led to.
func (t *tracer) prepare(k *tracee, p *program, fd int, inner string, depth int) (string, error) {
	start, err := startOf(fd)
	if err != nil {
		return "", err
	}
	if !bytes.HasPrefix(start, []byte("#!")) {
		p.inner = inner
		return t.w.programs.path(t, k, fd, path.Base(inner))
	}
	if depth == maxScripts {
		return "", unix.ELOOP
	}
	s, err := scriptOf(start)
	if err != nil {
		return "", err
	}
	in, innerOf, err := t.executable(k, unix.AT_FDCWD, s.interpreter, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(in)
	p.scripts = append(p.scripts, *s)
	interpreter, err := t.prepare(k, p, in, innerOf, depth+1)
	if err != nil {
		return "", err
	}
	return t.w.programs.stub(interpreter, s.line, path.Base(inner))
}

func startOf(fd int) ([]byte, error) {
	f, err := unix.Open(descriptorPath(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(f)
	b := make([]byte, maxLine)
	n, err := unix.Pread(f, b, 0)
	return b[:max(n, 0)], err
}

// scriptOf reads a first line as the kernel does (execve(2)).
func scriptOf(start []byte) (*script, error) {
	line, _, whole := bytes.Cut(start[2:], []byte("\n"))
	text := strings.Trim(string(line), " \t")
	interpreter, _, _ := strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
	if interpreter == "" || !whole && len(start) == maxLine && !strings.ContainsAny(text, " \t") {
		return nil, unix.ENOEXEC
	}
	rest := strings.Trim(text[len(interpreter):], " \t")
	return &script{interpreter: interpreter, argument: rest != "", line: rest}, nil
}

// strings are what is written into the room of the new program: its name, and
// of scripts what its arguments shall be.
func (p *program) strings() []byte {
	b := append([]byte(p.name), 0)
	for _, s := range p.scripts {
		b = append(append(b, s.interpreter...), 0)
	}
	return b
}

// executed: the thread executes its new program, and has not begun.
func (t *tracer) executed(k *tracee) {
	by := k
	if former, err := unix.PtraceGetEventMsg(k.tid); err == nil && int(former) != k.tid && t.tasks[int(former)] != nil {
		by = t.tasks[int(former)] // another thread did it, and has this number now
		delete(t.tasks, by.tid)
	}
	p, old := by.program, by.space
	k.space, k.saved, k.program = &space{}, nil, nil
	if old != nil && old.busy == by {
		t.free(old)
	}
	if p == nil {
		t.resume(k, 0)
		return
	}
	t.mu.Lock()
	t.programs[k.tgid] = p.inner
	t.mu.Unlock()
	room := auxiliary(k.tid, unix_AT_EXECFN)
	if room == 0 || !writeMemory(k.tid, room, p.strings()) || !t.rename(k, p, room) {
		_ = unix.Kill(k.tgid, unix.SIGKILL) // it would not be what was meant
	}
	k.space.room = room
	t.resume(k, 0)
}

// rename gives a script's interpreter the arguments that it would have: the
// kernel was shown other names. Of scripts that name one another it is the last
// one's interpreter that is executed, with the argument of that, its name, the
// argument of the one before, and so on.
func (t *tracer) rename(k *tracee, p *program, room uint64) bool {
	if len(p.scripts) == 0 {
		return true
	}
	regs, err := getRegisters(k.tid)
	if err != nil {
		return false
	}
	var word [8]byte
	put := func(i int, v uint64) bool { // behind argc
		binary.NativeEndian.PutUint64(word[:], v)
		return writeMemory(k.tid, regs.stack()+8*uint64(1+i), word[:])
	}
	names := []uint64{room} // of the scripts and, at the end, of what is executed
	for at, text := room+uint64(len(p.name))+1, p.scripts; len(text) > 0; text = text[1:] {
		names = append(names, at)
		at += uint64(len(text[0].interpreter)) + 1
	}
	ok, i := put(0, names[len(names)-1]), 1
	for n := len(p.scripts) - 1; n >= 0; n-- {
		if p.scripts[n].argument {
			i++
		}
		ok = ok && put(i, names[n])
		i++
	}
	return ok
}
