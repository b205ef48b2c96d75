package warden

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchInterval = 200 * time.Millisecond
	// countInterval is how often processes are counted at most.
	countInterval = 50 * time.Millisecond
)

// counter counts what the step starts; what ends is seen when it is counted
// anew.
type counter struct {
	mu    sync.Mutex
	n     int
	asked time.Time
}

// mayStart decides on one more process or thread.
func (w *Warden) mayStart() bool {
	if w.closing.Load() {
		return false
	}
	limit := w.config.MaxProcesses
	if limit == 0 {
		return true
	}
	c := &w.count
	c.mu.Lock()
	c.n++
	over := c.n > limit
	if over && time.Since(c.asked) > countInterval {
		c.n, c.asked = tasks(family()), time.Now()
		over = c.n > limit
	}
	c.mu.Unlock()
	if over {
		go w.Kill(fmt.Sprintf("it had more than %d processes and threads", limit))
	}
	return !over
}

func tasks(list []process) int {
	n := 0
	for _, p := range list {
		n += max(p.threads, 1)
	}
	return n
}

// Watch kills the step when it takes more memory or disk than it may. It
// returns when stop is closed.
func (w *Warden) Watch(stop <-chan struct{}) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if reason := w.exceeded(); reason != "" {
			w.Kill(reason)
			return
		}
	}
}

func (w *Warden) exceeded() string {
	if limit := w.config.MinDisk; limit > 0 {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(w.root.Fd()), &st); err == nil {
			if free := int64(st.Bavail) * st.Bsize; free < limit {
				return fmt.Sprintf("it left less than %d MiB of disk", limit>>20)
			}
		}
	}
	limit := w.config.MaxMemory
	if limit == 0 {
		return ""
	}
	var used int64
	for _, p := range family() {
		used += privateMemory(p.pid)
	}
	if used > limit {
		return fmt.Sprintf("it used more than %d MiB of memory", limit>>20)
	}
	return ""
}

// privateMemory is what a process has resident and not from files, in bytes
// (proc_pid_statm(5)).
func privateMemory(pid int) int64 {
	b, err := readSmall("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0
	}
	resident, _ := strconv.ParseInt(string(f[1]), 10, 64)
	shared, _ := strconv.ParseInt(string(f[2]), 10, 64)
	return max(resident-shared, 0) * int64(os.Getpagesize())
}
