package core

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// containerCapabilities are what an engine without namespaces works with. An
// ordinary container as root has them all.
var containerCapabilities = []struct {
	bit  uint
	name string
}{
	{unix.CAP_CHOWN, "CAP_CHOWN"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{unix.CAP_FOWNER, "CAP_FOWNER"},
	{unix.CAP_FSETID, "CAP_FSETID"},
	{unix.CAP_KILL, "CAP_KILL"},
	{unix.CAP_MKNOD, "CAP_MKNOD"},
	{unix.CAP_SETGID, "CAP_SETGID"},
	{unix.CAP_SETUID, "CAP_SETUID"},
	{unix.CAP_SETPCAP, "CAP_SETPCAP"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
}

// containerProcess makes this process an engine that lives without namespaces
// and mounts. What its steps leave behind comes to it, so that it can end them.
func containerProcess() error {
	st, err := jail.Observe()
	if err != nil {
		return err
	}
	var lacking []string
	for _, c := range containerCapabilities {
		if st.Effective&(1<<c.bit) == 0 {
			lacking = append(lacking, c.name)
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("this process lacks %s: run it as root of the container, with the capabilities a container has by default",
			strings.Join(lacking, ", "))
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the reaper of steps: %w", err)
	}
	unix.Umask(0) // what a build asks for is what it gets; steps have a mask of their own
	return nil
}
