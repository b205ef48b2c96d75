package executor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/initbin"
	"drydock/modules/engine/embedded/warden"
	"drydock/modules/jail"
)

// newTranslated prepares for steps that keep the root of the container (T3).
func newTranslated(c *container, opt Options) (*container, jail.Filter, error) {
	refuse := func(err error) (*container, jail.Filter, error) {
		return nil, nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "starting the engine", Place: opt.Root, Err: err,
			Message: "steps cannot be run by translation here", Remedy: "drydock doctor names what is missing",
		}
	}
	if err := warden.CheckTranslation(); err != nil {
		return refuse(err)
	}
	if c.abi < warden.TranslatedABI {
		return refuse(errors.New("this takes landlock, which this kernel does not have or a filter refuses"))
	}
	if opt.Launcher == nil {
		return refuse(errors.New("the engine is not under a keeper of owners"))
	}
	root, err := filepath.EvalSymlinks(opt.Root)
	if err != nil {
		return refuse(err)
	}
	c.programs, c.launcher = filepath.Join(root, "programs"), opt.Launcher
	for _, dir := range []string{c.programs, warden.KeptPrograms(c.programs + "/step"), warden.Loaders(c.programs + "/step")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return refuse(err)
		}
	}
	if c.program, err = initbin.Memory(); err != nil {
		path, err := initbin.Write(opt.Root)
		if err != nil {
			return refuse(err)
		}
		if c.program, err = os.Open(path); err != nil {
			return refuse(err)
		}
	}
	filter, err := jail.BuildFilter(0, warden.TranslatedRules(c.abi)...)
	return c, filter, err
}

// ownPrograms makes the folder of what a step executes, unless it changes its
// root.
func (s *step) ownPrograms() (string, error) {
	if s.e.container.programs == "" {
		return "", nil
	}
	dir, err := os.MkdirTemp(s.e.container.programs, "step")
	if err != nil {
		return "", err
	}
	s.later(func() error { return os.RemoveAll(dir) })
	return dir, nil
}

// launch starts an init that is another's child: it has ended when the sockets
// it holds are closed.
func (c *container) launch(cmd *exec.Cmd) error {
	var files [4]*os.File
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for i, f := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles[0]} {
		if files[i], _ = f.(*os.File); files[i] == nil {
			files[i] = null
		}
	}
	pid, err := c.launcher.Start(c.program, cmd.Args, files)
	if err != nil {
		return err
	}
	cmd.Process, err = os.FindProcess(pid)
	return err
}

// await waits until an init has ended.
func (c *container) await(cmd *exec.Cmd) error {
	if c.launcher == nil {
		return cmd.Wait()
	}
	var failed error
	err := cmd.Process.WithHandle(func(handle uintptr) { // readable when it has ended, whoever reaps it
		poll := []unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}
		for {
			if _, failed = unix.Poll(poll, -1); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	})
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return errors.Join(err, failed)
}
