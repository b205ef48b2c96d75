package keeper

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// rootAge is how long a process's root is remembered. Numbers of processes
// are not used again that fast.
const rootAge = 100 * time.Millisecond

// roots remembers the roots of the last callers: to find one costs as much as
// the rest of a lookup. Whoever uses one has taken it out.
type roots struct {
	slots      [8]atomic.Pointer[root]
	generation atomic.Uint64 // changes when a process may change its root
}

type root struct {
	fd, pid    int
	generation uint64
	until      time.Time
}

// take gives the root of the caller, to be put back.
func (t *roots) take(c call) (*root, error) {
	generation := t.generation.Load()
	if r := t.slots[c.PID%len(t.slots)].Swap(nil); r != nil {
		if r.pid == c.PID && r.generation == generation && time.Now().Before(r.until) {
			return r, nil
		}
		unix.Close(r.fd)
	}
	fd, err := unix.Open(c.proc("root"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &root{fd: fd, pid: c.PID, generation: generation, until: time.Now().Add(rootAge)}, nil
}

func (t *roots) put(r *root) {
	if !t.slots[r.pid%len(t.slots)].CompareAndSwap(nil, r) {
		unix.Close(r.fd)
	}
}

// forget lets go of every root: one of them is about to change, and what was
// mounted there could not be unmounted while it is held.
func (t *roots) forget() {
	t.generation.Add(1)
	for i := range t.slots {
		if r := t.slots[i].Swap(nil); r != nil {
			unix.Close(r.fd)
		}
	}
}
