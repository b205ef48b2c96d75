package initbin

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lowestFD is where the memory file's descriptor is put at the lowest: out of
// the way of those a started process is given.
const lowestFD = 100

// Memory returns the executable as a sealed memory file: nothing on any file
// system, and nobody can change it. Kernels that forbid executing memory files
// (vm.memfd_noexec) answer with an error: use Write then.
func Memory() (*os.File, error) {
	b, err := Program()
	if err != nil {
		return nil, err
	}
	return Sealed("drydock-init", b)
}

// Sealed returns an executable memory file of that content that nobody can
// change.
func Sealed(name string, b []byte) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3 does not know MFD_EXEC
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("making a memory file: %w", err)
	}
	defer unix.Close(fd)
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, lowestFD)
	if err != nil {
		return nil, fmt.Errorf("making a memory file: %w", err)
	}
	f := os.NewFile(uintptr(high), name)
	_, err = f.Write(b)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS,
			unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("filling a memory file: %w", err)
	}
	return f, nil
}
