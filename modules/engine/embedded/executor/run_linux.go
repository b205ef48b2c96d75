package executor

import (
	"bytes"
	"cmp"
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
	conn  *net.UnixConn
	mu    sync.Mutex
	buf   []byte
	files []*os.File // came with what is in buf
}

func (c *initSocket) send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(files) == 0 {
		_, err = c.conn.Write(append(b, '\n'))
		return err
	}
	_, _, err = c.conn.WriteMsgUnix(append(b, '\n'), rights, nil)
	return err
}

// maxRights is what the kernel lets come with one message (SCM_MAX_FD).
const maxRights = 253

// receive reads one report and the descriptors that came with it.
func (c *initSocket) receive() (initproc.Report, []*os.File, error) {
	for {
		if line, rest, ok := bytes.Cut(c.buf, []byte("\n")); ok {
			var r initproc.Report
			err := json.Unmarshal(line, &r)
			c.buf = rest
			n := min(r.Files, len(c.files))
			files := c.files[:n:n]
			c.files = c.files[n:]
			return r, files, err
		}
		data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*maxRights))
		n, oobn, _, _, err := c.conn.ReadMsgUnix(data, oob)
		if err != nil {
			return initproc.Report{}, nil, err
		}
		if n == 0 && oobn == 0 {
			return initproc.Report{}, nil, io.EOF
		}
		c.buf = append(c.buf, data[:n]...)
		c.files = append(c.files, descriptors(oob[:oobn])...)
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
	kill := func() { _ = cmd.Process.Kill() }
	std, err := openStreams(s.process.Stdin, s.counted(s.process.Stdout, kill), s.counted(stderr, kill))
	if err != nil {
		theirs.Close()
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std.ends[0], std.ends[1], std.ends[2]
	if err = s.nest(cmd); err == nil {
		err = s.nestError(s.e.spawner.Start(cmd))
	}
	theirs.Close()
	if err != nil {
		std.wait()
		return fmt.Errorf("starting the step's init: %w", err)
	}
	s.groups = newCgroups(filepath.Base(s.dir), s.limits)
	s.later(s.groups.remove)
	s.groups.add(cmd.Process.Pid) // it waits for us and has started nothing
	defer s.e.watch.begin(s, cmd.Process.Pid, kill)()
	stopKill := context.AfterFunc(ctx, kill)
	defer stopKill()

	g := &link{vertex: s.vertex, socket: s.socket, stderr: stderr, kill: kill, hosts: s.network.Hosts}
	board := &switchboard{stderr: stderr}
	defer board.close()
	s.control = sock
	report, err := s.converse(ctx, g, board)
	if err != nil {
		kill()
	}
	_ = cmd.Wait() // how the init ended says nothing: its report does
	std.wait()
	switch { // faster than our watch
	case s.groups.ranOut():
		s.stop(s.limits.tooMuch())
	case s.groups.full():
		s.stop(s.limits.tooMany())
	}
	return s.verdict(ctx, g, report, err)
}

// streams are a process's three ends of pipes and what copies to and from them.
type streams struct {
	ends, pipes []*os.File
	copies      sync.WaitGroup
}

// openStreams makes ends for stdin, stdout and stderr, in this order. A nil
// stream is empty, or discarded.
func openStreams(stdin io.Reader, stdout, stderr io.Writer) (*streams, error) {
	s := &streams{}
	if err := s.input(stdin); err != nil {
		return nil, fmt.Errorf("connecting the step: %w", err)
	}
	for _, w := range []io.Writer{stdout, stderr} {
		if err := s.output(w); err != nil {
			s.wait()
			return nil, fmt.Errorf("connecting the step: %w", err)
		}
	}
	return s, nil
}

