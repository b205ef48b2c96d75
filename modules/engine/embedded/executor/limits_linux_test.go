package executor

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

func TestDefaultLimits(t *testing.T) {
	l := DefaultLimits(t.TempDir())
	if l.Memory < 16<<20 || l.Memory > availableMemory() {
		t.Errorf("memory %d of %d", l.Memory, availableMemory())
	}
	if l.Processes < leastProcesses || l.Processes > maxProcesses {
		t.Errorf("processes %d", l.Processes)
	}
	if l.Disk <= 0 || l.FreeDisk <= 0 || l.FreeDisk > freeMost || l.Files != maxFiles || l.Output != maxOutput {
		t.Errorf("got %+v", l)
	}
	if got := (Limits{Files: 7}).over(l); got.Files != 7 || got.Memory != l.Memory || got.Output != l.Output {
		t.Errorf("got %+v", got)
	}
}

func TestRlimitsOfLimits(t *testing.T) {
	asked := []initproc.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 9, Max: 9}}
	got := Limits{Files: 50, Disk: 1 << 20, Processes: 300}.rlimitsOf(asked)
	if len(got) != 3 || got[0].Soft != 9 || got[1].Resource != unix.RLIMIT_FSIZE || got[1].Soft != 2<<20 {
		t.Errorf("got %+v", got)
	}
	if p := got[2]; p.Resource != unix.RLIMIT_NPROC || p.Soft <= 300 || p.Soft > 3000 || p.Max != p.Soft {
		t.Errorf("processes: %+v", p)
	}
	if fileLimit(math.MaxInt64) != math.MaxInt64 {
		t.Error("the limit of files turned around")
	}
}

// TestCountedOutput: what is over the limit is dropped, and said once.
func TestCountedOutput(t *testing.T) {
	var n atomic.Int64
	var mu sync.Mutex
	var out bytes.Buffer
	over := 0
	w := &countedWriter{to: &out, n: &n, limit: 10, over: func() { mu.Lock(); over++; mu.Unlock() }}
	for range 5 {
		if m, err := w.Write([]byte("1234")); m != 4 || err != nil {
			t.Errorf("%d, %v", m, err)
		}
	}
	if out.String() != "12341234" || over != 1 {
		t.Errorf("%q, %d", out.String(), over)
	}
}

// TestContainedExhaustion: each limit ends a step and is named.
func TestContainedExhaustion(t *testing.T) {
	contained(t)
	if os.Getenv(inside) == "" {
		return // once is enough
	}
	for name, c := range map[string]struct {
		limits Limits
		step   []string
		says   string
	}{
		"disk":      {Limits{Disk: 20 << 20}, []string{"fill", "30"}, "limit disk: it wrote more than 20 MiB"},
		"free-disk": {Limits{FreeDisk: math.MaxInt64}, []string{"fill", "10"}, "limit free-disk: less than"},
		"output":    {Limits{Output: 1 << 20}, []string{"endless"}, "limit output: it printed more than 1 MiB"},
		"processes": {Limits{Processes: 300}, []string{"bomb"}, "limit processes: it had more than 300"},
		"memory":    {Limits{Memory: 200 << 20}, []string{"memory"}, "limit memory: it used more than 200 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{Limits: c.limits})
			out, err := b.run(t.Context(), stepOpt{}, c.step...)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--step-limits") {
				t.Errorf("got %v\n%.300s", err, out)
			}
			if err := os.Remove(b.root + "/fill"); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
			// who writes nothing is not why the disk is full
			b.must(stepOpt{}, "script", "sleep 500")
		})
	}
}

// Waiting, for a disk that others keep busy, is none of the processor's time.
func TestProcessorTime(t *testing.T) {
	const wait, work = 200 * time.Millisecond, 30 * time.Millisecond
	if took := processorTime(func() { time.Sleep(wait) }); took > wait/2 {
		t.Errorf("waiting %v took the processor %v", wait, took)
	}
	took := processorTime(func() {
		for done := time.Duration(0); done < work; {
			done += processorTime(func() { _ = sha256.Sum256(make([]byte, 1<<16)) })
		}
	})
	if took < work {
		t.Errorf("working %v took the processor %v", work, took)
	}
}

// TestGroupsInUseStay lets another engine sweep while a step's groups are there
// and empty: before it was put in, and after it ended.
func TestGroupsInUseStay(t *testing.T) {
	groups := newCgroups(fmt.Sprint("test", os.Getpid()), Limits{Memory: 1 << 30, Processes: 100})
	if len(groups) == 0 {
		t.Log("no control group can be made here")
		return
	}
	sweepCgroups()
	for _, g := range groups {
		if _, err := os.Stat(filepath.Join(g.dir, "cgroup.procs")); err != nil {
			t.Errorf("swept while in use: %v", err)
		}
		g.lock.Close() // as if killed
	}
	sweepCgroups()
	for _, g := range groups {
		if _, err := os.Stat(g.dir); err == nil {
			t.Errorf("%s was left", g.dir)
		}
	}
	// swept and made, over and over
	var sweeper sync.WaitGroup
	stop := make(chan struct{})
	sweeper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				sweepCgroups()
			}
		}
	})
	for n := range 200 {
		again := newCgroups(fmt.Sprint("test", os.Getpid(), "-", n), Limits{Memory: 1 << 30, Processes: 100})
		if len(again) != len(groups) {
			t.Errorf("%d groups, were %d", len(again), len(groups))
		}
		for _, g := range again {
			if _, err := os.Stat(filepath.Join(g.dir, "cgroup.procs")); err != nil {
				t.Errorf("swept while in use: %v", err)
			}
		}
		if err := again.remove(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	sweeper.Wait()
}
