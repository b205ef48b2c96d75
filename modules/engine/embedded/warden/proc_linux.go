package warden

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// openHow is an open call, whichever of them.
type openHow struct {
	dir   int    // descriptor that a relative path starts at
	path  uint64 // address of the text
	flags int
}

// writes: it may change the file.
func (h openHow) writes() bool {
	const writes = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC
	return h.flags&writes != 0 && h.flags&unix.O_PATH == 0
}

func openatOf(r *notify.Request) openHow {
	return openHow{int(int32(r.Args[0])), r.Args[1], int(int32(r.Args[2]))}
}

func openOf(r *notify.Request) openHow {
	return openHow{unix.AT_FDCWD, r.Args[0], int(int32(r.Args[1]))}
}

func (w *Warden) openat(r *notify.Request) notify.Response { return w.openCall(r, openatOf(r)) }

func (w *Warden) open(r *notify.Request) notify.Response { return w.openCall(r, openOf(r)) }

func (w *Warden) readlinkat(r *notify.Request) notify.Response {
	return w.readlinkCall(r, r.Args[1], r.Args[2], int(int32(r.Args[3])))
}

func (w *Warden) readlink(r *notify.Request) notify.Response {
	return w.readlinkCall(r, r.Args[0], r.Args[1], int(int32(r.Args[2])))
}

// asked is what a path under /proc means to its caller.
type asked struct {
	pid  int    // whose; 0: nobody's
	rest string // "status", "fd/3", "task/7/comm"; "" the directory itself
	text string // the link itself, for /proc/self
}

// procPath understands paths of /proc and of what leads there; false for all
// others and for what the files placed at /proc answer. Links at its end are
// followed or not.
func procPath(name string, follow bool, tid int, tgid func() int) (asked, bool) {
	if !strings.HasPrefix(name, "/proc") && !strings.HasPrefix(name, "/dev/") {
		return asked{}, false
	}
	name = path.Clean(name)
	if !follow && path.Dir(name) == "/dev" {
		return asked{}, false // links as they are
	}
	name = fromDev(name)
	name, ok := strings.CutPrefix(name, "/proc/")
	if !ok {
		return asked{}, false
	}
	who, rest, _ := strings.Cut(name, "/")
	switch who {
	case "self":
		pid := tgid()
		return asked{pid: pid, rest: rest, text: strconv.Itoa(pid)}, true
	case "thread-self":
		return asked{pid: tid, rest: rest, text: strconv.Itoa(tgid()) + "/task/" + strconv.Itoa(tid)}, true
	}
	if pid, err := strconv.Atoi(who); err == nil && pid > 0 {
		return asked{pid: pid, rest: rest}, true
	}
	if rest == "" && slices.Contains([]string{"meminfo", "stat", "uptime", "loadavg"}, who) {
		return asked{rest: who}, true
	}
	return asked{}, false
}

// fromDev is where the links of /dev to descriptors lead.
func fromDev(name string) string {
	switch name {
	case "/dev/stdin":
		return "/proc/self/fd/0"
	case "/dev/stdout":
		return "/proc/self/fd/1"
	case "/dev/stderr":
		return "/proc/self/fd/2"
	}
	if n, ok := strings.CutPrefix(name, "/dev/fd/"); ok {
		return "/proc/self/fd/" + n
	}
	return name
}

// link reports whether what is asked for is a link of the kernel's to an open
// file or to a place of the process.
func (a asked) link() bool {
	n, isFD := strings.CutPrefix(a.rest, "fd/")
	if isFD {
		_, err := strconv.ParseUint(n, 10, 31)
		return err == nil
	}
	return a.rest == "exe" || a.rest == "cwd" || a.rest == "root"
}

