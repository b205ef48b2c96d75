package executor

import (
	"cmp"
	"context"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// The defaults, where they are no share of what the machine has.
const (
	memoryShare    = 0.9   // of the memory there is, for one step
	maxProcesses   = 16384 // and at most half of what the kernel counts to, three quarters of what the container may have
	leastProcesses = 64
	maxFiles       = 65536
	maxOutput      = 256 << 20
	diskShare      = 2  // half of the disk, for one step
	freeShare      = 50 // a fiftieth of it stays free,
	freeMost       = 1 << 30
	// fileShare times what a step may write is how large a file of it may be:
	// one with holes takes no room until it is copied.
	fileShare = 2
)

type limitsKey struct{}

// WithLimits bounds the steps run under a context. What it leaves 0 is as the
// Executor has it.
func WithLimits(ctx context.Context, l Limits) context.Context {
	return context.WithValue(ctx, limitsKey{}, l)
}

func limitsFrom(ctx context.Context) Limits {
	l, _ := ctx.Value(limitsKey{}).(Limits)
	return l
}

// over are the limits with others where there are none.
func (l Limits) over(others Limits) Limits {
	return Limits{
		Memory: cmp.Or(l.Memory, others.Memory), Processes: cmp.Or(l.Processes, others.Processes),
		Disk: cmp.Or(l.Disk, others.Disk), FreeDisk: cmp.Or(l.FreeDisk, others.FreeDisk),
		Files: cmp.Or(l.Files, others.Files), Output: cmp.Or(l.Output, others.Output),
	}
}

// asked are the limits with what a step itself asks for.
func (l Limits) asked(r *pb.LinuxResources) Limits {
	if r != nil && r.Memory > 0 {
		l.Memory = r.Memory
	}
	return l
}

// DefaultLimits are those of this machine, for an engine with its state at root.
func DefaultLimits(root string) Limits {
	var fs unix.Statfs_t
	total := int64(math.MaxInt64 / 4)
	if unix.Statfs(root, &fs) == nil && fs.Blocks > 0 {
		total = int64(fs.Blocks) * fs.Bsize
	}
	return Limits{
		Memory: int64(float64(availableMemory()) * memoryShare), Processes: defaultProcesses(),
		Disk: total / diskShare, FreeDisk: min(total/freeShare, freeMost),
		Files: maxFiles, Output: maxOutput,
	}
}

// Room is what may be written for a step outside of its process.
type Room struct {
	Bytes int64
	limit string
	most  int64
}

// Exceeded says that something is larger.
func (r Room) Exceeded(said string) string { return exceeded(r.limit, said+" "+sized(r.most)) }

// Room is what a step under the context may write now: its limit, and what the
// disk has above what must stay free.
func (e *Executor) Room(ctx context.Context) Room {
	l := limitsFrom(ctx).over(e.opt.Limits)
	if free := max(FreeDisk(e.opt.Root)-l.FreeDisk, 0); free < l.Disk {
		return Room{Bytes: free, limit: LimitFreeDisk, most: free}
	}
	return Room{Bytes: l.Disk, limit: LimitDisk, most: l.Disk}
}

func defaultProcesses() int {
	most := int64(maxProcesses)
	for _, name := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		if n, ok := readNumber(name); ok {
			most = min(most, n/2)
		}
	}
	if n, ok := leastInCgroups("pids", "pids.max", "pids.max"); ok {
		most = min(most, n*3/4) // the engine has threads too
	}
	return int(max(most, leastProcesses))
}

func readNumber(name string) (int64, bool) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil && n > 0
}

// leastInCgroups is the least of what the control groups around this process
// say, from its own up to the one that is mounted.
func leastInCgroups(controller, v2, v1 string) (int64, bool) {
	least, found := int64(math.MaxInt64), false
	look := func(dir, root, file string) {
		for ; strings.HasPrefix(dir, root); dir = filepath.Dir(dir) {
			if n, ok := readNumber(filepath.Join(dir, file)); ok {
				least, found = min(least, n), true
			}
			if dir == root {
				return
			}
		}
	}
	for _, place := range ownCgroups() {
		switch place.controller {
		case "":
			look(place.dir, "/sys/fs/cgroup", v2)
		case controller:
			look(place.dir, filepath.Join("/sys/fs/cgroup", controller), v1)
		}
	}
	// without a namespace of control groups the path above leads nowhere, and
	// what is mounted is the container's own
	look("/sys/fs/cgroup", "/sys/fs/cgroup", v2)
	look("/sys/fs/cgroup/"+controller, "/sys/fs/cgroup/"+controller, v1)
	return least, found
}

// rlimitsOf are the resource limits of a step: those asked for, else ours. A
// hard limit above our own cannot be had.
func (l Limits) rlimitsOf(asked []initproc.Rlimit) []initproc.Rlimit {
	out := asked
	for _, own := range []struct {
		resource int
		value    uint64
	}{{unix.RLIMIT_NOFILE, uint64(l.Files)}, {unix.RLIMIT_FSIZE, fileLimit(l.Disk)}, {unix.RLIMIT_NPROC, processLimit(l.Processes)}} {
		taken := false
		for _, r := range asked {
			taken = taken || r.Resource == own.resource
		}
		var have unix.Rlimit
		if taken || unix.Getrlimit(own.resource, &have) != nil {
			continue
		}
		n := min(own.value, have.Max)
		out = append(out, initproc.Rlimit{Resource: own.resource, Soft: n, Max: n})
	}
	return out
}

// processLimit is how many processes and threads the kernel lets a step's user
// have: enough for other steps and the engine, who may be the same one, and few
// enough for the watch to be heard above them. The kernel does not count root's
// own: there are control groups, or the warden, for that.
func processLimit(processes int) uint64 {
	return 2*uint64(max(processes, 0)) + 1024
}

func fileLimit(disk int64) uint64 {
	if disk > math.MaxInt64/fileShare {
		return math.MaxInt64
	}
	return uint64(disk) * fileShare
}
