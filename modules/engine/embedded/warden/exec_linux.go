package warden

import (
	"errors"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

var errClosing = errors.New("the step is ending")

// execs are the further processes that were started in the step, by number.
type execs struct {
	mu sync.Mutex // from a start until it is noted, and while one is reaped
	m  map[int]execution
}

type execution struct {
	id    uint64
	ended func(unix.WaitStatus)
}

// Exec starts a further process beside the command, with its rights: of the
// same confined thread, so that the two may signal each other and meet on
// abstract sockets. started is called before ended, which is not called when
// the command ends first.
func (w *Warden) Exec(id uint64, c Command, started func(), ended func(unix.WaitStatus)) error {
	w.execs.mu.Lock()
	defer w.execs.mu.Unlock()
	if w.closing.Load() {
		return errClosing
	}
	r := w.startFurther(c)
	if r.err != nil {
		return r.err
	}
	firstToEnd(r.pid)
	if w.execs.m == nil {
		w.execs.m = map[int]execution{}
	}
	w.execs.m[r.pid] = execution{id, ended}
	started()
	return nil
}

func (w *Warden) startFurther(c Command) startedProcess {
	if w.translates() {
		pid, err := w.orderStart(c)
		return startedProcess{pid, err}
	}
	defer withoutCollection()()
	done := make(chan startedProcess, 1)
	w.starts <- startOrder{c, done}
	return <-done
}

// SignalExec signals the session of a process that Exec started.
func (w *Warden) SignalExec(id uint64, s unix.Signal) {
	w.execs.mu.Lock()
	defer w.execs.mu.Unlock()
	for pid, e := range w.execs.m {
		if e.id == id {
			_ = unix.Kill(-pid, s)
		}
	}
}

// firstToEnd makes a process of the step go first when memory runs out.
func firstToEnd(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(firstToDie), 0)
}
