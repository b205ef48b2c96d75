package initproc

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// supervisor waits for the command and carries out what the executor orders
// meanwhile.
type supervisor struct {
	c    *control
	spec Spec
	main int // process id of the command

	// mu keeps a process's number its own while it is signalled, and its start
	// before its end.
	mu    sync.Mutex
	ended bool
	execs map[uint64]int // further processes: order to process id
}

// supervise reaps until the command ends.
func supervise(c *control, s Spec, pid int) Report {
	v := &supervisor{c: c, spec: s, main: pid, execs: map[uint64]int{}}
	go v.obey()
	for {
		// wait without reaping, so that the number is ours until signals stop
		if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil); errors.Is(err, unix.EINTR) {
			continue
		}
		report, done := v.reap()
		if done {
			return report
		}
		if report.ID != 0 && c.send(report) != nil {
			return Report{Error: "the executor is gone"}
		}
	}
}

// reap takes one ended process away. done says that it was the command, or
// that waiting does not work.
func (v *supervisor) reap() (r Report, done bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var ws unix.WaitStatus
	got, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return Report{Error: "waiting for the command: " + err.Error()}, true
	}
	if got <= 0 || !ws.Exited() && !ws.Signaled() {
		return Report{}, false
	}
	if got == v.main {
		v.ended = true
		return ending(ws), true
	}
	for id, pid := range v.execs {
		if pid == got {
			delete(v.execs, id)
			r = ending(ws)
			r.ID = id
		}
	}
	return r, false
}

// obey carries out orders until the executor is gone.
func (v *supervisor) obey() {
	for {
		var o Order
		if v.c.receive(&o) != nil {
			return
		}
		fds := v.c.take(o.Files)
		switch {
		case o.Exec != nil:
			v.exec(o, fds)
		case o.Dial != nil:
			go v.dial(o)
		case o.Signal > 0:
			v.signal(o)
		}
	}
}

// signal reaches the command; of a further process, the whole session.
func (v *supervisor) signal(o Order) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if o.ID == 0 {
		if !v.ended {
			_ = unix.Kill(v.main, unix.Signal(o.Signal))
		}
		return
	}
	if pid, ok := v.execs[o.ID]; ok {
		_ = unix.Kill(-pid, unix.Signal(o.Signal))
	}
}

// exec starts a further process with the privileges of the command.
func (v *supervisor) exec(o Order, fds []int) {
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if len(fds) != 3 {
		_ = v.c.send(Report{ID: o.ID, Error: "a process needs three streams"})
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	pid, err := start(*o.Exec, v.spec.Filter, fds)
	if err != nil {
		_ = v.c.send(Report{ID: o.ID, Error: err.Error()})
		return
	}
	v.execs[o.ID] = pid
	_ = v.c.send(Report{ID: o.ID, Started: true})
}

// dial makes a connection and hands it out.
func (v *supervisor) dial(o Order) {
	fd, err := dial(*o.Dial)
	if err != nil {
		_ = v.c.send(Report{ID: o.ID, Error: err.Error()})
		return
	}
	defer unix.Close(fd)
	_ = v.c.send(Report{ID: o.ID}, fd)
}
