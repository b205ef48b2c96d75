package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// refusalGrace is how long a step may go on after its first refusal, so that
// what it says about it is still heard.
const refusalGrace = time.Second

const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// initSocket is the executor's end of the socket to a step's init.
type initSocket struct {
	conn *net.UnixConn
	mu   sync.Mutex
	buf  []byte
}

func (c *initSocket) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.conn.Write(append(b, '\n'))
	return err
}

// receive reads one report and the descriptors that came with it.
func (c *initSocket) receive() (initproc.Report, []*os.File, error) {
	var files []*os.File
	for {
		if line, rest, ok := bytes.Cut(c.buf, []byte("\n")); ok {
			var r initproc.Report
			err := json.Unmarshal(line, &r)
			c.buf = rest
			return r, files, err
		}
		data, oob := make([]byte, 4096), make([]byte, 256)
		n, oobn, _, _, err := c.conn.ReadMsgUnix(data, oob)
		if err != nil {
			return initproc.Report{}, files, err
		}
		if n == 0 && oobn == 0 {
			return initproc.Report{}, files, io.EOF
		}
		c.buf = append(c.buf, data[:n]...)
		files = append(files, descriptors(oob[:oobn])...)
	}
}

func descriptors(oob []byte) []*os.File {
	var out []*os.File
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			out = append(out, os.NewFile(uintptr(fd), "listener"))
		}
	}
	return out
}

func socketPair() (*initSocket, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making the step's socket: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "init")
	ours := os.NewFile(uintptr(fds[0]), "executor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making the step's socket: %w", err)
	}
	return &initSocket{conn: conn.(*net.UnixConn)}, theirs, nil
}

// execute starts the init and sees the step through.
func (s *step) execute(ctx context.Context) error {
	sock, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer sock.conn.Close()
	// nothing of the engine's environment, directory or descriptors goes along
	cmd := &exec.Cmd{
		Path: s.e.init, Args: []string{"drydock-init"}, Env: []string{}, Dir: "/",
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true},
	}
	stderr := &writer{w: s.process.Stderr}
	wait, err := s.connect(cmd, stderr)
	if err != nil {
		theirs.Close()
		return err
	}
	if err = s.nest(cmd); err == nil {
		err = s.nestError(s.e.spawner.Start(cmd))
	}
	theirs.Close()
	if err != nil {
		wait(false)
		return fmt.Errorf("starting the step's init: %w", err)
	}
	groups := newCgroups(filepath.Base(s.dir), s.process.Meta.LinuxResources)
	s.later(groups.remove)
	groups.add(cmd.Process.Pid) // it waits for us and has started nothing
	kill := func() { _ = cmd.Process.Kill() }
	stopKill := context.AfterFunc(ctx, kill)
	defer stopKill()

	g := &link{vertex: s.vertex, socket: s.socket, stderr: stderr, kill: kill}
	report, err := s.converse(sock, g)
	if err != nil {
		kill()
	}
	_ = cmd.Wait() // how the init ended says nothing: its report does
	wait(true)
	return s.verdict(ctx, g, report, err)
}

// connect gives the init the step's streams. wait returns when all output has
// been copied.
func (s *step) connect(cmd *exec.Cmd, stderr io.Writer) (wait func(started bool), err error) {
	var copies sync.WaitGroup
	var ends, pipes []*os.File
	closeAll := func(list []*os.File) {
		for _, f := range list {
			f.Close()
		}
	}
	output := func(w io.Writer) (*os.File, error) {
		r, end, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ends, pipes = append(ends, end), append(pipes, r)
		copies.Go(func() { _, _ = io.Copy(w, r) })
		return end, nil
	}
	stdout := io.Discard
	if s.process.Stdout != nil {
		stdout = s.process.Stdout
	}
	outEnd, err := output(stdout)
	if err != nil {
		return nil, fmt.Errorf("connecting the step: %w", err)
	}
	errEnd, err := output(stderr)
	if err != nil {
		closeAll(ends)
		return nil, fmt.Errorf("connecting the step: %w", err)
	}
	cmd.Stdout, cmd.Stderr = outEnd, errEnd
	if s.process.Stdin != nil {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(ends)
			return nil, fmt.Errorf("connecting the step: %w", err)
		}
		cmd.Stdin = r
		ends = append(ends, r)
		go func() { // ends when its reader or the step does
			_, _ = io.Copy(w, s.process.Stdin)
			w.Close()
		}()
	}
	return func(bool) {
		closeAll(ends)
		copies.Wait()
		closeAll(pipes)
	}, nil
}

// converse leads the init through the step and returns its last report.
func (s *step) converse(sock *initSocket, g *link) (initproc.Report, error) {
	if err := sock.send(s.spec); err != nil {
		return initproc.Report{}, err
	}
	if s.spec.Gateway {
		r, files, err := sock.receive()
		if err != nil || !r.Listeners {
			return r, err
		}
		if err := g.open(files); err != nil {
			return r, err
		}
	}
	if err := sock.send(initproc.Order{Go: true}); err != nil {
		return initproc.Report{}, err
	}
	done := make(chan struct{})
	defer close(done)
	for {
		r, files, err := sock.receive()
		for _, f := range files {
			f.Close()
		}
		if err != nil {
			return r, err
		}
		if !r.Started {
			return r, nil
		}
		s.markStarted()
		go s.forwardSignals(sock, done)
	}
}

func (s *step) forwardSignals(sock *initSocket, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case sig, ok := <-s.process.Signal:
			if !ok {
				return
			}
			_ = sock.send(initproc.Order{Signal: int(sig)})
		}
	}
}

// verdict says how the step ended. A refusal fails it even when the process
// would not have minded.
func (s *step) verdict(ctx context.Context, g *link, r initproc.Report, err error) error {
	ok := err == nil && r.Error == "" && exitError(ctx, r, s.process.Meta.ValidExitCodes, "") == nil
	refused := g.close(ok && ctx.Err() == nil)
	if ctx.Err() == nil && refused == nil && g.lost() {
		return &gatewayapi.ExitError{ExitCode: gatewayapi.UnknownExitStatus, Err: errGatewayLost}
	}
	if refused != nil {
		return &gatewayapi.ExitError{ExitCode: gatewayapi.UnknownExitStatus, Err: refused}
	}
	if ctx.Err() != nil && !ok {
		return &gatewayapi.ExitError{ExitCode: gatewayapi.UnknownExitStatus, Err: context.Cause(ctx)}
	}
	var fault *gatewayFault
	if errors.As(err, &fault) {
		return fault
	}
	if err != nil {
		return &gatewayapi.ExitError{
			ExitCode: gatewayapi.UnknownExitStatus,
			Err:      fmt.Errorf("the step's init ended early: %w", err),
		}
	}
	if r.NoBinfmt {
		return fmt.Errorf("%w: %s", s.cannotEmulate("no emulator can be registered for one step"), r.Error)
	}
	if r.Error != "" {
		return &gatewayapi.ExitError{ExitCode: gatewayapi.UnknownExitStatus, Err: errors.New(r.Error)}
	}
	return exitError(ctx, r, s.process.Meta.ValidExitCodes, g.note()+containedNote(r))
}

// containedNote says why we ended a step, and what it tried to reach.
func containedNote(r initproc.Report) string {
	note := ""
	if r.Reason != "" {
		note += "; the step was ended: " + r.Reason
	}
	if len(r.Refused) > 0 {
		note += "; refused: " + strings.Join(r.Refused, ", ") + " (a step reaches nothing but the mirror gateway and, over TCP, itself)"
	}
	return note
}
