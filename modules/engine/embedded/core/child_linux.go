package core

import (
	"bufio"
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
	"sync"
	"time"

	"github.com/moby/buildkit/identity"
	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
)

const (
	// stopTime is how long a child may take to close its databases.
	stopTime = 20 * time.Second
	// socketRoom is what sun_path holds (unix(7)), less the end.
	socketRoom = 107
	// tailSize is how much of a child's last words an error repeats.
	tailSize = 2048
)

// childConfig is the first line on the engine child's standard input.
type childConfig struct {
	Root        string
	LockWait    time.Duration
	Tier        string
	LandlockABI int
	NoOverlay   bool
	Quota       int64
	Self        Running
}

// ready is what the engine child says once, on descriptor 3.
type ready struct {
	OK    bool
	Error *wireError
	Mode  bool // the error is that this mode does not work here: try another
}

// wireError carries an artifact.Error between processes.
type wireError struct {
	Kind                       artifact.Kind
	Op, Place, Message, Remedy string
}

func toWire(err error) *wireError {
	var e *artifact.Error
	if !errors.As(err, &e) {
		return &wireError{Kind: artifact.KindFault, Op: "starting the engine", Message: err.Error()}
	}
	w := &wireError{Kind: e.Kind, Op: e.Op, Place: e.Place, Message: e.Message, Remedy: e.Remedy}
	if e.Err != nil {
		if w.Message != "" {
			w.Message += ": "
		}
		w.Message += e.Err.Error()
	}
	return w
}

func (w *wireError) error() error {
	return &artifact.Error{Kind: w.Kind, Op: w.Op, Place: w.Place, Message: w.Message, Remedy: w.Remedy}
}

// startAnyMode starts the engine in a child process. As root the child stays in
// the first user namespace; where that is refused it gets one of its own; where
// the kernel gives neither it stays where we are. Which of them works is tried,
// never guessed from the user id.
func startAnyMode(ctx context.Context, c ChildConfig, build string) (*starter, error) {
	modes, err := modesOf(c.Tier)
	if err != nil {
		return nil, err
	}
	sweepStale(c.Root)
	if c.Tier == TierTranslated {
		if err := translationMissing(ctx, c); err != nil {
			return nil, err
		}
	}
	var said []error
	for _, mode := range modes {
		if mode == modeTranslated && c.Tier == "" && translationMissing(ctx, c) != nil {
			continue // most of it a step would find out first; the refusal says what it is
		}
		child, err := startIn(ctx, c, mode, build)
		if !refused(err) {
			return child, err
		}
		said = append(said, err)
	}
	if c.Tier != "" {
		return nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "starting the engine", Err: errors.Join(said...),
			Place: c.Tier, Message: "this tier was asked for and cannot be had here",
			Remedy: "take the best tier there is by asking for none; drydock doctor names the setting that is missing",
		}
	}
	e := &artifact.Error{
		Kind: artifact.KindFault, Op: "starting the engine", Err: errors.Join(said...),
		Message: "no tier works here", Remedy: "drydock doctor names the setting that is missing",
	}
	if report, err := Probe(ctx, c.Root, c.Environ); err == nil && report.Tier == "" {
		e.Err, e.Remedy = nil, report.Refusal()
	}
	return nil, e
}

// translationMissing says what keeps tier T3 from working: starting its engine
// does not find out all of it.
func translationMissing(ctx context.Context, c ChildConfig) error {
	way, _, err := probeWay(ctx, modeTranslated, c.Root, c.Environ)
	if err != nil || way.OK {
		return err
	}
	return way.refusal()
}

// modesOf lists what is tried for a tier, best first.
func modesOf(tier string) ([]string, error) {
	switch tier {
	case "":
		return []string{modeRoot, modeRootless, modeSingle, modeContainer, modeTranslated}, nil
	case TierNamespaces:
		return []string{modeRoot, modeRootless, modeSingle}, nil
	case TierContainer:
		return []string{modeContainer}, nil
	case TierTranslated:
		return []string{modeTranslated}, nil
	}
	return nil, &artifact.Error{
		Kind: artifact.KindUsage, Op: "choosing the engine's tier", Place: tier,
		Message: "no such tier", Remedy: "ask for T1, T2 or T3, or for none and get the best there is",
	}
}

// tierOf is the tier of a mode.
func tierOf(mode string) string {
	switch mode {
	case modeContainer:
		return TierContainer
	case modeTranslated:
		return TierTranslated
	}
	return TierNamespaces
}

