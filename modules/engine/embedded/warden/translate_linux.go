package warden

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// Tier T3: a process without capabilities cannot change its root. The step
// keeps the root of the container, and never gives the kernel a path: calls
// that name one are handed over and carried out by us, found below the step's
// root by the kernel itself (openat2, RESOLVE_IN_ROOT), descriptors are handed
// in. What is left, the working directory and programs, is done with paths that
// a tracer writes (tracer). Landlock lets the step execute what is below its
// root and what we made for it, and nothing else: no file, no directory.

// StarterName is the name by which the init is the process that starts a
// step's commands.
const StarterName = "drydock-start"

// translateWorkers is how many calls are handled at a time: opening a pipe
// waits for its other side.
const translateWorkers = 32

// starterFD is where the starter's socket is.
const starterFD = 3

// TranslatedABI is the least Landlock ABI that T3 takes.
const TranslatedABI = 1

func (w *Warden) translates() bool { return w.config.Programs != "" }

// CheckTranslation says why tier T3 cannot be had.
func CheckTranslation() error {
	if !traceable {
		return fmt.Errorf("steps cannot be traced on %s yet", runtime.GOARCH)
	}
	return nil
}

// TranslatedRules are the exceptions of a step's filter from the profile of
// containers in T3, for a Landlock ABI.
func TranslatedRules(abi int) []jail.Rule {
	var rules []jail.Rule
	for _, c := range []string{"execve", "execveat", "chdir"} {
		rules = append(rules, jail.Rule{Call: c, Action: jail.Trace})
	}
	// what a step would confine itself to has not what its programs are executed as
	rules = append(rules, refused(unix.EOPNOTSUPP, "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")...)
	// nobody starts what we do not see start
	rules = append(rules, jail.Rule{
		Call: "clone", If: when(jail.Test{Arg: 0, Mask: unix.CLONE_UNTRACED, Value: unix.CLONE_UNTRACED}),
		Action: jail.Refuse, Errno: uint32(unix.EPERM),
	})
	rules = append(rules, refused(unix.EPERM, "chroot")...)
	// as if there were too many: Landlock does not hold what is watched
	rules = append(rules, refused(unix.ENOSPC, "inotify_add_watch")...)
	rules = append(rules, keeper.InsideRules()...)
	rules = append(rules, jail.Rule{
		Call: "socket", If: when(is(0, unix.AF_NETLINK), is(2, unix.NETLINK_ROUTE)), Action: jail.Notify,
	})
	rules = append(rules, socketRules(false)...)
	rules = append(rules, notified("getpeername")...)
	rules = append(rules, jail.Rule{
		Call: "getsockopt", If: when(is(1, unix.SOL_SOCKET), is(2, unix.SO_PEERCRED)), Action: jail.Notify,
	})
	rules = append(rules, processRules()...)
	if abi < ScopedABI {
		rules = append(rules, signalRules()...)
	}
	return rules
}

// translated is what a warden has for it.
func (w *Warden) translated() (err error) {
	if err := CheckTranslation(); err != nil {
		return err
	}
	if w.config.ABI < TranslatedABI {
		return errors.New("without landlock a step that has the root of its container cannot be held in its own")
	}
	unix.Umask(0)
	devices := map[string]string{}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		devices["/dev/"+name] = "/dev/" + name
	}
	w.programs = newPrograms(w.config)
	w.tracer = &tracer{w: w, tasks: map[int]*tracee{}, programs: map[int]string{}, begun: map[int]bool{}}
	w.traced, w.news = make(chan struct{}), make(chan struct{}, 1)
	w.files, err = keeper.NewInside(keeper.InsideOptions{Root: w.root, Special: w.special, Refuse: w.readOnly, Devices: devices})
	return err
}

