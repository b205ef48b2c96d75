package warden

import (
	"sync"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

const ownProgram = "/proc/self/exe"

// maxSelves is how many processes that execute themselves are remembered.
const maxSelves = 256

// selves are processes about to execute /proc/self/exe, with the program that
// is, as the step sees its path. The kernel finds a program there that lies at
// /proc for them all: it asks where its link leads, is told what was executing
// before it, and executes that. Shells of busybox run scripts without a first
// line in this way.
type selves struct {
	mu sync.Mutex
	m  map[int]string
}

func (s *selves) set(tgid int, program string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[int]string{}
	}
	if len(s.m) >= maxSelves {
		for tgid := range s.m { // of those whose call failed
			delete(s.m, tgid)
			break
		}
	}
	s.m[tgid] = program
}

func (s *selves) take(tgid int) (program string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	program, ok = s.m[tgid]
	delete(s.m, tgid)
	return program, ok
}

// execve always goes on.
func (w *Warden) execve(r *notify.Request) notify.Response {
	a, ok := w.ask(r, r.Args[0], true)
	tgid := tgidOf(r.PID)
	if !ok || a.rest != "exe" || a.pid != tgid && a.pid != r.PID {
		return notify.Continue()
	}
	program, errno := "", unix.ENOENT
	if w.as(r, func() { program, errno = w.linkOf(asked{pid: tgid, rest: "exe"}) }) && errno == 0 {
		w.selves.set(tgid, program)
	}
	return notify.Continue()
}
