package jail

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// NestUser makes a process get a user namespace of its own, in which every id
// that means something here means the same: owners of files stay what they are,
// and nothing is held over them that is not held here. It needs the right to
// map ids (CAP_SETUID, CAP_SETGID, CAP_SETFCAP).
func NestUser(attr *syscall.SysProcAttr) error {
	uids, err := identity("/proc/self/uid_map")
	if err != nil {
		return err
	}
	gids, err := identity("/proc/self/gid_map")
	if err != nil {
		return err
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings, attr.GidMappings = uids, gids
	// where it is denied it stays so, and asking is an error
	denied, err := os.ReadFile("/proc/self/setgroups")
	attr.GidMappingsEnableSetgroups = err != nil || strings.TrimSpace(string(denied)) != "deny"
	return nil
}

// identity reads the ids mapped here (user_namespaces(7)), each to itself.
func identity(file string) ([]syscall.SysProcIDMap, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the ids of this user namespace: %w", err)
	}
	var out []syscall.SysProcIDMap
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var here, outside, count int
		if _, err := fmt.Sscan(line, &here, &outside, &count); err != nil {
			return nil, fmt.Errorf("reading the ids of this user namespace: %q: %w", line, err)
		}
		out = append(out, syscall.SysProcIDMap{ContainerID: here, HostID: here, Size: count})
	}
	return out, nil
}
