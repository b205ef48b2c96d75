package core

import (
	"errors"
	"fmt"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// ableToRunSteps looks, in the mount namespace of an engine, at what its steps
// will do and what containers are known to withhold from a root that has
// CAP_SYS_ADMIN.
func ableToRunSteps() error {
	if err := ableToPivot(); err != nil {
		return err
	}
	return ableToNetwork()
}

// ableToPivot: the seccomp profile of containers allows mount with
// CAP_SYS_ADMIN, and pivot_root not even then.
func ableToPivot() error {
	// paths at no address: EFAULT where the call is made at all
	if _, _, e := unix.RawSyscall(unix.SYS_PIVOT_ROOT, 1, 1, 0); e != unix.EFAULT {
		return fmt.Errorf("changing the root: %w", e)
	}
	return nil
}

// ableToNetwork: a step's loopback is brought up.
func ableToNetwork() error {
	st, err := jail.Observe()
	if err != nil {
		return err
	}
	if !userns.RunningInUserNS() && st.Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("CAP_NET_ADMIN is not held")
	}
	return nil
}