func (s *streams) input(from io.Reader) error {
	if from == nil {
		null, err := os.Open(os.DevNull)
		if err == nil {
			s.ends = append(s.ends, null)
		}
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.ends = append(s.ends, r)
	go func() { // ends when its reader or the process does
		_, _ = io.Copy(w, from)
		w.Close()
	}()
	return nil
}

func (s *streams) output(to io.Writer) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.ends, s.pipes = append(s.ends, w), append(s.pipes, r)
	if to == nil {
		to = io.Discard
	}
	s.copies.Go(func() { _, _ = io.Copy(to, r) })
	return nil
}

// handedOver closes our copies of the process's ends.
func (s *streams) handedOver() {
	closeFiles(s.ends)
	s.ends = nil
}

// wait returns when all output has been copied.
func (s *streams) wait() {
	s.handedOver()
	s.copies.Wait()
	closeFiles(s.pipes)
}

// converse leads the init through the step and returns its last report.
func (s *step) converse(ctx context.Context, g *link, board *switchboard) (initproc.Report, error) {
	if err := s.control.send(s.spec); err != nil {
		return initproc.Report{}, err
	}
	if s.spec.Gateway || len(s.spec.Listen) > 0 {
		r, files, err := s.control.receive()
		if err != nil || !r.Listeners {
			return r, err
		}
		defer closeFiles(files)
		if s.spec.Gateway {
			if err := g.open(files[:min(3, len(files))]); err != nil {
				return r, err
			}
			files = files[3:]
		}
		if err := board.open(ctx, s.network, files); err != nil {
			return r, err
		}
	}
	if s.fitting != nil {
		s.fitting.settled()
	}
	if err := s.control.send(initproc.Order{Go: true}); err != nil {
		return initproc.Report{}, err
	}
	return s.listen()
}

// listen reads reports until the last one.
func (s *step) listen() (initproc.Report, error) {
	id := filepath.Base(s.dir)
	done := make(chan struct{})
	defer close(done)
	defer s.orders.stop()
	defer s.e.running.remove(id)
	for {
		r, files, err := s.control.receive()
		if err != nil {
			return r, err
		}
		if r.ID != 0 {
			if !s.orders.deliver(answered{r, files}) {
				closeFiles(files)
			}
			continue
		}
		closeFiles(files)
		if !r.Started {
			return r, nil
		}
		s.e.running.add(id, s)
		s.markStarted()
		go s.forwardSignals(s.control, done)
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
	why := cmp.Or(s.why(), r.Reason)
	ok := err == nil && why == "" && r.Error == "" && exitError(ctx, r, s.process.Meta.ValidExitCodes, "") == nil
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
	if why != "" {
		return &gatewayapi.ExitError{ExitCode: stoppedCode, Err: fmt.Errorf("exit code: %d: the step was ended: %s", stoppedCode, why)}
	}
	if err != nil {
		return faultOf(err)
	}
	if r.NoBinfmt {
		return fmt.Errorf("%w: %s", s.cannotEmulate("no emulator can be registered for one step"), r.Error)
	}
	if r.Error != "" {
		return &gatewayapi.ExitError{ExitCode: gatewayapi.UnknownExitStatus, Err: errors.New(r.Error)}
	}
	return exitError(ctx, r, s.process.Meta.ValidExitCodes, g.note()+containedNote(r))
}

// faultOf is how a step fails that our own part failed.
func faultOf(err error) error {
	var fault *gatewayFault
	if errors.As(err, &fault) {
		return fault
	}
	return &gatewayapi.ExitError{
		ExitCode: gatewayapi.UnknownExitStatus,
		Err:      fmt.Errorf("the step's init ended early: %w", err),
	}
}

// stoppedCode is the exit code of a step that we ended: 128 and SIGKILL.
const stoppedCode = 128 + 9

// containedNote says what a step tried to reach.
func containedNote(r initproc.Report) string {
	note := ""
	if r.Signal == int(unix.SIGXFSZ) {
		note += "; " + exceeded(LimitDisk, "it made a file larger than twice what it may write")
	}
	if len(r.Refused) > 0 {
		note += "; refused: " + strings.Join(r.Refused, ", ") + " (a step reaches nothing but the mirror gateway and, over TCP, itself)"
	}
	return note
}
