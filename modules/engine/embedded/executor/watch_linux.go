package executor

import (
	"cmp"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/warden"
)

const (
	watchInterval = 200 * time.Millisecond
	// Watching waits that many times as long as it took, so that it costs a
	// tenth of a processor at most, but no longer than watchLeast. Counting what
	// a step wrote waits so many times the processor's time it took: where a full
	// disk makes it wait, it costs nothing, and the step must not go on unseen.
	watchShare, countShare = 10, 10
	watchLeast             = time.Second
	// roomTime is how long an ended step may take to give room back, before
	// another is ended for the same.
	roomTime = 5 * time.Second
	// smallDisk is a limit that is counted always: that little the disk loses
	// unseen when others free some of it.
	smallDisk = 1 << 30
	// leastBlame is what a step must have written to be why the disk is full.
	leastBlame = 1 << 20
	// weighAnyway is how long memory goes unweighed that does not seem too much.
	weighAnyway = 2 * time.Second
	// countAnyway is how long what a step wrote goes uncounted where the disk did
	// not lose much: others may have freed as much.
	countAnyway = 10 * time.Second
	// scarce: less than this part of the memory is left; the step that has the
	// most is ended, if it has at least heavy of it.
	scarce, heavy = 0.03, 0.25
)

// watch ends steps that take more than their limits, in every tier: what the
// kernel bounds for us (control groups) it bounds earlier.
type watch struct {
	root   string
	mu     sync.Mutex
	steps  map[*step]*watched
	going  bool
	roomAt time.Time // no step is ended before for what is left of disk or memory
}

// watched is a step that runs.
type watched struct {
	limits   Limits
	init     int // process id
	kill     func()
	since    time.Time
	free     int64     // disk, when it began
	left     int64     // and memory
	counted  time.Time // what it wrote, not again before
	counting bool
	weighed  time.Time // and its memory
	measured time.Time // and its bounded directories
	ended    bool
}

// begin watches a step until done is called.
func (w *watch) begin(s *step, init int, kill func()) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.steps == nil {
		w.steps = map[*step]*watched{}
	}
	now := time.Now()
	w.steps[s] = &watched{limits: s.limits, init: init, kill: kill, since: now, free: FreeDisk(w.root), left: meminfo("MemAvailable:"), counted: now, weighed: now}
	if !w.going {
		w.going = true
		go w.look()
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.steps, s)
	}
}

// look looks at all steps as long as there are any.
func (w *watch) look() {
	pause := watchInterval
	for {
		time.Sleep(pause)
		start := time.Now()
		w.mu.Lock()
		if len(w.steps) == 0 {
			w.going = false
			w.mu.Unlock()
			return
		}
		w.once()
		w.mu.Unlock()
		pause = min(max(watchInterval, watchShare*time.Since(start)), watchLeast)
	}
}

func (w *watch) once() {
	inits := make([]int, 0, len(w.steps))
	for _, s := range w.steps {
		inits = append(inits, s.init)
	}
	used, left := warden.Below(inits), meminfo("MemAvailable:")
	for s, v := range w.steps {
		if v.ended {
			continue
		}
		switch u := used[v.init]; {
		case u.Tasks > v.limits.Processes, s.groups.full():
			w.end(s, v, v.limits.tooMany())
		case s.groups.ranOut(), v.tooMuch(s, u, left):
			w.end(s, v, v.limits.tooMuch())
		default:
			w.bounds(s, v)
		}
	}
	w.disk(used)
	w.memory(used, left)
}

// bounds ends a step that wrote more than its size to what is a tmpfs
// elsewhere.
func (w *watch) bounds(s *step, v *watched) {
	if len(s.bounded) == 0 || time.Now().Before(v.measured) {
		return
	}
	took := processorTime(func() {
		for _, b := range s.bounded {
			if b.over() {
				w.end(s, v, fmt.Sprintf("it wrote more than %s to the tmpfs at %s, which is its size", sized(b.size), b.name))
				break
			}
		}
	})
	v.measured = time.Now().Add(countShare * took)
}

