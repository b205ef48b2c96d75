package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// KeepCapabilities drops everything but keep from the calling thread's
// bounding, permitted and effective sets and empties the inheritable and
// ambient ones. What the thread does not hold it does not gain.
func KeepCapabilities(keep Capabilities) error {
	for c := uintptr(0); c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // past the last capability this kernel knows
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	held, err := threadCapabilities()
	if err != nil {
		return err
	}
	return setCapabilities(held & keep)
}

func threadCapabilities() (Capabilities, error) {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	return Capabilities(data[0].Permitted) | Capabilities(data[1].Permitted)<<32, nil
}

func setCapabilities(c Capabilities) error {
	lo, hi := uint32(c), uint32(c>>32)
	data := [2]unix.CapUserData{{Effective: lo, Permitted: lo}, {Effective: hi, Permitted: hi}}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	return nil
}

// NoNewPrivileges makes the calling thread, and what it starts, never gain
// privileges by exec. A process whose threads all need it calls it before
// they exist, or uses Landlock, which sets it everywhere.
func NoNewPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no-new-privs: %w", err)
	}
	return nil
}
