package core

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/jail"
)

// RemoveState removes an engine's state directory. Files that steps made
// without root belong to subordinate ids, which only a user namespace of this
// user can touch. It refuses while an engine uses the directory.
func RemoveState(ctx context.Context, c ChildConfig) error {
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return fmt.Errorf("removing the engine's state: %w", err)
	}
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lockAll(ctx, c, root)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(root); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	sp := jail.NewSpawner()
	defer sp.Close()
	log := &tail{to: c.Log}
	child := spawn{
		program: executable(c.Program), arg: argRemove, mode: modeRootless, environ: c.Environ,
		flags: unix.CLONE_NEWNS, tmp: root, stderr: log,
	}
	cmd, lifeline, err := child.start(ctx, sp, []byte(root))
	if refused(err) { // with one id all is ours, but not all is open to us
		child.mode = modeSingle
		cmd, lifeline, err = child.start(ctx, sp, []byte(root))
	}
	if err != nil {
		return err
	}
	defer lifeline.Close()
	if err := cmd.Wait(); err != nil {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "removing the engine's state", Place: root, Message: log.String(), Err: err,
		}
	}
	return nil
}

// lockAll keeps engines from using and from being started on a directory.
func lockAll(ctx context.Context, c ChildConfig, root string) (unlock func(), err error) {
	c.Root = root
	w := newWaiter(c)
	for {
		var held, starting func()
		if starting, err = tryLock(filepath.Join(root, startLock)); err == nil {
			if held, err = tryLock(filepath.Join(root, lockName)); err == nil {
				return func() { held(); starting() }, nil
			}
			starting()
		}
		var busy *busyError
		if !errors.As(err, &busy) {
			return nil, err
		}
		if err := w.wait(ctx, busy); err != nil {
			return nil, err
		}
	}
}

// removeMain is the removing child.
func removeMain(in *bufio.Reader) error {
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading what to remove: %w", err)
	}
	return os.RemoveAll(strings.TrimSuffix(line, "\n"))
}
