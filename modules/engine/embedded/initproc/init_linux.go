package initproc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// control is the socket to the executor.
type control struct {
	fd  int
	in  *bufio.Reader
	out sync.Mutex
}

func (c *control) receive(v any) error {
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

func (c *control) send(r Report, fds ...int) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	c.out.Lock()
	defer c.out.Unlock()
	return unix.Sendmsg(c.fd, append(b, '\n'), rights, nil, 0)
}

// Main runs the step that the executor sends and returns the exit code of the
// process; how the command ended goes over the socket.
func Main() int {
	// nothing the executor had open may reach the command
	if err := unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(ControlFD)
	}
	// as process 1, signals nobody handles would end us by Go's default
	signal.Notify(make(chan os.Signal, 1))
	file := os.NewFile(ControlFD, "control")
	c := &control{fd: ControlFD, in: bufio.NewReader(file)}
	report, err := run(c)
	if err != nil {
		report = Report{Error: err.Error(), NoBinfmt: errors.Is(err, errNoBinfmt)}
	}
	if err := c.send(report); err != nil {
		return 1
	}
	return 0
}

func run(c *control) (Report, error) {
	if err := jail.DieWithParent(); err != nil {
		return Report{}, err
	}
	var s Spec
	if err := c.receive(&s); err != nil {
		return Report{}, fmt.Errorf("reading the step: %w", err)
	}
	if s.Contained != nil {
		return runContained(c, s)
	}
	if s.Emulator != nil {
		if err := emulate(*s.Emulator); err != nil {
			return Report{}, err
		}
	}
	if err := setupNetwork(c, s.Gateway); err != nil {
		return Report{}, err
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return Report{}, fmt.Errorf("setting the host name: %w", err)
	}
	if err := enterRoot(s); err != nil {
		return Report{}, err
	}
	// the command must not look into this process
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return Report{}, fmt.Errorf("closing this process to the step: %w", err)
	}
	var o Order
	if err := c.receive(&o); err != nil || !o.Go {
		return Report{}, fmt.Errorf("waiting for the executor: %w", err)
	}
	pid, err := start(s)
	if err != nil {
		return Report{}, err
	}
	if err := c.send(Report{Started: true}); err != nil {
		return Report{}, err
	}
	return supervise(c, pid), nil
}

// start starts the command. Its privileges are set on this thread, which the
// command inherits from: filter first, since installing it needs what is then
// dropped. The thread is never given back.
func start(s Spec) (int, error) {
	path, err := lookPath(s)
	if err != nil {
		return 0, err
	}
	for _, r := range s.Rlimits {
		lim := syscall.Rlimit{Cur: r.Soft, Max: r.Max}
		if err := syscall.Setrlimit(r.Resource, &lim); err != nil && !errors.Is(err, unix.EPERM) {
			return 0, fmt.Errorf("setting resource limit %d: %w", r.Resource, err)
		}
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		pid, err := confinedStart(s, path)
		done <- result{pid, err}
		select {}
	}()
	r := <-done
	return r.pid, r.err
}

func confinedStart(s Spec, path string) (int, error) {
	unix.Umask(0o022)
	if err := s.Filter.Install(); err != nil {
		return 0, err
	}
	keep := jail.DefaultCapabilities
	if s.NoCapabilities {
		keep = 0
	}
	if err := jail.KeepCapabilities(keep); err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(path, s.Args, &syscall.ProcAttr{
		Dir: s.Cwd, Env: s.Env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: s.UID, Gid: s.GID, Groups: s.Groups},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %q in %s: %w", s.Args[0], s.Cwd, err)
	}
	return pid, nil
}

// lookPath finds the command as a shell would, in the step's own PATH.
func lookPath(s Spec) (string, error) { return lookPathWith(s, os.Stat) }

// supervise reaps until the command ends, passing signals on meanwhile.
func supervise(c *control, pid int) Report {
	var mu sync.Mutex
	ended := false
	go func() {
		for {
			var o Order
			if c.receive(&o) != nil {
				return
			}
			mu.Lock()
			if o.Signal > 0 && !ended {
				_ = unix.Kill(pid, unix.Signal(o.Signal))
			}
			mu.Unlock()
		}
	}()
	for {
		var ws unix.WaitStatus
		// wait without reaping, so that the number is ours until signals stop
		if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil); errors.Is(err, unix.EINTR) {
			continue
		}
		mu.Lock()
		got, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if got == pid {
			ended = true
		}
		mu.Unlock()
		if err != nil && !errors.Is(err, unix.EINTR) {
			return Report{Error: "waiting for the command: " + err.Error()}
		}
		if got == pid && (ws.Exited() || ws.Signaled()) {
			return ending(ws)
		}
	}
}

func ending(ws unix.WaitStatus) Report {
	if ws.Signaled() {
		return Report{Exited: true, Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Report{Exited: true, Code: ws.ExitStatus()}
}
