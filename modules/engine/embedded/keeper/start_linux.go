package keeper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// maxWorkers is how many calls are answered at a time. To pass the turn costs
// more than most calls, so there are no more than processors.
const maxWorkers = 4

// Engine is a process under the keeper.
type Engine struct{ pid int }

// Start starts the program under the keeper, with this process's environment
// and files as its first descriptors. This process must be the first of a
// process namespace in which the program stays, and hold all capabilities of a
// user namespace with one id. The program dies with the keeper.
func Start(program string, args []string, files []*os.File) (*Engine, error) {
	return start(program, args, files, keeping{rules(), serve, false})
}

// StartBare is Start without a user namespace and without capabilities: see
// Inside.
func StartBare(program string, args []string, files []*os.File) (*Engine, error) {
	in := newBare()
	var list []jail.Rule
	for _, h := range in.table {
		list = append(list, jail.Rule{Call: h.name, If: h.only, Action: jail.Notify})
	}
	return start(program, args, files, keeping{list, in.serve, true})
}

// keeping is what is handed over, and to whom.
type keeping struct {
	rules []jail.Rule
	serve func(*os.File)
	bare  bool // no capability allows the filter
}

func start(program string, args []string, files []*os.File, k keeping) (*Engine, error) {
	unix.Umask(0)
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(tokenLimit, &none); err != nil {
		return nil, fmt.Errorf("keeping owners: the limit of file locks is needed: %w", err)
	}
	filter, err := jail.RuleFilter(k.rules...)
	if err != nil {
		return nil, err
	}
	var fds []uintptr
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	// the thread that forks waits, with its scheduling slot, until the program
	// executes, which other threads of ours answer: nothing may stop them all
	// meanwhile, neither a collection nor a change of the slots' number
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), maxWorkers))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: it dies when this thread does
		if k.bare {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				done <- result{0, err}
				return
			}
		}
		listener, err := filter.InstallNotify()
		if err != nil {
			done <- result{0, err}
			return
		}
		go k.serve(listener)
		pid, err := syscall.ForkExec(program, args, &syscall.ProcAttr{
			Dir: "/", Env: os.Environ(), Files: fds, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
		})
		done <- result{pid, err}
		select {}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("starting under the keeper: %w", r.err)
	}
	return &Engine{pid: r.pid}, nil
}

// Probe installs the filter on the calling thread, which must end afterwards:
// what it hands over then fails.
func Probe() (string, error) {
	filter, err := jail.RuleFilter(rules()...)
	if err != nil {
		return "", err
	}
	listener, err := filter.InstallNotify()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d instructions", len(filter)), listener.Close()
}

// serve answers until nobody is left. Without it every call would fail, so
// the process ends with it.
func serve(listener *os.File) {
	ids, places := newIdentities(), &roots{}
	table := handlers()
	err := notify.Serve(listener, min(runtime.NumCPU(), maxWorkers), func(r *notify.Request) notify.Response {
		h, ok := table[r.Call]
		if !ok || r.PID == 0 {
			return notify.Continue()
		}
		return h.do(call{Request: r, ids: ids, roots: places})
	})
	if err != nil {
		panic(err)
	}
}

// serve answers as the keeper's does.
func (in *Inside) serve(listener *os.File) {
	err := notify.Serve(listener, min(runtime.NumCPU(), maxWorkers), func(r *notify.Request) notify.Response {
		if p, ok := in.Answer(r); ok {
			return p
		}
		return notify.Continue()
	})
	if err != nil {
		panic(err)
	}
}

// Wait waits for the program, reaping whatever else ends, and returns its exit
// code, or 128 and the signal that ended it.
func (e *Engine) Wait() (int, error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("waiting for the engine: %w", err)
		case pid == e.pid && ws.Exited():
			return ws.ExitStatus(), nil
		case pid == e.pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		}
	}
}