// readOnly says why a path of the step may not be changed.
func (w *Warden) readOnly(name string, entry bool) unix.Errno {
	below := func(dir string) bool { return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/") }
	for _, p := range w.config.Fixed {
		if entry && name == p.Path {
			return unix.EBUSY // as what something is mounted on
		}
		if below(p.Path) {
			return unix.EROFS
		}
	}
	if !w.config.ReadOnly || slices.ContainsFunc(w.config.Writable, func(p string) bool {
		in, ok := w.inside(p)
		return ok && below(in)
	}) {
		return 0
	}
	return unix.EROFS
}

// special opens what of /proc is about processes, and what leads there.
func (w *Warden) special(r *notify.Request, name string, follow bool) (int, bool, error) {
	a, ok := procPath(name, follow, r.PID, func() int { return tgidOf(r.PID) })
	if !ok {
		return -1, false, nil
	}
	const flags = unix.O_PATH | unix.O_CLOEXEC
	if a.pid == 0 {
		fd, err := unix.Open("/proc/"+a.rest, flags, 0)
		return fd, true, err
	}
	link := a.link()
	switch {
	case !link && !a.file(), link && !follow:
		return -1, false, nil
	case !w.sees(r, a):
		return -1, true, unix.EACCES
	case a.rest == "exe":
		program, errno := w.linkOf(a)
		if errno != 0 {
			return -1, true, errno
		}
		fd, err := w.files.Find(r.PID, unix.AT_FDCWD, program, 0)
		return fd, true, err
	}
	fd, errno := w.openProc(a, flags, link)
	if errno != 0 {
		return -1, true, errno
	}
	return fd, true, nil
}

// sees: what a process has open, and its memory, are for its user alone.
func (w *Warden) sees(r *notify.Request, a asked) bool {
	return !w.translates() || a.pid == 0 || a.pid == r.PID || slices.Contains(shownToAll, path.Base(a.rest)) || w.files.Sees(r.PID, a.pid)
}

// shownToAll are the files about a process that everybody may read.
var shownToAll = []string{
	"cmdline", "comm", "stat", "statm", "status", "limits", "oom_score", "oom_score_adj", "sched", "schedstat", "children", "wchan",
}

// translate answers one call.
func (w *Warden) translate(r *notify.Request) notify.Response {
	switch r.Call {
	case unix.SYS_PRLIMIT64:
		if uint32(r.Args[1]) != unix.RLIMIT_LOCKS {
			return w.otherProcess(r)
		}
	case unix.SYS_BIND, unix.SYS_CONNECT:
		if w.isNetlink(r) {
			return notify.Return(0) // it is bound, and has no other end
		}
	case unix.SYS_READLINKAT:
		if p := w.readlinkat(r); p != notify.Continue() {
			return p
		}
	default:
		if isReadlink(r.Call) {
			if p := w.readlink(r); p != notify.Continue() {
				return p
			}
		}
	}
	if p, ok := w.files.Answer(r); ok {
		return p
	}
	return w.answer(r)
}

// netlink makes a socket by which a step sees the network's interfaces, bound:
// a call that binds it would be one that the kernel goes on with.
func (w *Warden) netlink(r *notify.Request) notify.Response {
	kind := int(uint32(r.Args[1]))
	fd, err := unix.Socket(unix.AF_NETLINK, kind|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	n, err := r.PutFD(fd, -1, kind&unix.SOCK_CLOEXEC != 0)
	if err != nil {
		return notify.Errno(errnoOf(err))
	}
	w.sockets.add(&w.ids, st.Ino, &endpoint{fd: -1, family: unix.AF_NETLINK, tgid: tgidOf(r.PID), number: n})
	return notify.Return(int64(n))
}

func (w *Warden) isNetlink(r *notify.Request) bool {
	e, done, known := w.find(r)
	if !known {
		return false
	}
	defer done()
	return e.family == unix.AF_NETLINK
}

// starterSetup is what the starter is told first.
type starterSetup struct {
	Config Config
	Filter []unix.SockFilter
}

// starterReply is how starting a command went.
type starterReply struct {
	PID   int
	Error string
}

// startTranslated starts the starter, traced, and by it the command.
func (w *Warden) startTranslated(c Command, filter []unix.SockFilter) (int, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	w.starter = ends[0]
	defer unix.Close(ends[1])
	const self = "/proc/self/exe"
	// the tracer's room in it: see space
	program := strings.Repeat("/", roomSize-1-len(self)) + self
	pid, err := syscall.ForkExec(program, []string{StarterName}, &syscall.ProcAttr{
		Dir: "/", Files: []uintptr{0, 1, 2, uintptr(ends[1])}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("starting the step's starter: %w", err)
	}
	seized := make(chan error, 1)
	go func() {
		w.tracer.follow(pid, seized)
		close(w.traced)
	}()
	if err := <-seized; err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return 0, fmt.Errorf("tracing the step: %w", err)
	}
	setup, err := json.Marshal(starterSetup{w.config, filter})
	if err != nil {
		return 0, err
	}
	if err := unix.Sendmsg(w.starter, setup, nil, nil, 0); err != nil {
		return 0, fmt.Errorf("confining the step: %w", err)
	}
	listener, err := notify.Accept(w.starter)
	if err != nil {
		var r starterReply
		_ = w.starterSays(&r)
		return 0, fmt.Errorf("confining the step: %w (%s)", err, r.Error)
	}
	go func() { w.told.failed(notify.Serve(listener, translateWorkers, w.translate)) }()
	pid, err = w.orderStart(c)
	if err != nil {
		return 0, err
	}
	w.pid.Store(int64(pid))
	firstToEnd(pid)
	return pid, nil
}

func (w *Warden) starterSays(r *starterReply) error {
	b := make([]byte, 64<<10)
	n, err := unix.Read(w.starter, b)
	if err != nil {
		return err
	}
	return json.Unmarshal(b[:n], r)
}

// orderStart has the starter start a command.
func (w *Warden) orderStart(c Command) (int, error) {
	files := c.Files
	if files == nil {
		files = []uintptr{0, 1, 2}
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f))
	}
	c.Files = nil
	order, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	var head [8]byte
	copy(head[:], fmt.Sprintf("%08x", len(order)))
	if err := unix.Sendmsg(w.starter, head[:], unix.UnixRights(fds...), nil, 0); err != nil {
		return 0, fmt.Errorf("starting %q: %w", c.Args[0], err)
	}
	for part := range slices.Chunk(order, 32<<10) { // an environment may be large
		if err := unix.Sendmsg(w.starter, part, nil, nil, 0); err != nil {
			return 0, fmt.Errorf("starting %q: %w", c.Args[0], err)
		}
	}
	var r starterReply
	if err := w.starterSays(&r); err != nil {
		return 0, fmt.Errorf("starting %q: the step's starter has ended: %w", c.Args[0], err)
	}
	if r.Error != "" {
		return 0, fmt.Errorf("starting %q in %s: %s", c.Args[0], c.Cwd, r.Error)
	}
	if !w.tracer.started(r.PID) { // we signal this number
		return 0, fmt.Errorf("starting %q: the step's starter names a process that it has not started", c.Args[0])
	}
	return r.PID, nil
}

