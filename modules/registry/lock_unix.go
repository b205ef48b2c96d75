//go:build unix

package registry

import (
	"errors"
	"os"
	"syscall"
)

// errLocked says that another process has the folder open.
var errLocked = errors.New("locked by another process")

// lockExclusive takes the lock without waiting; it goes with the file or the process.
func lockExclusive(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		}
		return err
	}
}
