package warden

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// countInterval is how often processes are counted at most.
const countInterval = 50 * time.Millisecond

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
		go w.Kill(w.config.TooMany)
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

// Usage is what the processes of a step have together.
type Usage struct {
	PIDs   []int
	Tasks  int   // processes and threads
	Memory int64 // bytes that are resident and of no file
}

// Below looks once at what descends from each of some processes.
func Below(roots []int) map[int]Usage {
	children := childrenOf(processes())
	out := make(map[int]Usage, len(roots))
	for _, root := range roots {
		list := descendants(children, root)
		u := Usage{Tasks: tasks(list)}
		for _, p := range list {
			u.PIDs = append(u.PIDs, p.pid)
			u.Memory += privateMemory(p.pid)
		}
		out[root] = u
	}
	return out
}

// MemoryOf is what processes have together in bytes: pages that several have
// count once, shared memory and files that are in memory only count too. It
// takes longer than Below.
func MemoryOf(pids []int) int64 {
	sum, shared := int64(0), int64(0)
	for _, pid := range pids {
		anon, shmem, ok := partsOf(pid)
		if !ok {
			anon = privateMemory(pid)
		}
		sum += anon
		shared += shmem
	}
	return sum + max(shared, Unlinked(pids, true))
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

// partsOf is a process's part of the memory it has with others, in bytes; false
// when the kernel does not tell us.
func partsOf(pid int) (anon, shmem int64, ok bool) {
	b, err := readSmall("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, 0, false
	}
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(string(f[1]), 10, 64)
		switch string(f[0]) {
		case "Pss_Anon:":
			anon, ok = n<<10, true
		case "Pss_Shmem:":
			shmem = n << 10
		}
	}
	return anon, shmem, ok
}

// Unlinked is how much the files take that processes have open and that have
// no name any more: those in memory, or the others.
func Unlinked(pids []int, inMemory bool) int64 {
	type file struct{ dev, ino uint64 }
	seen := map[file]bool{}
	sum := int64(0)
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // ended, or hidden
		}
		for _, e := range entries {
			name := dir + "/" + e.Name()
			link, err := os.Readlink(name)
			if err != nil || !strings.HasPrefix(link, "/") {
				continue
			}
			var st unix.Stat_t
			var fs unix.Statfs_t
			if unix.Stat(name, &st) != nil || st.Nlink > 0 || st.Mode&unix.S_IFMT != unix.S_IFREG || unix.Statfs(name, &fs) != nil {
				continue
			}
			f := file{st.Dev, st.Ino}
			if seen[f] || (fs.Type == unix.TMPFS_MAGIC) != inMemory {
				continue
			}
			seen[f] = true
			sum += st.Blocks * 512
		}
	}
	return sum
}
