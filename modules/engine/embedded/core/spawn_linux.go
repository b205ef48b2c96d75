package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/jail"
)

// Arguments that make this executable a child of the engine. The second
// namespace child is the first, executed once more: only then, mapped to id 0
// of its user namespace, does it hold that namespace's capabilities.
const (
	argEngine    = "__drydock-engine"
	argProbe     = "__drydock-probe"
	argRemove    = "__drydock-remove"
	argBinfmt    = "__drydock-binfmt"
	argUnarchive = "__drydock-unarchive"
	argAgain     = "again"
	argHere      = "here" // in the namespaces of the parent
	// argKeeper is the keeper of owners, which starts the engine with argKept
	argKeeper = "__drydock-keeper"
	argKept   = "kept"
)

// neededIDs is how many subordinate ids let an image have its nobody (65534).
const neededIDs = 65534

// childPath is all the environment a child has but for TMPDIR.
const childPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// spawn is a child in namespaces of its own, but for modeContainer.
type spawn struct {
	program string
	arg     string
	mode    string
	flags   uintptr // clone flags besides the user namespace
	environ []string
	tmp     string
	stderr  io.Writer
	files   []*os.File // descriptors 3 and on
}

// start starts the child. Its standard input is the lifeline: config is its
// first line, and its end tells the child that we are gone. Without a spawner
// that is all that ends it.
func (s spawn) start(ctx context.Context, sp *jail.Spawner, config []byte) (*exec.Cmd, io.Closer, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("making the lifeline: %w", err)
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: s.program, Args: []string{"drydock", s.arg}, Dir: "/",
		Env:   []string{childPath, "TMPDIR=" + s.tmp},
		Stdin: r, Stdout: s.stderr, Stderr: s.stderr, ExtraFiles: s.files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Cloneflags: s.flags},
	}
	switch s.mode {
	case modeRootless:
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	case modeSingle:
		mapOne(cmd.SysProcAttr)
		if s.arg == argEngine {
			cmd.Args[1] = argKeeper
		}
	case modeTranslated:
		cmd.SysProcAttr.Cloneflags = 0
		cmd.Args = append(cmd.Args, argHere)
		if s.arg == argEngine {
			cmd.Args[1] = argKeeper
		}
	case modeContainer:
		cmd.SysProcAttr.Cloneflags = 0
		cmd.Args = append(cmd.Args, argHere)
	}
	start := cmd.Start
	if sp != nil {
		start = func() error { return sp.Start(cmd) }
	}
	if err := start(); err != nil {
		w.Close()
		return nil, nil, &namespaceError{mode: s.mode, err: err}
	}
	fail := func(err error) (*exec.Cmd, io.Closer, error) {
		w.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, nil, err
	}
	if s.mode == modeRootless {
		if err := mapUser(ctx, cmd.Process.Pid, s.environ); err != nil {
			return fail(&namespaceError{mode: s.mode, err: err, ids: true})
		}
		config = append([]byte{'\n'}, config...) // mapped: execute once more
	}
	if _, err := w.Write(append(config, '\n')); err != nil {
		return fail(fmt.Errorf("configuring the child: %w", err))
	}
	return cmd, w, nil
}

// namespaceError: the kernel did not give the namespaces of a mode.
type namespaceError struct {
	mode string
	err  error
	ids  bool // they could be had, but not with several ids
}

func (e *namespaceError) Error() string { return "starting in " + e.mode + " mode: " + e.err.Error() }
func (e *namespaceError) Unwrap() error { return e.err }

// refused reports whether the kernel said no, so that another mode may do.
func refused(err error) bool {
	var n *namespaceError
	return errors.As(err, &n) && (n.ids || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) ||
		errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EUSERS))
}

// mapOne maps our own ids to root, which needs nobody's help.
func mapOne(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	attr.GidMappingsEnableSetgroups = false
}

// mapping is what newuidmap and newgidmap are given.
type mapping struct {
	file   string // /etc/subuid
	helper string // newuidmap
	id     int
	ranges []jail.IDRange
}

// mappings reads what this user may map, or says what is missing.
func mappings(environ []string) ([]mapping, error) {
	name := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	out := []mapping{
		{file: "/etc/subuid", helper: "newuidmap", id: os.Getuid()},
		{file: "/etc/subgid", helper: "newgidmap", id: os.Getgid()},
	}
	for i := range out {
		m := &out[i]
		path, err := findHelper(m.helper, environ)
		if err != nil {
			return nil, err
		}
		// both files are keyed by the user, never by the group (subgid(5))
		m.ranges, err = jail.SubordinateIDs(m.file, name, os.Getuid())
		if err != nil {
			return nil, err
		}
		if n := jail.CountIDs(m.ranges); n < neededIDs {
			return nil, &artifact.Error{
				Kind: artifact.KindFault, Op: "starting the engine without root", Place: m.file,
				Message: fmt.Sprintf("user %s has %d subordinate ids, an image needs %d", name, n, neededIDs),
				Remedy: fmt.Sprintf("have root run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s "+
					"(a range nobody else has), or run drydock as root with CAP_SYS_ADMIN", name),
			}
		}
		m.helper = path
	}
	return out, nil
}

func mapUser(ctx context.Context, pid int, environ []string) error {
	maps, err := mappings(environ)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if err := jail.MapIDs(ctx, m.helper, pid, m.id, m.ranges); err != nil {
			return &artifact.Error{
				Kind: artifact.KindFault, Op: "starting the engine without root", Place: m.file, Err: err,
				Remedy: "check that newuidmap and newgidmap (package uidmap) are setuid root and that " + m.file + " names this user",
			}
		}
	}
	return nil
}

func findHelper(name string, environ []string) (string, error) {
	path := strings.TrimPrefix(childPath, "PATH=")
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v + ":" + path
		}
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); filepath.IsAbs(p) && err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", &artifact.Error{
		Kind: artifact.KindFault, Op: "starting the engine without root",
		Message: name + " is not installed", Remedy: "install package uidmap (shadow-utils on other systems), or run drydock as root with CAP_SYS_ADMIN",
	}
}

// executable is the program to execute as a child.
func executable(program string) string {
	if program == "" {
		return "/proc/self/exe"
	}
	return program
}
