package executor

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/warden"
)

// writes notes where on disk mounts lead what is written to them.
func (s *step) writes(mounts []mount.Mount) {
	for _, m := range mounts {
		switch {
		case m.ReadOnly():
		case m.Type == "bind", m.Type == "rbind":
			s.places = append(s.places, m.Source)
		default:
			for _, o := range m.Options {
				if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
					s.places = append(s.places, dir)
				}
			}
		}
	}
}

// clockTick is more than the kernel's clock for files may be behind (one tick of
// CONFIG_HZ, a hundredth of a second at most).
const clockTick = 25 * time.Millisecond

// written is how much of what is at the step's places was written since then,
// in bytes of disk, with what its processes have open and nobody finds.
func (s *step) written(since time.Time, pids []int) int64 {
	type file struct{ dev, ino uint64 }
	linked := map[file]bool{}
	sum := int64(0)
	from := since.Add(-clockTick)
	for _, place := range s.places {
		_ = filepath.WalkDir(place, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // it went while we looked
			}
			fi, err := d.Info()
			if err != nil {
				return nil //nolint:nilerr // the same
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			if !ok || time.Unix(st.Ctim.Unix()).Before(from) {
				return nil
			}
			if st.Nlink > 1 && !fi.IsDir() {
				if f := (file{st.Dev, st.Ino}); linked[f] {
					return nil
				} else {
					linked[f] = true
				}
			}
			sum += st.Blocks * 512
			return nil
		})
	}
	return sum + warden.Unlinked(pids, false)
}

// tmpfs is what the step has in file systems of memory that were mounted for it.
func (s *step) tmpfs() int64 {
	sum := int64(0)
	for _, dir := range s.inMemory {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.TMPFS_MAGIC {
			sum += int64(st.Blocks-st.Bfree) * st.Bsize
		}
	}
	return sum
}

// bounded is a directory in place of a tmpfs, which the kernel would not let
// grow beyond its size.
type bounded struct {
	dir  *os.File // for as long as the step is watched
	name string   // as the step sees it
	size int64
}

// over reports whether the directory takes more disk than its size.
func (b bounded) over() bool {
	sum := int64(0)
	err := filepath.WalkDir(fdPath(b.dir)+"/.", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it went while we looked
		}
		if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		if sum > b.size {
			return fs.SkipAll
		}
		return nil
	})
	return err == nil && sum > b.size
}

// counted is a stream of the step that ends it when it has printed too much;
// what comes after that is dropped.
func (s *step) counted(to io.Writer, kill func()) io.Writer {
	if to == nil {
		to = io.Discard
	}
	return &countedWriter{to: to, n: &s.printed, limit: s.limits.Output, over: func() {
		s.stop(exceeded(LimitOutput, "it printed more than "+sized(s.limits.Output)))
		kill()
	}}
}

type countedWriter struct {
	to    io.Writer
	n     *atomic.Int64
	limit int64
	over  func()
}

func (w *countedWriter) Write(b []byte) (int, error) {
	after := w.n.Add(int64(len(b)))
	if after <= w.limit {
		return w.to.Write(b)
	}
	if after-int64(len(b)) <= w.limit {
		w.over()
	}
	return len(b), nil
}