// listen makes the child's socket, in the state directory when its path is
// short enough for a socket, else in a temporary one.
func listen(root string) (l *net.UnixListener, path string, remove func(), err error) {
	dir := filepath.Join(root, "run")
	path = filepath.Join(dir, identity.NewID()+".sock")
	remove = func() { os.Remove(path) }
	if len(path) > socketRoom {
		dir, err = os.MkdirTemp("", "drydock-")
		if err != nil {
			return nil, "", nil, fmt.Errorf("making the engine's socket: %w", err)
		}
		path = filepath.Join(dir, "engine.sock")
		remove = func() { os.RemoveAll(dir) }
	} else {
		sweep(dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", nil, fmt.Errorf("making the engine's socket: %w", err)
	}
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, "", nil, fmt.Errorf("making the engine's socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // the child goes on listening
	return l, path, remove, nil
}

// sweepStale removes what a killed engine left of its sockets.
func sweepStale(root string) {
	r, err := discover(root)
	if err != nil {
		return
	}
	_ = os.Remove(filepath.Join(root, discoveryName))
	removeSockets(root, *r)
}

// sweep removes sockets nobody listens on any more.
func sweep(dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, "*.sock"))
	controls, _ := filepath.Glob(filepath.Join(dir, "*.ctl"))
	for _, path := range append(old, controls...) {
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			os.Remove(path)
		}
	}
}

// starter is an engine child as the process that started it sees it.
type starter struct {
	running  Running
	cmd      *exec.Cmd
	lifeline io.Closer // what keeps the engine up until it has a member
	done     chan struct{}
	ended    error // set when done is closed
}

func startIn(ctx context.Context, c ChildConfig, mode, build string) (_ *starter, err error) {
	l, socket, remove, err := listen(c.Root)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	defer func() {
		if err != nil {
			remove()
		}
	}()
	lf, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("making the engine's socket: %w", err)
	}
	defer lf.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	defer r.Close()
	defer w.Close()
	running := Running{
		Protocol: protocol, Build: build, Owner: os.Getpid(), Control: controlPath(socket), Socket: socket,
		Tier: tierOf(mode), Mode: mode, Quota: c.Quota, Started: time.Now(),
	}
	config, err := json.Marshal(childConfig{
		Root: c.Root, LockWait: c.LockWait, Tier: tierOf(mode), LandlockABI: c.LandlockABI, NoOverlay: c.NoOverlay, Quota: c.Quota, Self: running,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	log := &tail{to: c.Log}
	// no spawner: the engine may outlive us, for those who joined it
	cmd, lifeline, err := spawn{
		program: executable(c.Program), arg: argEngine, mode: mode, environ: c.Environ,
		flags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, tmp: filepath.Join(c.Root, "tmp"),
		stderr: log, files: []*os.File{w, lf},
	}.start(ctx, nil, config)
	w.Close()
	if err != nil {
		return nil, err
	}
	running.PID = cmd.Process.Pid
	child := &starter{running: running, cmd: cmd, lifeline: lifeline, done: make(chan struct{})}
	go func() {
		child.ended = cmd.Wait()
		close(child.done)
	}()
	if err := awaitReady(ctx, r, c, mode, child.done, log); err != nil {
		child.abort()
		return nil, err
	}
	return child, nil
}

// abort ends a child nobody has joined.
func (s *starter) abort() {
	s.lifeline.Close()
	_ = s.cmd.Process.Kill()
	<-s.done
}

// awaitReady waits for the child's word.
func awaitReady(ctx context.Context, r *os.File, c ChildConfig, mode string, done <-chan struct{}, log *tail) error {
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		<-done // so that its last words are complete
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "starting the engine", Message: "its process ended early: " + log.String(),
			Remedy: removeRemedy(c.Root),
		}
	}
	var word ready
	if err := json.Unmarshal(line, &word); err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	switch {
	case word.OK:
		return nil
	case word.Error == nil:
		return errors.New("starting the engine: it gave no reason")
	case word.Mode:
		return &namespaceError{mode: mode, err: fmt.Errorf("%s: %w", word.Error.Message, unix.EPERM)}
	}
	return word.Error.error()
}

// tail passes a log on and remembers its end.
type tail struct {
	to  io.Writer
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if n := len(t.buf) - tailSize; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	if t.to != nil {
		_, _ = t.to.Write(b) // a log that cannot be written stops nothing
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == 0 {
		return "it said nothing"
	}
	return string(bytes.TrimSpace(t.buf))
}