// ended is told of every thread that has.
func (w *Warden) ended(tid int, ws unix.WaitStatus) {
	w.told.mu.Lock()
	command := tid == int(w.pid.Load()) || w.pid.Load() == 0
	if tid == int(w.pid.Load()) {
		w.told.ended = true
	}
	w.told.mu.Unlock()
	if command {
		w.early.Store(tid, ws) // it may end before its number is known
		select {
		case w.news <- struct{}{}:
		default:
		}
		return
	}
	go func() { // a start that goes on holds the lock until it is noted
		w.execs.mu.Lock()
		e, ours := w.execs.m[tid]
		delete(w.execs.m, tid)
		w.execs.mu.Unlock()
		if ours && e.ended != nil {
			e.ended(ws)
		}
	}()
}

// waitTranslated waits for the command and ends what it left.
func (w *Warden) waitTranslated() (unix.WaitStatus, error) {
	for {
		if ws, ok := w.early.Load(int(w.pid.Load())); ok {
			w.endTranslated()
			return ws.(unix.WaitStatus), nil
		}
		select {
		case <-w.news:
		case <-w.traced:
			if ws, ok := w.early.Load(int(w.pid.Load())); ok {
				return ws.(unix.WaitStatus), nil
			}
			return 0, errors.New("the step ended and nobody saw how")
		}
	}
}

// endTranslated kills until nobody is left.
func (w *Warden) endTranslated() {
	w.closing.Store(true)
	unix.Close(w.starter)
	for pause := time.Millisecond; ; pause = min(2*pause, 10*time.Millisecond) {
		for _, p := range family() {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		select {
		case <-w.traced:
			return
		case <-time.After(pause):
		}
	}
}

// StarterMain is the process that starts a step's commands: confined as they
// are, so that what it starts is.
func StarterMain() int {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: it is the step's
		done <- starter()
	}()
	if err := <-done; err != nil {
		b, _ := json.Marshal(starterReply{Error: err.Error()})
		_, _ = unix.Write(starterFD, b)
		return 1
	}
	return 0
}

func starter() error {
	unix.CloseOnExec(starterFD)
	b := make([]byte, 1<<20)
	n, err := unix.Read(starterFD, b)
	if err != nil {
		return err
	}
	var s starterSetup
	if err := json.Unmarshal(b[:n], &s); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no-new-privs: %w", err)
	}
	if err := landlock(s.Config); err != nil {
		return err
	}
	if err := dropAllCapabilities(); err != nil {
		return err
	}
	listener, err := notify.Install(s.Filter)
	if err != nil {
		return err
	}
	err = notify.Pass(starterFD, listener)
	listener.Close()
	for err == nil {
		err = starterStart()
	}
	return nil // the socket's end is the step's
}

// starterStart starts one command.
func starterStart() error {
	head, oob := make([]byte, 8), make([]byte, 256)
	n, oobn, _, _, err := unix.Recvmsg(starterFD, head, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != len(head) {
		return unix.EPIPE
	}
	var size int
	if _, err := fmt.Sscanf(string(head), "%x", &size); err != nil {
		return err
	}
	order := make([]byte, 0, size)
	for len(order) < size {
		part := make([]byte, 32<<10)
		n, err := unix.Read(starterFD, part)
		if err != nil || n == 0 {
			return unix.EPIPE
		}
		order = append(order, part[:n]...)
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	var c Command
	if err == nil {
		err = json.Unmarshal(order, &c)
	}
	var r starterReply
	if err == nil {
		r.PID, err = starterFork(c, fds)
	}
	if err != nil {
		r.Error = err.Error()
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = unix.Write(starterFD, b)
	return err
}

func starterFork(c Command, fds []int) (int, error) {
	var files []uintptr
	for _, fd := range fds {
		files = append(files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{
		Dir: c.Cwd, Env: c.Env, Files: files,
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups},
		},
	})
	if err != nil {
		return 0, err
	}
	go func() { _, _ = syscall.Wait4(pid, nil, 0, nil) }()
	return pid, nil
}

// dropAllCapabilities leaves this thread none, when root asks for the tier.
func dropAllCapabilities() error {
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	for c := uintptr(0); c < 64; c++ {
		_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) // nobody without capabilities needs to
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}
