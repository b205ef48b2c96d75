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
	unlock, err := lock(ctx, Options{Root: root, LockWait: c.LockWait})
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	if err := os.RemoveAll(root); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	sp := jail.NewSpawner()
	defer sp.Close()
	log := &tail{to: c.Log}
	cmd, lifeline, err := spawn{
		program: executable(c.Program), arg: argRemove, mode: modeRootless, environ: c.Environ,
		flags: unix.CLONE_NEWNS, tmp: root, stderr: log,
	}.start(ctx, sp, []byte(root))
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

// removeMain is the removing child.
func removeMain(in *bufio.Reader) error {
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading what to remove: %w", err)
	}
	return os.RemoveAll(strings.TrimSuffix(line, "\n"))
}
