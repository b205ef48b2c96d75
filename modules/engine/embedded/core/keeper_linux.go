package core

import (
	"encoding/json"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/keeper"
)

// keeperMain is the child of a user namespace with one id: it keeps the owners
// and starts the engine under it, on its own input, output and descriptors.
// The engine is told who we are to those outside.
func keeperMain(args []string, out *os.File) (int, error) {
	pid := ownPID()
	listener := os.NewFile(fdListener, "listener")
	start := startKept
	if len(args) > 2 && args[2] == argHere {
		start = startBare
	}
	engine, err := start(pid, out, listener)
	if err != nil {
		word := ready{Error: toWire(err), Mode: true}
		b, _ := json.Marshal(word)
		_, _ = out.Write(append(b, '\n'))
		return 1, err
	}
	out.Close()
	listener.Close()
	return engine.Wait()
}

func startKept(pid int, out, listener *os.File) (*keeper.Engine, error) {
	if err := ownMounts(); err != nil {
		return nil, err
	}
	if err := keeper.Check(os.TempDir()); err != nil {
		return nil, err
	}
	return keeper.Start("/proc/self/exe", []string{"drydock", argEngine, argKept, strconv.Itoa(pid)},
		[]*os.File{os.Stdin, os.Stdout, os.Stderr, out, listener})
}

// startBare starts the engine of tier T3. What must not be under the keeper it
// has us start.
func startBare(pid int, out, listener *os.File) (*keeper.Engine, error) {
	if err := keeper.Check(os.TempDir()); err != nil {
		return nil, err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(ends[1]), "launcher")
	defer theirs.Close()
	engine, err := keeper.StartBare("/proc/self/exe", []string{"drydock", argEngine, argKept, strconv.Itoa(pid)},
		[]*os.File{os.Stdin, os.Stdout, os.Stderr, out, listener, theirs})
	if err != nil {
		return nil, err
	}
	go func() { _ = keeper.Launch(ends[0]) }() // until the engine has ended
	return engine, nil
}

// keptBy is the process id of the keeper this engine was started by, as seen
// outside; 0 without one.
func keptBy(args []string) int {
	if len(args) < 4 || args[2] != argKept {
		return 0
	}
	pid, err := strconv.Atoi(args[3])
	if err != nil {
		return 0
	}
	return pid
}

// probeKeeper tries what the keeper needs, in a directory on the state's file
// system.
func (p *prober) keeper() {
	p.try("owner records", knobUserXattr, func() (string, error) {
		return "the state's file system keeps user attributes", keeper.Check(os.TempDir())
	})
	p.try("seccomp notification", knobNotify, func() (string, error) {
		var detail string
		err := onThread(func() (err error) { detail, err = keeper.Probe(); return err })
		return detail, err
	})
}
