package warden

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File rights by the ABI that brought them (linux/landlock.h).
const (
	fsFirst    = 1<<13 - 1 // ABI 1
	fsRefer    = 1 << 13   // 2
	fsTruncate = 1 << 14   // 3
	fsIoctlDev = 1 << 15   // 5

	fsRead = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// what a rule about a file that is no directory may name
	fsOfFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_WRITE_FILE | fsTruncate | fsIoctlDev

	netBind, netConnect            = 1, 2 // ABI 4
	scopeAbstractUnix, scopeSignal = 1, 2 // ABI 6
)

// rulesetAttr is struct landlock_ruleset_attr.
type rulesetAttr struct{ fs, net, scoped uint64 }

// pathBeneath is struct landlock_path_beneath_attr, which is packed.
type pathBeneath struct {
	access uint64
	parent int32
}

// landlock confines the calling thread, and what it starts, to the step's
// root. Binding and connecting TCP is refused whatever the address: the warden
// does that. It needs no-new-privs.
func landlock(c Config) error {
	if c.ABI < 1 {
		return nil
	}
	attr := rulesetAttr{fs: fsFirst}
	size := unsafe.Sizeof(attr.fs)
	for _, a := range []struct {
		abi   int
		right uint64
	}{{2, fsRefer}, {3, fsTruncate}, {5, fsIoctlDev}} {
		if c.ABI >= a.abi {
			attr.fs |= a.right
		}
	}
	if c.ABI >= 4 {
		attr.net = netBind | netConnect
		size += unsafe.Sizeof(attr.net)
	}
	if c.ABI >= ScopedABI {
		attr.scoped = scopeAbstractUnix | scopeSignal
		size += unsafe.Sizeof(attr.scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("making a landlock ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	rights := attr.fs
	if c.Programs != "" { // files are opened for it
		rights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
		for _, dir := range []string{c.Programs, Loaders(c.Programs)} {
			if err := allow(int(fd), dir, rights); err != nil {
				return err
			}
		}
		c.Writable = nil
	}
	if c.ReadOnly {
		rights &= fsRead | fsIoctlDev
	}
	if err := allow(int(fd), c.Root, rights); err != nil {
		return err
	}
	for _, p := range c.Writable {
		if err := allow(int(fd), p, attr.fs); err != nil {
			return err
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("confining the step with landlock: %w", errno)
	}
	return nil
}

func allow(ruleset int, path string, rights uint64) error {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("confining the step with landlock: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		rights &= fsOfFile
	}
	rule := pathBeneath{access: rights, parent: int32(f.Fd())}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("confining the step with landlock to %s: %w", path, errno)
	}
	return nil
}

// checkABI refuses an ABI that the kernel does not have.
func checkABI(want int) error {
	if want == 0 {
		return nil
	}
	have, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || int(have) < want {
		return errors.New("the kernel's landlock is older than the engine said")
	}
	return nil
}
