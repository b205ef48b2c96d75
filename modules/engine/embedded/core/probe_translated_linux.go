package core

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/engine/embedded/warden"
)

// translated tries what steps need that keep the root of the container.
func (p *prober) translated() {
	p.try("translation", knobVersion, func() (string, error) {
		return "of calls, on " + runtime.GOARCH, warden.CheckTranslation()
	})
	dir := os.TempDir()
	p.try("owner records", knobUserXattr, func() (string, error) {
		return "the state's file system keeps user attributes", keeper.Check(dir)
	})
	p.try("programs", knobNoExec, func() (string, error) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return "", err
		}
		if st.Flags&unix.ST_NOEXEC != 0 {
			return "", errors.New("the state's file system is mounted noexec")
		}
		return "can be executed from the state's file system", nil
	})
	p.try("openat2", knobOpenat2, probeOpenat2)
	p.try("seccomp notification", knobNotify, func() (string, error) { return "works, descriptors included", onThread(probeNotify) })
	p.try("ptrace", knobPtrace, func() (string, error) { return "works", onThread(probeTrace) })
	p.try("landlock", knobLandlock, probeLandlockABI)
	p.filter()
}

// slower says of tier T3, where it is used, what is better about the others.
func slower() Finding {
	return Finding{
		Name: "speed and isolation", Optional: true,
		Detail: "tier T3 carries out every call that names a file: steps are slower, a program takes milliseconds to start, " +
			"and their users are not held apart (README, \"Tier T3\")",
		Remedy: "one of the settings below gives T1 or T2; a policy with tiers: [T1, T2] refuses what T3 builds",
	}
}

// probeTrace traces a child of its own.
func probeTrace() error {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"drydock"}, &syscall.ProcAttr{
		Files: []uintptr{}, Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return fmt.Errorf("starting a traced process: %w", err)
	}
	var ws unix.WaitStatus
	_, err = unix.Wait4(pid, &ws, unix.WALL, nil)
	if err == nil && !ws.Stopped() {
		err = errors.New("a traced process does not stop")
	}
	if err == nil {
		err = unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESECCOMP|unix.PTRACE_O_EXITKILL)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = unix.Wait4(pid, &ws, unix.WALL, nil)
	return err
}