// file reports whether it is a file about the process that tells of nothing
// else. What tells of the container (mounts, network, control groups) the
// files placed at /proc tell instead.
func (a asked) file() bool {
	rest := a.rest
	if t, ok := strings.CutPrefix(rest, "task/"); ok {
		tid, name, _ := strings.Cut(t, "/")
		if _, err := strconv.ParseUint(tid, 10, 31); err != nil {
			return false
		}
		rest = name
	}
	if n, ok := strings.CutPrefix(rest, "fdinfo/"); ok {
		_, err := strconv.ParseUint(n, 10, 31)
		return err == nil
	}
	return slices.Contains([]string{
		"auxv", "children", "cmdline", "comm", "environ", "io", "limits", "maps", "mem", "numa_maps", "oom_score", "oom_score_adj",
		"personality", "sched", "schedstat", "smaps", "smaps_rollup", "stat", "statm", "status", "wchan",
	}, rest)
}

// ask finds out what a call asks for; ok is false for what the kernel shall
// go on with.
func (w *Warden) ask(r *notify.Request, addr uint64, follow bool) (a asked, ok bool) {
	// most paths are told apart by their beginning
	var start [5]byte
	if n, err := w.transfer(r, false, addr, start[:]); err != nil || n < 5 {
		return a, false
	}
	if s := string(start[:]); s != "/proc" && s != "/dev/" {
		return a, false
	}
	name, err := w.text(r, addr)
	if err != nil {
		return a, false
	}
	return procPath(name, follow, r.PID, func() int { return tgidOf(r.PID) })
}

func (w *Warden) openCall(r *notify.Request, how openHow) notify.Response {
	if how.writes() && w.isFixed(r, how.dir, how.path) {
		return notify.Errno(unix.EROFS)
	}
	a, ok := w.ask(r, how.path, true)
	if !ok || how.flags&unix.O_NOFOLLOW != 0 {
		return notify.Continue()
	}
	const never = unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC
	flags := how.flags&^never | unix.O_CLOEXEC | unix.O_NOCTTY
	if a.pid == 0 {
		if flags&(unix.O_ACCMODE|unix.O_PATH|unix.O_DIRECTORY) != unix.O_RDONLY {
			return notify.Errno(unix.EACCES)
		}
		return w.give(unix.Open("/proc/"+a.rest, flags, 0))(how)
	}
	link := a.link()
	if !link && !a.file() {
		return notify.Continue()
	}
	if link && how.flags&unix.O_TRUNC != 0 {
		flags |= unix.O_TRUNC
	}
	fd, errno := -1, unix.ENOENT
	if !w.as(r, func() {
		if fd, errno = w.openProc(a, flags, link); errno == 0 && flags&unix.O_PATH != 0 {
			fd, errno = forGiving(fd, flags)
		}
	}) {
		return notify.Errno(unix.ENOENT)
	}
	if errno != 0 {
		return notify.Errno(errno)
	}
	return w.give(fd, nil)(how)
}

// forGiving makes of what was opened with O_PATH, which the kernel gives nobody,
// what can be read: of files and directories, and for who may.
func forGiving(fd, flags int) (int, unix.Errno) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, errnoOf(err)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return -1, unix.EACCES
	}
	again, err := unix.Open("/proc/thread-self/fd/"+strconv.Itoa(fd), flags&unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errnoOf(err)
	}
	return again, 0
}

// give answers with a descriptor.
func (w *Warden) give(fd int, err error) func(openHow) notify.Response {
	return func(how openHow) notify.Response {
		if err != nil {
			return notify.Errno(errnoOf(err))
		}
		return notify.GiveFD(fd, how.flags&unix.O_CLOEXEC != 0)
	}
}

// as runs f with the rights over files that the caller has.
func (w *Warden) as(r *notify.Request, f func()) bool {
	who, ok := idsOf(r.PID)
	if !ok {
		return false
	}
	if who.uid == 0 && who.gid == 0 || w.translates() {
		f()
		return true
	}
	return w.ids.run(who.uid, who.gid, f)
}

// ownDirectory opens /proc/PID of a process of the step. A process that gets
// the number later is another for what was opened.
func ownDirectory(pid int) (int, unix.Errno) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, unix.ENOENT
	}
	if !member(pid) {
		unix.Close(dir)
		return -1, unix.ENOENT
	}
	return dir, 0
}

