package jail

import (
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spawner starts processes from one thread that lives as long as it. A
// parent-death signal fires when the thread that forked dies, not the process
// (prctl(2)), and Go's threads come and go.
type Spawner struct {
	requests chan spawnRequest
	stop     sync.Once
}

type spawnRequest struct {
	cmd  *exec.Cmd
	done chan error
}

// NewSpawner starts the thread.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan spawnRequest)}
	go func() {
		// never unlocked: the thread ends with the goroutine
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
	r := spawnRequest{cmd: cmd, done: make(chan error, 1)}
	s.requests <- r
	return <-r.done
}

// Close ends the thread, and with it everything it started that still runs.
func (s *Spawner) Close() { s.stop.Do(func() { close(s.requests) }) }

// DieWithParent asks for SIGKILL when the parent's forking thread dies. Every
// exec that changes credentials forgets it (prctl(2)): ask again after each.
func DieWithParent() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking for the parent-death signal: %w", err)
	}
	return nil
}
