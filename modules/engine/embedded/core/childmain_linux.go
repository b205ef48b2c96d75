package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/jail"
)

const (
	fdReady    = 3
	fdListener = 4
	fdLauncher = 5 // of tier T3
)

// ChildMain runs this process as one of the engine's children when its
// arguments (os.Args) say so. main calls it before anything else and exits with
// the code when it was handled.
func ChildMain(args []string, serve Serve) (handled bool, exit int) {
	if len(args) < 2 {
		return false, 0
	}
	switch args[1] {
	case argEngine, argKeeper, argProbe, argRemove, argBinfmt, argUnarchive:
	default:
		return false, 0
	}
	exit, err := childMain(args, serve)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, exit
}

func childMain(args []string, serve Serve) (exit int, err error) {
	if args[1] == argUnarchive {
		return 0, unarchiveMain(args[2:])
	}
	// forgotten by the exec that gained capabilities: ask again. The engine
	// lives as long as the processes that use it, which its sockets tell.
	if args[1] != argEngine && args[1] != argKeeper {
		if err := jail.DieWithParent(); err != nil {
			return 0, err
		}
	}
	in := bufio.NewReaderSize(os.Stdin, 16)
	if len(args) == 2 && inFreshUserNS() {
		return 1, execAgain(args[1])
	}
	if err := unix.CloseRange(fdReady, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(fdReady)
		unix.CloseOnExec(fdListener)
	}
	out := os.NewFile(fdReady, "ready")
	switch args[1] {
	case argKeeper:
		return keeperMain(args, out)
	case argProbe:
		return 0, probeMain(in, out)
	case argRemove:
		return 0, removeMain(in)
	case argBinfmt:
		return 0, binfmtMain()
	}
	return 0, engineMain(in, out, serve, keptBy(args))
}

// inFreshUserNS: id 0 has no meaning yet, our parent still writes the map; or
// it has just been written and we, executed before it, hold no capability.
func inFreshUserNS() bool {
	st, err := jail.Observe()
	return err == nil && st.UserNS && st.Effective == 0
}

// execAgain waits until the parent has mapped our ids (one byte on standard
// input, read without taking more) and executes this program again.
func execAgain(arg string) error {
	var b [1]byte
	if _, err := io.ReadFull(os.Stdin, b[:]); err != nil {
		return fmt.Errorf("waiting for the id map: %w", err)
	}
	return unix.Exec("/proc/self/exe", []string{"drydock", arg, argAgain}, os.Environ())
}

// engineMain is the engine child; kept is its keeper's process id, if any.
func engineMain(in *bufio.Reader, out *os.File, serve Serve, kept int) error {
	logrus.SetLevel(logrus.ErrorLevel)
	// the log may be a pipe to a process that ends before us; not ignored but
	// caught, because steps would inherit the former
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	say := func(r ready) {
		b, _ := json.Marshal(r)
		_, _ = out.Write(append(b, '\n'))
		out.Close()
	}
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	var c childConfig
	if err := json.Unmarshal(line, &c); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	c.Self.PID = ownPID()
	if kept != 0 {
		c.Self.PID = kept
	}
	if err := prepareProcess(c.Tier); err != nil {
		say(ready{Error: toWire(err), Mode: true})
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	lives := newMembers(func() {
		cancel(errors.New("everybody has left"))
		time.AfterFunc(stopTime, func() { _ = unix.Kill(unix.Getpid(), unix.SIGKILL) }) // nobody is left who would
	})
	lives.hold()
	go func() {
		_, _ = io.Copy(io.Discard, in) // until the one who starts us has joined, or is gone
		lives.release()
	}()
	core, err := New(ctx, Options{
		Root: c.Root, LockWait: c.LockWait, Owner: c.Self.Owner, Log: os.Stderr,
		Tier: c.Tier, LandlockABI: c.LandlockABI, NoOverlay: c.NoOverlay, SingleID: kept != 0 && c.Tier == TierNamespaces, Launcher: launcherOf(c.Tier), Quota: c.Quota, members: lives,
	})
	if err != nil {
		say(ready{Error: toWire(err)})
		return err
	}
	forget, l, err := openSockets(core, c)
	if err != nil {
		say(ready{Error: toWire(err)})
		return errors.Join(err, core.Close())
	}
	say(ready{OK: true})
	go core.collectNowAndThen(ctx)
	err = serve(ctx, core, l)
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	forget()
	last, stopLast := context.WithTimeout(context.Background(), collectTime)
	defer stopLast()
	core.collectLast(last)
	return errors.Join(err, core.Close())
}

// launcherOf is what starts the inits of steps, where we must not.
func launcherOf(tier string) *keeper.Launcher {
	if tier != TierTranslated {
		return nil
	}
	return keeper.NewLauncher(fdLauncher)
}

// openSockets takes the front's listener over and makes the control socket.
// forget removes both, so that nobody finds an engine that is about to end.
func openSockets(core *Core, c childConfig) (forget func(), front net.Listener, err error) {
	lf := os.NewFile(fdListener, "listener")
	front, err = net.FileListener(lf)
	lf.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("taking over the engine's socket: %w", err)
	}
	l, err := listenControl(c.Root, c.Self)
	if err != nil {
		front.Close()
		return nil, nil, err
	}
	ctl := &controller{core: core, self: c.Self, starter: func() { keepLog(c.Root) }}
	go ctl.serve(l)
	return func() {
		_ = os.Remove(filepath.Join(c.Root, discoveryName))
		l.Close()
		removeSockets(c.Root, c.Self)
	}, front, nil
}

// removeSockets removes an engine's sockets, and their directory if it was
// made for them.
func removeSockets(root string, r Running) {
	_ = os.Remove(r.Control)
	_ = os.Remove(r.Socket)
	if dir := filepath.Dir(r.Socket); dir != filepath.Join(root, "run") {
		_ = os.Remove(dir)
	}
}

// maxLog is where an engine's own log file starts anew.
const maxLog = 4 << 20

// keepLog sends the log to a file of our own, once the process it went to has
// ended.
func keepLog(root string) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	path := filepath.Join(root, "engine.log")
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return // what is logged from here on is lost
	}
	defer f.Close()
	for _, fd := range []int{1, 2} {
		_ = unix.Dup3(int(f.Fd()), fd, 0)
	}
}

// ownPID is this process's id as the process that started it knows it: /proc
// is still that of its process namespace.
func ownPID() int {
	name, err := os.Readlink("/proc/self")
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(name)
	return pid
}

// prepareProcess makes this process what an engine of the tier is.
func prepareProcess(tier string) error {
	switch tier {
	case TierContainer:
		return containerProcess()
	case TierTranslated:
		unix.Umask(0)
		return nil
	}
	return errors.Join(ownMounts(), ableToRunSteps())
}

// ownMounts makes the mount namespace ours: nothing mounted in it is seen
// outside, and /proc is that of our process namespace.
func ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	unix.Umask(0) // what a build asks for is what it gets; steps have a mask of their own
	return nil
}