// directoryOf is ownDirectory of whom is asked about. Of the process that starts
// a translated step's commands, which descends from us as they do and holds a
// socket of ours, only what ps looks at is shown. What it starts has its memory
// until it executes a program.
func (w *Warden) directoryOf(a asked) (int, unix.Errno) {
	dir, errno := ownDirectory(a.pid)
	if errno != 0 || !w.translates() || slices.Contains([]string{"cmdline", "comm", "stat", "statm", "status"}, a.rest) {
		return dir, errno
	}
	if _, ok := w.tracer.programOf(tgidOf(a.pid)); !ok {
		unix.Close(dir)
		return -1, unix.EACCES
	}
	return dir, 0
}

// openProc opens a file of a process of the step: never a directory of /proc,
// which would lead out of the step's root, and of other places only what the
// step has.
func (w *Warden) openProc(a asked, flags int, link bool) (int, unix.Errno) {
	dir, errno := w.directoryOf(a)
	if errno != 0 {
		return -1, errno
	}
	defer unix.Close(dir)
	if link {
		if target := readlinkIn(dir, a.rest); strings.HasPrefix(target, "/") {
			var st unix.Stat_t
			if _, ok := w.inside(target); !ok {
				return -1, unix.ENOENT
			}
			if unix.Fstatat(dir, a.rest, &st, 0) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
				return -1, unix.ENXIO // it may wait for the other side
			}
		}
	}
	fd, err := unix.Openat(dir, a.rest, flags, 0)
	if err != nil {
		return -1, errnoOf(err)
	}
	if errno := w.allowed(fd, link); errno != 0 {
		unix.Close(fd)
		return -1, errno
	}
	return fd, 0
}

// allowed looks at what was opened: a file of /proc, or something of the
// step's that is in its root when it is a directory.
func (w *Warden) allowed(fd int, link bool) unix.Errno {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errnoOf(err)
	}
	kind := st.Mode & unix.S_IFMT
	if !link {
		if kind != unix.S_IFREG {
			return unix.ENOENT
		}
		return 0
	}
	if kind == unix.S_IFDIR {
		if _, ok := w.inside(readlinkIn(unix.AT_FDCWD, "/proc/thread-self/fd/"+strconv.Itoa(fd))); !ok {
			return unix.ENOENT
		}
	}
	return 0
}

func readlinkIn(dir int, name string) string {
	b := make([]byte, maxPath)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// inside is a path of ours as the step sees it.
func (w *Warden) inside(target string) (string, bool) {
	if target == w.config.Root {
		return "/", true
	}
	in, ok := strings.CutPrefix(target, strings.TrimSuffix(w.config.Root, "/")+"/")
	return "/" + in, ok
}

func (w *Warden) readlinkCall(r *notify.Request, name, buf uint64, size int) notify.Response {
	a, ok := w.ask(r, name, false)
	if !ok || size <= 0 {
		return notify.Continue()
	}
	text := a.text
	switch {
	case a.rest == "" && text != "":
	case a.pid != 0 && a.link() && !w.sees(r, a):
		return notify.Errno(unix.EACCES)
	case a.pid != 0 && a.link():
		errno := unix.ENOENT
		if !w.as(r, func() { text, errno = w.linkOf(a) }) || errno != 0 {
			return notify.Errno(errno)
		}
	default:
		return notify.Continue()
	}
	b := []byte(text)
	b = b[:min(len(b), size)]
	if err := w.write(r, buf, b); err != nil {
		return notify.Errno(errnoOf(err))
	}
	return notify.Return(int64(len(b)))
}

func (w *Warden) linkOf(a asked) (string, unix.Errno) {
	dir, errno := w.directoryOf(a)
	if errno != 0 {
		return "", errno
	}
	defer unix.Close(dir)
	if w.translates() && a.rest == "exe" {
		if program, ok := w.tracer.programOf(a.pid); ok {
			return program, 0
		}
		return "", unix.ENOENT
	}
	target := readlinkIn(dir, a.rest)
	if target == "" {
		return "", unix.ENOENT
	}
	if !strings.HasPrefix(target, "/") {
		return target, 0
	}
	in, ok := w.inside(target)
	if ok && in == ownProgram {
		in, ok = w.selves.take(a.pid)
	}
	if !ok {
		return "", unix.ENOENT
	}
	return in, 0
}
