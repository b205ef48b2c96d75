package warden

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ids are what the kernel says of a thread.
type ids struct {
	tgid, uid, gid int // effective
	realUID        int
	savedUID       int
	umask          uint32
}

func idsOf(tid int) (ids, bool) {
	b, err := readSmall("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return ids{}, false
	}
	out := ids{tgid: -1, uid: -1, gid: -1}
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		f := strings.Fields(value)
		switch {
		case key == "Umask" && len(f) == 1:
			n, _ := strconv.ParseUint(f[0], 8, 32)
			out.umask = uint32(n)
		case key == "Tgid" && len(f) == 1:
			out.tgid, _ = strconv.Atoi(f[0])
		case key == "Uid" && len(f) == 4:
			out.realUID, _ = strconv.Atoi(f[0])
			out.uid, _ = strconv.Atoi(f[1])
			out.savedUID, _ = strconv.Atoi(f[2])
		case key == "Gid" && len(f) == 4:
			out.gid, _ = strconv.Atoi(f[1])
			return out, out.tgid > 0 && out.uid >= 0
		}
	}
	return ids{}, false
}

// maxIDThreads bounds the users a step is served as at a time.
const maxIDThreads = 64

// idThreads run functions as other users, without losing the rights of this
// process elsewhere: ids are a thread's own. The real ids are the user's, by
// which the kernel lets look into a process, and the file system ids, by which
// it lets open files; the effective ones stay, and with them capabilities that
// are not about files.
type idThreads struct {
	mu sync.Mutex
	m  map[[2]int]chan func()
}

// run runs f as the user and waits; false when no thread can be had.
func (t *idThreads) run(uid, gid int, f func()) bool {
	t.mu.Lock()
	if t.m == nil {
		t.m = map[[2]int]chan func(){}
	}
	key := [2]int{uid, gid}
	c := t.m[key]
	if c == nil {
		if len(t.m) >= maxIDThreads {
			for k, old := range t.m {
				close(old)
				delete(t.m, k)
				break
			}
		}
		c = make(chan func())
		if !startAs(uid, gid, c) {
			t.mu.Unlock()
			return false
		}
		t.m[key] = c
	}
	done := make(chan struct{})
	c <- func() { f(); close(done) } // under the lock: the thread is not closed meanwhile
	t.mu.Unlock()
	<-done
	return true
}

func startAs(uid, gid int, c <-chan func()) bool {
	ok := make(chan bool)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with us
		if unix.Gettid() == os.Getpid() {
			// /proc shows the first thread as the process: take another
			good := startAs(uid, gid, c)
			runtime.UnlockOSThread()
			ok <- good
			return
		}
		u, g := uintptr(uid), uintptr(gid)
		_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, g, 0, 0)
		_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, u, 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, g, 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, u, 0, 0)
		good := e1 == 0 && e2 == 0 && e3 == 0
		ok <- good
		if !good {
			return
		}
		for f := range c {
			f()
		}
	}()
	return <-ok
}
