package warden

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/jail/notify"
)

const (
	// workers is how many calls are handled at a time; a connect may wait.
	workers = 4
	// leastProcessors lets a thread that waits for an answer hold its
	// scheduling slot, as a fork does, while we answer it.
	leastProcessors = 4
	// firstToDie is how much rather than others the kernel kills a step's
	// processes when memory runs out.
	firstToDie = "900"
)

// Warden guards one step.
type Warden struct {
	config  Config
	root    *os.File
	pid     atomic.Int64 // the command; 0 until it executes
	closing atomic.Bool  // nothing new is started any more
	ids     idThreads
	sockets sockets
	vm      bool // process_vm_readv is allowed here
	memory  memories
	count   counter
	told    told
	fixed   fixed
	execs   execs
	selves  selves
	starts  chan startOrder // to the confined thread

	// of a step that keeps the container's root
	files    *keeper.Inside
	programs *programs
	tracer   *tracer
	starter  int           // socket
	traced   chan struct{} // closed when nobody is left
	early    sync.Map      // how threads ended, by number
	news     chan struct{} // there is more in early
}

// New makes the warden of a step; this process becomes the reaper of what the
// step leaves behind.
func New(c Config) (*Warden, error) {
	if err := checkABI(c.ABI); err != nil {
		return nil, err
	}
	fd, err := unix.Open(c.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the step's root: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming the reaper of the step: %w", err)
	}
	// nothing may look into this process
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("closing this process to the step: %w", err)
	}
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), leastProcessors))
	w := &Warden{config: c, root: os.NewFile(uintptr(fd), c.Root), vm: vmAllowed()}
	w.sockets.init()
	w.fixed = fixedOf(c.Fixed)
	if w.translates() {
		err = w.translated()
	}
	return w, err
}

// Start starts the command under filter and answers what it hands over. It
// returns when the command executes.
func (w *Warden) Start(c Command, filter []unix.SockFilter) (pid int, err error) {
	for _, r := range c.Rlimits {
		lim := syscall.Rlimit{Cur: r.Soft, Max: r.Max}
		if err := syscall.Setrlimit(r.Resource, &lim); err != nil && !errors.Is(err, unix.EPERM) {
			return 0, fmt.Errorf("setting resource limit %d: %w", r.Resource, err)
		}
	}
	if w.translates() {
		return w.startTranslated(c, filter)
	}
	defer withoutCollection()()
	w.starts = make(chan startOrder)
	done := make(chan startedProcess, 1)
	go func() {
		runtime.LockOSThread()
		err := w.confine(filter)
		if err != nil {
			done <- startedProcess{err: err}
			select {} // half confined: the thread is not given back
		}
		done <- w.fork(c)
		for o := range w.starts { // what is started later is confined with it
			o.done <- w.fork(o.command)
		}
	}()
	r := <-done
	if r.err != nil {
		return 0, r.err
	}
	w.pid.Store(int64(r.pid))
	firstToEnd(r.pid)
	return r.pid, nil
}

// withoutCollection switches the garbage collector off until what it returns
// is called: the confined thread must not help a collection, whose signals to
// other threads would wait for us while we are stopped for it. Switching it
// off waits for one that goes on.
func withoutCollection() func() {
	before := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(before) }
}

// startOrder is a process to start by the confined thread.
type startOrder struct {
	command Command
	done    chan<- startedProcess
}

type startedProcess struct {
	pid int
	err error
}

// confine gives the calling thread, and what it starts, the step's rights.
func (w *Warden) confine(filter []unix.SockFilter) error {
	unix.Umask(0o022)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no-new-privs: %w", err)
	}
	if err := landlock(w.config); err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	listener, err := notify.Install(filter)
	if err != nil {
		return err
	}
	go func() { w.told.failed(notify.ServeLasting(listener, workers, w.quick, w.answer)) }()
	return nil
}

func (w *Warden) fork(c Command) startedProcess {
	files := c.Files
	if files == nil {
		files = []uintptr{0, 1, 2}
	}
	pid, err := syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{
		Dir: c.Cwd, Env: c.Env, Files: files,
		Sys: &syscall.SysProcAttr{
			Setsid: true, Chroot: w.config.Root,
			Credential: &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups},
		},
	})
	if err != nil {
		return startedProcess{err: fmt.Errorf("starting %q in %s: %w", c.Args[0], c.Cwd, err)}
	}
	return startedProcess{pid: pid}
}

// dropCapabilities leaves this thread the step's capabilities and the one to
// change the root, which is not in the bounding set: executing the command
// ends it.
func dropCapabilities() error {
	for c := uintptr(0); c < 64; c++ {
		if Capabilities&(1<<c) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // past the last one this kernel knows
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	const keep = uint64(Capabilities | 1<<unix.CAP_SYS_CHROOT)
	for i := range data {
		held := data[i].Permitted & uint32(keep>>(32*i))
		data[i] = unix.CapUserData{Effective: held, Permitted: held}
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("setting capabilities: %w", err)
	}
	return nil
}
