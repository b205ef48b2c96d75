package executor

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fitting is what every contained step sees at /dev, /proc and /sys. Making it
// takes as long as a small step, so that steps have it one after the other: one
// that no step has changed is given to the next. The kernel's change times say
// whether: no process can set them.
type fitting struct {
	dir   string           // has a directory of each name
	kind  [32]byte         // of what is in it: fittings of one kind are the same
	parts map[string]*part // by name
}

// part is one directory of a fitting.
type part struct {
	below map[string]mark // files in it, by path
	top   mark            // itself, since it is in place: moving it there is a change
}

// mark tells a file from any later state of it.
type mark unix.Stat_t

// fittings are those no step has.
type fittings struct {
	root string
	bare bool // files stand for device nodes
	mu   sync.Mutex
	free []*fitting
	made int
}

// keptFittings is how many are kept: as many as steps run at a time, mostly.
const keptFittings = 8

// markOf leaves out what changes without anybody changing the file.
func markOf(st *unix.Stat_t) mark {
	m := mark(*st)
	m.Atim, m.Blocks = unix.Timespec{}, 0
	return m
}

// kindOf is the kind of a fitting by what steps do not have alike.
func kindOf(host string, dev map[string]string) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", host)
	for _, name := range slices.Sorted(maps.Keys(dev)) {
		fmt.Fprintf(h, "%q %q\n", name, dev[name])
	}
	return [32]byte(h.Sum(nil))
}

// take gives a fitting for a host of that name, with further files in /dev.
func (f *fittings) take(host string, proc, dev map[string]string) (*fitting, error) {
	kind := kindOf(host, dev)
	f.mu.Lock()
	for i, t := range f.free {
		if t.kind == kind {
			f.free = append(f.free[:i], f.free[i+1:]...)
			f.mu.Unlock()
			return t, nil
		}
	}
	f.made++
	dir := filepath.Join(f.root, fmt.Sprintf("fitting%d", f.made))
	f.mu.Unlock()
	t := &fitting{dir: dir, kind: kind, parts: map[string]*part{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing the step: %w", err)
	}
	for name, make := range map[string]func(string) error{
		"dev": func(dir string) error { return makeDev(dir, dev, f.bare) }, "sys": makeSys, "proc": func(dir string) error { return makeProc(dir, host, proc) },
	} {
		if err := make(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("preparing the step: %w", err)
		}
		below, err := marksBelow(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("preparing the step: %w", err)
		}
		t.parts[name] = &part{below: below}
	}
	return t, nil
}

// give takes a fitting back; one that was changed is removed, and of more than
// are kept the one nobody has wanted for longest: its kind may be gone for good.
func (f *fittings) give(t *fitting, same bool) {
	gone := t
	f.mu.Lock()
	if same {
		gone = nil
		f.free = append(f.free, t)
	}
	if len(f.free) > keptFittings {
		gone, f.free = f.free[0], f.free[1:]
	}
	f.mu.Unlock()
	if gone != nil {
		_ = os.RemoveAll(gone.dir)
	}
}

// marksBelow marks everything in a directory.
func marksBelow(dir string) (map[string]mark, error) {
	out := map[string]mark{}
	err := eachBelow(dir, func(path string, st *unix.Stat_t) bool {
		out[path] = markOf(st)
		return true
	})
	return out, err
}

// eachBelow looks at everything in a directory until look says no.
func eachBelow(dir string, look func(path string, st *unix.Stat_t) bool) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		path := dir + "/" + name
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if !look(path, &st) {
			return nil
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := eachBelow(path, look); err != nil {
				return err
			}
		}
	}
	return nil
}

// placed notes that a part is in place.
func (t *fitting) placed(name string, obj *os.File) {
	var st unix.Stat_t
	if unix.Fstat(int(obj.Fd()), &st) == nil {
		t.parts[name].top = markOf(&st)
	}
}

// same reports whether a part, still in place, is as it was put there.
func (t *fitting) same(name string, obj *os.File) bool {
	var st unix.Stat_t
	p := t.parts[name]
	if unix.Fstat(int(obj.Fd()), &st) != nil || markOf(&st) != p.top {
		return false
	}
	left, ok := len(p.below), true
	away := filepath.Join(t.dir, name)
	err := eachBelow(fdPath(obj), func(path string, st *unix.Stat_t) bool {
		m, known := p.below[away+path[len(fdPath(obj)):]]
		ok = ok && known && m == markOf(st)
		left--
		return ok
	})
	return err == nil && ok && left == 0
}

// settled waits until a change of what was placed would be seen: the clock that
// stamps files must have left the stamps of placing it. It has by the time an
// init has started, mostly.
func (t *fitting) settled() {
	for range 20 {
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil {
			return
		}
		over := true
		for _, p := range t.parts {
			over = over && now.Nano() > p.top.Ctim.Nano()
		}
		if over {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
