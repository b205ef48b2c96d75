package blackbox

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeDelay is how long output is still read once a process ended whose
// children hold its pipes open.
const pipeDelay = 500 * time.Millisecond

// process is a started program in a session of its own.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	code int           // then: its exit code, 128 and the number for a signal
	how  string        // then: how it ended, in words
}

// start runs argv with exactly env.
func start(argv, env []string, dir string, stdout, stderr io.Writer) (*process, error) {
	if len(argv) == 0 {
		return nil, errors.New("there is nothing to run: the image has neither entrypoint nor cmd")
	}
	file, err := find(argv[0], env, dir)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: file, Args: argv, Env: env, Dir: dir, Stdout: stdout, Stderr: stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, WaitDelay: pipeDelay,
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
		p.how = cmd.ProcessState.String()
		p.code = cmd.ProcessState.ExitCode()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			p.code = 128 + int(ws.Signal())
		}
	}()
	return p, nil
}

// terminate asks the process to end, as a container engine does.
func (p *process) terminate() { _ = p.cmd.Process.Signal(unix.SIGTERM) }

// kill ends everything in the process's session group.
func (p *process) kill() { _ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) }

// becomeReaper makes orphans of the tests our children, so that none is
// forgotten.
func becomeReaper() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// reapAll kills and reaps whatever a test left behind. Killing a process makes
// its children ours, so it goes on until there is none.
func reapAll() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		kids := children()
		if len(kids) == 0 {
			return
		}
		for _, pid := range kids {
			_ = unix.Kill(pid, unix.SIGKILL)
			var ws unix.WaitStatus
			_, _ = unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// children are the processes whose parent we are (proc(5), stat).
func children() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	self := strconv.Itoa(os.Getpid())
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(raw), ") ") // the name may hold anything but ends at the last )
		if i := strings.LastIndex(string(raw), ") "); i >= 0 {
			after = string(raw)[i+2:]
		}
		if f := strings.Fields(after); len(f) > 1 && f[1] == self {
			out = append(out, pid)
		}
	}
	return out
}
