package initproc

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/warden"
)

// runContained runs a step that has no namespaces: nothing of it ends by
// itself when we do. So we have asked for no signal when the engine dies; we
// notice that it is gone (the socket's end), end the step and then ourselves.
func runContained(c *control, s Spec) (Report, error) {
	w, err := warden.New(*s.Contained)
	if err != nil {
		return Report{}, err
	}
	var o Order
	if err := c.receive(&o); err != nil || !o.Go {
		return Report{}, fmt.Errorf("waiting for the executor: %w", err)
	}
	file, err := lookPathIn(s.Root, s.Args, s.Env, s.Cwd)
	if err != nil {
		return Report{}, err
	}
	cmd := warden.Command{
		Path: file, Args: s.Args, Env: s.Env, Cwd: s.Cwd, UID: s.UID, GID: s.GID, Groups: s.Groups,
	}
	for _, r := range s.Rlimits {
		cmd.Rlimits = append(cmd.Rlimits, warden.Rlimit(r))
	}
	if _, err := w.Start(cmd, s.Filter.SockFilter()); err != nil {
		return Report{}, err
	}
	if err := c.send(Report{Started: true}); err != nil {
		w.Kill("the engine is gone")
	}
	go obey(c, w, s.Root)
	ws, err := w.Wait()
	if err != nil {
		return Report{}, fmt.Errorf("waiting for the command: %w", err)
	}
	r := ending(ws)
	r.Reason, r.Refused = w.Reason(), w.Refused()
	return r, nil
}

// obey does what the executor says until it is gone.
func obey(c *control, w *warden.Warden, root string) {
	for {
		var o Order
		if err := c.receive(&o); err != nil {
			w.Kill("")
			return
		}
		fds := c.take(o.Files)
		switch {
		case o.Exec != nil:
			if err := execContained(c, w, root, o, fds); err != nil {
				_ = c.send(Report{ID: o.ID, Error: err.Error()})
			}
		case o.Dial != nil:
			go dialContained(c, w, o)
		case o.Signal > 0 && o.ID != 0:
			w.SignalExec(o.ID, unix.Signal(o.Signal))
		case o.Signal > 0:
			w.Signal(unix.Signal(o.Signal))
		}
	}
}

// dialContained connects to a port of the step and hands the connection out.
func dialContained(c *control, w *warden.Warden, o Order) {
	fd, err := w.Dial(o.Dial.Port)
	if err != nil {
		_ = c.send(Report{ID: o.ID, Error: err.Error()})
		return
	}
	defer unix.Close(fd)
	_ = c.send(Report{ID: o.ID}, fd)
}

// execContained starts a further process in the step.
func execContained(c *control, w *warden.Warden, root string, o Order, fds []int) error {
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if len(fds) != 3 {
		return errors.New("a process needs three streams")
	}
	p := o.Exec
	file, err := lookPathIn(root, p.Args, p.Env, p.Cwd)
	if err != nil {
		return err
	}
	cmd := warden.Command{
		Path: file, Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: p.UID, GID: p.GID, Groups: p.Groups,
		Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])},
	}
	return w.Exec(o.ID, cmd, func() { _ = c.send(Report{ID: o.ID, Started: true}) }, func(ws unix.WaitStatus) {
		r := ending(ws)
		r.ID = o.ID
		_ = c.send(r)
	})
}

// lookPathIn is lookPath for a root that is not ours.
func lookPathIn(dir string, args, env []string, cwd string) (string, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("opening the step's root: %w", err)
	}
	defer root.Close()
	return lookPathWith(args, env, cwd, func(name string) (os.FileInfo, error) {
		f, err := openIn(root, path.Clean(name), unix.O_PATH)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return f.Stat()
	})
}

func lookPathWith(args, env []string, cwd string, stat func(string) (os.FileInfo, error)) (string, error) {
	if len(args) == 0 {
		return "", errors.New("the step has no command")
	}
	name := args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	list := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			list = v
		}
	}
	for _, dir := range strings.Split(list, ":") {
		if dir == "" {
			dir = "."
		}
		if !strings.HasPrefix(dir, "/") {
			dir = cwd + "/" + dir
		}
		fi, err := stat(dir + "/" + name)
		if err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return dir + "/" + name, nil
		}
	}
	return "", fmt.Errorf("%q: executable file not found in PATH %q", name, list)
}
