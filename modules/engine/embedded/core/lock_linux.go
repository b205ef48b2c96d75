package core

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
)

const (
	defaultLockWait = 30 * time.Second
	lockName        = "lock" // in the state directory, held by the engine child
)

// lock takes the state directory for this engine. BuildKit itself would hang
// in its databases without a word when two engines share one. The lock goes
// with the process, however it ends; the file stays.
func lock(ctx context.Context, o Options) (unlock func() error, err error) {
	path := filepath.Join(o.Root, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "locking the engine's state", Place: path, Err: err}
	}
	wait := o.LockWait
	if wait == 0 {
		wait = defaultLockWait
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &artifact.Error{Kind: artifact.KindFault, Op: "locking the engine's state", Place: path, Err: err}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-deadline.C:
			holder, _ := os.ReadFile(path)
			f.Close()
			return nil, &artifact.Error{
				Kind: artifact.KindFault, Op: "locking the engine's state", Place: o.Root,
				Message: lockedBy(strings.TrimSpace(string(holder))),
				Remedy:  "wait for it to end, or give this run another --cache",
			}
		}
	}
	owner := o.Owner
	if owner == 0 {
		owner = os.Getpid()
	}
	if err := writeOwner(f, owner); err != nil {
		f.Close()
		return nil, err
	}
	return f.Close, nil
}

func writeOwner(f *os.File, pid int) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(pid)+"\n"), 0); err != nil {
		return fmt.Errorf("writing the lock: %w", err)
	}
	return nil
}
