package store

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// FileID is which file a name stands for, and how long it is: a file put in the
// place of another has another. The zero value is no file's.
type FileID struct {
	dev, ino uint64
	size     int64
}

// IDOf is a file's identity; the zero value when it is not known.
func IDOf(st fs.FileInfo) FileID {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return FileID{}
	}
	return FileID{sys.Dev, sys.Ino, sys.Size} //nolint:unconvert // types differ by processor
}

// RawID is IDOf what fstat said.
func RawID(st *unix.Stat_t) FileID { return FileID{st.Dev, st.Ino, st.Size} }

// lockFile takes a file for this process, until it closes it; false when another
// one has it.
func lockFile(f *os.File) bool {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
