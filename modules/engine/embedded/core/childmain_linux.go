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

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

const (
	fdReady    = 3
	fdListener = 4
)

// ChildMain runs this process as the engine child or as a probe when its arguments (os.Args) say so. main calls it before anything
// else and exits with the code when it was handled.
func ChildMain(args []string, serve Serve) (handled bool, exit int) {
	if len(args) < 2 {
		return false, 0
	}
	switch args[1] {
	case argEngine, argProbe, argRemove:
	default:
		return false, 0
	}
	// forgotten by the exec that gained capabilities: ask again
	if err := jail.DieWithParent(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	in := bufio.NewReaderSize(os.Stdin, 16)
	if len(args) == 2 && inFreshUserNS() {
		if err := execAgain(args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return true, 1
	}
	if err := unix.CloseRange(fdReady, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(fdReady)
		unix.CloseOnExec(fdListener)
	}
	out := os.NewFile(fdReady, "ready")
	var err error
	switch args[1] {
	case argProbe:
		err = probeMain(in, out)
	case argRemove:
		err = removeMain(in)
	default:
		err = engineMain(in, out, serve)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
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

// engineMain is the engine child.
func engineMain(in *bufio.Reader, out *os.File, serve Serve) error {
	logrus.SetLevel(logrus.ErrorLevel)
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
	if err := prepareProcess(c.Tier); err != nil {
		say(ready{Error: toWire(err), Mode: true})
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in) // the lifeline
		cancel(errors.New("the main process is gone"))
	}()
	core, err := New(ctx, Options{
		Root: c.Root, GatewaySocket: c.GatewaySocket, ImagesAddr: c.ImagesAddr,
		LockWait: c.LockWait, Owner: c.Owner, Log: os.Stderr,
		Tier: c.Tier, LandlockABI: c.LandlockABI,
	})
	if err != nil {
		say(ready{Error: toWire(err)})
		return err
	}
	lf := os.NewFile(fdListener, "listener")
	l, err := net.FileListener(lf)
	lf.Close()
	if err != nil {
		say(ready{Error: toWire(err)})
		return errors.Join(err, core.Close())
	}
	say(ready{OK: true})
	err = serve(ctx, core, l)
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	return errors.Join(err, core.Close())
}

// prepareProcess makes this process what an engine of the tier is.
func prepareProcess(tier string) error {
	if tier == TierContainer {
		return containerProcess()
	}
	return ownMounts()
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
	unix.Umask(0o022)
	return nil
}
