package jail

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spawner starts processes from one thread that lives as long as it. A
// parent-death signal fires when the thread that forked dies, not the process
// (prctl(2)), and Go's threads come and go.
type Spawner struct {
	requests chan spawnRequest
	mu       sync.Mutex
	closed   bool
	started  []*os.Process
}

type spawnRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// NewSpawner starts the thread.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan spawnRequest)}
	go func() {
		// never unlocked: nobody else may end or change this thread
		runtime.LockOSThread()
		for r := range s.requests {
			r.done <- r.cmd.Start()
		}
	}()
	return s
}

// Start starts cmd, which is killed when this process dies or the Spawner is
// closed, whichever is first. cmd.SysProcAttr may ask for more.
func (s *Spawner) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("starting a process: the spawner is closed")
	}
	r := spawnRequest{cmd: cmd, done: make(chan error, 1)}
	s.requests <- r
	if err := <-r.done; err != nil {
		return err
	}
	s.started = append(slices.DeleteFunc(s.started, ended), cmd.Process)
	return nil
}

// ended: somebody has waited for the process.
func ended(p *os.Process) bool { return errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone) }

// Close kills what was started and still runs, and ends the thread.
func (s *Spawner) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, p := range s.started {
		_ = p.Kill() // or it has ended
	}
	close(s.requests)
}

// DieWithParent asks for SIGKILL when the parent's forking thread dies. Every
// exec that changes credentials forgets it (prctl(2)): ask again after each.
func DieWithParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking for the parent-death signal: %w", err)
	}
	return nil
}
