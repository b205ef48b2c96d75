package initproc

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoBinfmt: this kernel gives a user namespace no binfmt_misc of its own.
var errNoBinfmt = errors.New("this kernel gives a user namespace no binfmt_misc of its own")

// emulate makes the kernel start a foreign architecture's programs with the
// emulator, in this user namespace alone (binfmt_misc of Linux 6.7). The file
// system that says so is mounted nowhere: it lives as long as a descriptor of
// this process, which the command does not get.
func emulate(e Emulator) error {
	mount, err := privateBinfmt()
	if err != nil {
		return err
	}
	register, err := unix.Openat(mount, "register", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("registering the emulator: %w", err)
	}
	defer unix.Close(register)
	if _, err := unix.Write(register, []byte(e.entry())); err != nil {
		return fmt.Errorf("registering the emulator of %s: %w", e.Name, err)
	}
	// the entry holds the program from here on
	return unix.Close(emulatorFD)
}

// privateBinfmt makes this namespace's binfmt_misc; the descriptor keeps it.
func privateBinfmt() (int, error) {
	fs, err := unix.Fsopen("binfmt_misc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", errNoBinfmt, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("%w: %w", errNoBinfmt, err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("%w: %w", errNoBinfmt, err)
	}
	return mount, nil
}

// entry is what binfmt_misc registers: P keeps argv[0], C takes the
// credentials of a set-user-id program from it and not from the emulator, F
// opens the emulator now, so that the step's root need not have it.
func (e Emulator) entry() string {
	return fmt.Sprintf(":%s:M::%s:%s:/proc/self/fd/%d:PCF", e.Name, escaped(e.Magic), escaped(e.Mask), emulatorFD)
}

func escaped(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		fmt.Fprintf(&out, `\x%02x`, c)
	}
	return out.String()
}

// Binfmt tries whether this process's user namespace, one of its own, can have
// a binfmt_misc of its own.
func Binfmt() error {
	fd, err := privateBinfmt()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
