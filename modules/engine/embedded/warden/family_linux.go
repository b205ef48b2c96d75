package warden

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is what /proc/PID/stat says of one.
type process struct {
	pid, parent, group int
	threads            int
	dead               bool
}

// processes lists all processes of our process namespace.
func processes() map[int]process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	out := make(map[int]process, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			out[pid] = p
		}
	}
	return out
}

func readProcess(pid int) (process, bool) {
	b, err := readSmall("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	// the name, in brackets, may hold anything
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return process{}, false
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 18 {
		return process{}, false
	}
	number := func(i int) int { n, _ := strconv.Atoi(string(f[i])); return n }
	return process{
		pid: pid, parent: number(1), group: number(2), threads: number(17),
		dead: f[0][0] == 'Z' || f[0][0] == 'X',
	}, true
}

// readSmall reads a file of /proc in one go.
func readSmall(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// family lists the living processes of the step: what descends from this one,
// to which the kernel gives whoever loses its parent.
func family() []process { return descendants(childrenOf(processes()), os.Getpid()) }

func childrenOf(all map[int]process) map[int][]process {
	children := make(map[int][]process, len(all))
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p)
	}
	return children
}

// descendants lists what lives below a process, taking it out of children.
func descendants(children map[int][]process, root int) []process {
	var out []process
	todo := []int{root}
	for len(todo) > 0 {
		pid := todo[0]
		todo = todo[1:]
		for _, p := range children[pid] {
			todo = append(todo, p.pid)
			if !p.dead {
				out = append(out, p)
			}
		}
		delete(children, pid)
	}
	return out
}

// maxDepth bounds a walk up the parents, which move while we look.
const maxDepth = 1 << 16

// member reports whether a process or thread number is one of the step's.
func member(pid int) bool {
	self := os.Getpid()
	for range maxDepth {
		if pid <= 1 || pid == self {
			return false
		}
		p, ok := readProcess(pid)
		if !ok {
			return false
		}
		if p.parent == self {
			return true
		}
		pid = p.parent
	}
	return false
}

// Wait reaps until the command ends and tells how; then it ends whatever the
// command left and reaps that. signalled is true while the command's number is
// its own: f of Signal is called under it.
func (w *Warden) Wait() (unix.WaitStatus, error) {
	pid := int(w.pid.Load())
	if w.translates() {
		return w.waitTranslated()
	}
	for {
		var ws unix.WaitStatus
		// wait without reaping, so that the number is ours until signals stop
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return ws, err
		}
		got, err := w.reap(pid, &ws)
		if err != nil && err != unix.EINTR {
			return ws, err
		}
		if got == pid && (ws.Exited() || ws.Signaled()) {
			w.end()
			return ws, nil
		}
	}
}

// reap takes one ended process away; the command's number is pid.
func (w *Warden) reap(pid int, ws *unix.WaitStatus) (int, error) {
	w.execs.mu.Lock()
	w.told.mu.Lock()
	got, err := unix.Wait4(-1, ws, unix.WNOHANG, nil)
	if got == pid {
		w.told.ended = true
	}
	w.told.mu.Unlock()
	e, ours := w.execs.m[got]
	if ours && (ws.Exited() || ws.Signaled()) {
		delete(w.execs.m, got)
	}
	w.execs.mu.Unlock()
	if ours && e.ended != nil {
		e.ended(*ws)
	}
	return got, err
}

// Signal sends the command a signal, unless it has ended.
func (w *Warden) Signal(s unix.Signal) {
	w.told.mu.Lock()
	defer w.told.mu.Unlock()
	if pid := int(w.pid.Load()); pid != 0 && !w.told.ended {
		_ = unix.Kill(pid, s)
	}
}

// Kill ends the step; reason, when it is not empty, is told as why.
func (w *Warden) Kill(reason string) {
	w.closing.Store(true) // nobody forks any more
	if reason != "" {
		w.told.because(reason)
	}
	for _, p := range family() {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
	w.Signal(unix.SIGKILL)
}

// end kills and reaps until the step has no process.
func (w *Warden) end() {
	w.closing.Store(true)
	for pause := 100 * time.Microsecond; ; {
		got, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case got > 0 || err == unix.EINTR:
			continue
		case err != nil: // there is no child
			return
		}
		for _, p := range family() {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		time.Sleep(pause)
		pause = min(2*pause, 10*time.Millisecond)
	}
}
