package executor

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPrefix marks the control groups that are ours.
const cgroupPrefix = "drydock-"

// limit is one control group file to write, by the name of version 2 and of
// version 1.
type limit struct {
	controller, v2, v1 string
	value              int64
}

// spareProcesses are more than the limit, so that the watch, which counts no
// init, sees that it was reached.
const spareProcesses = 64

func groupLimits(l Limits) []limit {
	return []limit{
		{"pids", "pids.max", "pids.max", int64(l.Processes) + spareProcesses},
		{"memory", "memory.max", "memory.limit_in_bytes", l.Memory},
	}
}

// cgroups are the control groups of one step. Each is locked as long as it is
// in use: an engine that begins removes what others left, not what they have.
type cgroups []cgroup

type cgroup struct {
	dir  string
	lock *os.File
}

// newCgroups makes what groups it can. Groups are a convenience that many
// hosts do not give an ordinary user: what cannot be had is left out.
func newCgroups(id string, own Limits) cgroups {
	var out cgroups
	for _, l := range groupLimits(own) {
		for _, place := range ownCgroups() {
			dir := filepath.Join(place.dir, cgroupPrefix+id)
			file := filepath.Join(dir, l.v2)
			switch {
			case place.controller == "":
				_ = os.WriteFile(filepath.Join(place.dir, "cgroup.subtree_control"), []byte("+"+l.controller), 0)
			case place.controller == l.controller:
				file = filepath.Join(dir, l.v1)
			default:
				continue
			}
			if !slices.ContainsFunc(out, func(g cgroup) bool { return g.dir == dir }) {
				g, err := makeCgroup(dir)
				if err != nil {
					continue
				}
				out = append(out, g)
			}
			_ = os.WriteFile(file, []byte(strconv.FormatInt(l.value, 10)), 0)
		}
	}
	return out
}

// makeCgroup makes a group and locks it. One that another engine sweeps in
// between is made again.
func makeCgroup(dir string) (cgroup, error) {
	for tries := 100; ; tries-- {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return cgroup{}, err
		}
		lock, err := lockCgroup(dir, 0)
		if err == nil {
			return cgroup{dir, lock}, nil
		}
		if tries == 0 || !errors.Is(err, os.ErrNotExist) {
			return cgroup{}, err
		}
	}
}

// lockCgroup locks a group that is there (flock(2), also with LOCK_NB).
func lockCgroup(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|how); err == nil {
		_, err = os.Stat(dir) // it may have gone meanwhile
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// add puts a process, and what it will start, into the groups.
func (c cgroups) add(pid int) {
	for _, g := range c {
		_ = os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	}
}

// ranOut reports whether the kernel killed something for the groups' memory
// (memory.events of version 2, memory.oom_control of version 1).
func (c cgroups) ranOut() bool {
	return c.happened("memory.events", "oom_kill ") || c.happened("memory.oom_control", "oom_kill ")
}

// full reports whether the kernel refused the groups a process.
func (c cgroups) full() bool { return c.happened("pids.events", "max ") }

func (c cgroups) happened(file, event string) bool {
	for _, g := range c {
		b, err := os.ReadFile(filepath.Join(g.dir, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), event); ok && n != "0" {
				return true
			}
		}
	}
	return false
}

// remove removes the groups; the kernel lets go of the dead a moment later.
func (c cgroups) remove() error {
	for _, g := range c {
		for range 50 {
			if err := unix.Rmdir(g.dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		g.lock.Close()
	}
	return nil
}

// sweepCgroups removes the empty groups a killed engine left.
func sweepCgroups() {
	for _, place := range ownCgroups() {
		old, _ := filepath.Glob(filepath.Join(place.dir, cgroupPrefix+"*"))
		for _, dir := range old {
			lock, err := lockCgroup(dir, unix.LOCK_NB)
			if err != nil {
				continue // in use
			}
			_ = unix.Rmdir(dir)
			lock.Close()
		}
	}
}

// cgroupPlace is where this process is in one hierarchy.
type cgroupPlace struct {
	dir        string
	controller string // "" for version 2
}

// ownCgroups reads /proc/self/cgroup (cgroups(7)) and finds each hierarchy
// where it usually is mounted.
func ownCgroups() []cgroupPlace {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []cgroupPlace
	for sc := bufio.NewScanner(f); sc.Scan(); {
		parts := strings.SplitN(sc.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "" {
			for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
				dir := filepath.Join(root, parts[2])
				if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
					out = append(out, cgroupPlace{dir: dir})
					break
				}
			}
			continue
		}
		for _, controller := range strings.Split(parts[1], ",") {
			if controller == "pids" || controller == "memory" {
				out = append(out, cgroupPlace{filepath.Join("/sys/fs/cgroup", controller, parts[2]), controller})
			}
		}
	}
	return out
}
