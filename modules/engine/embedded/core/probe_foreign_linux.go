package core

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
	"drydock/modules/jail"
)

// findingForeign is doctor's name for what emulated steps need.
const findingForeign = "foreign architectures"

const foreignRemedy = "use a Linux of 6.7 or newer with CONFIG_BINFMT_MISC that lets user namespaces be made; " +
	"without it RUN of another architecture is refused: cross-compile (FROM --platform=$BUILDPLATFORM)"

// foreign tries what steps of a foreign architecture need: binfmt_misc in a
// user namespace of their own.
func (p *prober) foreign() {
	p.try(findingForeign, "", func() (string, error) {
		// ids are mapped through the /proc of this process namespace
		if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return "", fmt.Errorf("mounting /proc: %w", err)
		}
		defer unix.Unmount("/proc", unix.MNT_DETACH) //nolint:errcheck // the process ends soon
		var said strings.Builder
		cmd := &exec.Cmd{
			Path: "/proc/self/exe", Args: []string{"drydock", argBinfmt}, Env: []string{}, Dir: "/", Stdout: &said, Stderr: &said,
			SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL},
		}
		if err := jail.NestUser(cmd.SysProcAttr); err != nil {
			return "", err
		}
		err := cmd.Run()
		if text := strings.TrimSpace(said.String()); err != nil && text != "" {
			err = errors.New(text)
		}
		return "binfmt_misc in user namespaces", err
	})
	p.optional(foreignRemedy)
}

// binfmtMain tries it, in the namespace made for that.
func binfmtMain() error { return initproc.Binfmt() }
