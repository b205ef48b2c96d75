package initproc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/warden"
	"drydock/modules/jail"
)

// control is the socket to the executor.
type control struct {
	fd    int
	buf   []byte
	files []int
	out   sync.Mutex
}

// receive reads one line; files are the descriptors that came so far.
func (c *control) receive(v any) error {
	for {
		if line, rest, ok := bytes.Cut(c.buf, []byte("\n")); ok {
			err := json.Unmarshal(line, v)
			c.buf = rest
			return err
		}
		data, oob := make([]byte, 64<<10), make([]byte, 256)
		n, oobn, _, _, err := unix.Recvmsg(c.fd, data, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		c.buf = append(c.buf, data[:n]...)
		if err := c.keep(oob[:oobn]); err != nil {
			return err
		}
	}
}

// keep remembers the descriptors of a message.
func (c *control) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		c.files = append(c.files, fds...)
	}
	return nil
}

// take gives the descriptors that came with an order.
func (c *control) take(n int) []int {
	n = min(n, len(c.files))
	fds := c.files[:n:n]
	c.files = c.files[n:]
	return fds
}

func (c *control) send(r Report, fds ...int) error {
	r.Files = len(fds)
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
	if os.Args[0] == warden.StarterName {
		return warden.StarterMain()
	}
	// nothing the executor had open may reach the command
	if err := unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(ControlFD)
	}
	// as process 1, signals nobody handles would end us by Go's default
	signal.Notify(make(chan os.Signal, 1))
	c := &control{fd: ControlFD}
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
	var s Spec
	if err := c.receive(&s); err != nil {
		return Report{}, fmt.Errorf("reading the step: %w", err)
	}
	if s.Contained != nil {
		return runContained(c, s)
	}
	return runIsolated(c, s)
}

// runIsolated runs a step in the namespaces this process is in.
func runIsolated(c *control, s Spec) (Report, error) {
	if err := jail.DieWithParent(); err != nil {
		return Report{}, err
	}
	if s.Emulator != nil {
		if err := emulate(*s.Emulator); err != nil {
			return Report{}, err
		}
	}
	if err := setupNetwork(c, s); err != nil {
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
	for _, r := range s.Rlimits {
		lim := syscall.Rlimit{Cur: r.Soft, Max: r.Max}
		if err := syscall.Setrlimit(r.Resource, &lim); err != nil && !errors.Is(err, unix.EPERM) {
			return Report{}, fmt.Errorf("setting resource limit %d: %w", r.Resource, err)
		}
	}
	command := Process{Args: s.Args, Env: s.Env, Cwd: s.Cwd, UID: s.UID, GID: s.GID, Groups: s.Groups, NoCapabilities: s.NoCapabilities}
	pid, err := start(command, s.Filter, []int{0, 1, 2})
	if err != nil {
		return Report{}, err
	}
	if err := c.send(Report{Started: true}); err != nil {
		return Report{}, err
	}
	return supervise(c, s, pid), nil
}

// start starts a process. Its privileges are set on a thread of its own, which
// it inherits from: filter first, since installing it needs what is then
// dropped. The thread ends with that, and is never used for anything else.
func start(p Process, filter jail.Filter, fds []int) (int, error) {
	path, err := lookPath(p)
	if err != nil {
		return 0, err
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		pid, err := confinedStart(p, path, filter, fds)
		done <- result{pid, err}
	}()
	r := <-done
	return r.pid, r.err
}

func confinedStart(p Process, path string, filter jail.Filter, fds []int) (int, error) {
	unix.Umask(0o022)
	if err := filter.Install(); err != nil {
		return 0, err
	}
	keep := jail.DefaultCapabilities
	if p.NoCapabilities {
		keep = 0
	}
	if err := jail.KeepCapabilities(keep); err != nil {
		return 0, err
	}
	var files []uintptr
	for _, fd := range fds {
		files = append(files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(path, p.Args, &syscall.ProcAttr{
		Dir: p.Cwd, Env: p.Env, Files: files,
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: p.UID, Gid: p.GID, Groups: p.Groups},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %q in %s: %w", p.Args[0], p.Cwd, err)
	}
	return pid, nil
}

// lookPath finds the command as a shell would, in the step's own PATH.
func lookPath(p Process) (string, error) { return lookPathWith(p.Args, p.Env, p.Cwd, os.Stat) }

func ending(ws unix.WaitStatus) Report {
	if ws.Signaled() {
		return Report{Exited: true, Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Report{Exited: true, Code: ws.ExitStatus()}
}