// tooMuch weighs a step's memory when it may be too much: what its processes
// have, pages they share counted for each; or what the machine lost since the
// step began, since memory can be had that is no process's. Others may have
// given back as much meanwhile: now and then it is weighed whatever they say.
func (v *watched) tooMuch(s *step, u warden.Usage, left int64) bool {
	held := s.tmpfs()
	maybe := u.Memory+held > v.limits.Memory || v.left-left > v.limits.Memory/2
	if !maybe && time.Since(v.weighed) < weighAnyway || time.Now().Before(v.weighed) {
		return false
	}
	var n int64
	took := processorTime(func() { n = warden.MemoryOf(u.PIDs) + held })
	v.weighed = time.Now().Add(countShare * took)
	return n > v.limits.Memory
}

func (w *watch) end(s *step, v *watched, reason string) {
	v.ended = true
	s.stop(reason)
	v.kill()
}

// disk ends a step that wrote more than it may and, when the disk is about to
// be full, the one that wrote the most.
func (w *watch) disk(used map[int]warden.Usage) {
	free := FreeDisk(w.root)
	var worst *step
	most := int64(0)
	for s, v := range w.steps {
		maybe := v.free-free > v.limits.Disk/2 || v.limits.Disk < smallDisk || time.Since(v.counted) > countAnyway
		over := maybe && time.Now().After(v.counted)
		short := free < v.limits.FreeDisk && time.Now().After(w.roomAt)
		if v.ended || !over && !short {
			continue
		}
		if !short {
			w.count(s, v, used[v.init].PIDs)
			continue
		}
		wrote := s.written(v.since, used[v.init].PIDs)
		if wrote > v.limits.Disk {
			w.endFull(s, v)
			continue
		}
		if short && wrote > max(most, leastBlame) {
			worst, most = s, wrote
		}
	}
	if worst == nil {
		return
	}
	w.roomAt = time.Now().Add(roomTime)
	w.end(worst, w.steps[worst], exceeded(LimitFreeDisk, fmt.Sprintf("less than %s of disk was left free at %s, and of all steps it had written the most (%s)",
		sized(worst.limits.FreeDisk), w.root, sized(most))))
}

// count counts what a step wrote, beside the others: one that made very many files
// takes long to be counted, and no other may go on unseen meanwhile.
func (w *watch) count(s *step, v *watched, pids []int) {
	if v.counting {
		return
	}
	v.counting = true
	go func() {
		var wrote int64
		took := processorTime(func() { wrote = s.written(v.since, pids) })
		w.mu.Lock()
		defer w.mu.Unlock()
		v.counting, v.counted = false, time.Now().Add(countShare*took)
		if wrote > v.limits.Disk && !v.ended && w.steps[s] == v {
			w.endFull(s, v)
		}
	}()
}

// processorTime does what is given and says how long a processor worked for it.
func processorTime(do func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	worked := func() time.Duration {
		var u unix.Rusage
		_ = unix.Getrusage(unix.RUSAGE_THREAD, &u) // cannot fail
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start := worked()
	do()
	return worked() - start
}

func (w *watch) endFull(s *step, v *watched) {
	w.end(s, v, exceeded(LimitDisk, fmt.Sprintf("it wrote more than %s", sized(v.limits.Disk))))
}

// memory ends the step that has the most when the machine is about to have
// none left: several together may take more than each alone.
func (w *watch) memory(used map[int]warden.Usage, left int64) {
	total := availableMemory()
	if left == 0 || float64(left) > scarce*float64(total) || time.Now().Before(w.roomAt) {
		return
	}
	var worst *step
	most := int64(heavy * float64(total))
	for s, v := range w.steps {
		if v.ended {
			continue
		}
		if n := s.tmpfs() + warden.MemoryOf(used[v.init].PIDs); n > most {
			worst, most = s, n
		}
	}
	if worst == nil {
		return
	}
	w.roomAt = time.Now().Add(roomTime)
	w.end(worst, w.steps[worst], exceeded(LimitMemory, fmt.Sprintf("this machine had only %s of memory left, and of all steps it had taken the most (%s)",
		sized(left), sized(most))))
}

// FreeDisk is how many bytes an ordinary user may still write where root is, 0
// when that cannot be told.
func FreeDisk(root string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) != nil {
		return 0
	}
	return int64(fs.Bavail) * fs.Bsize
}

// stop notes why a step is being ended; the first reason counts.
func (s *step) stop(reason string) {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	s.stopped = cmp.Or(s.stopped, reason)
}

// why is the limit a step was ended by; "" when it was by none.
func (s *step) why() string {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	return s.stopped
}
