package trees

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"golang.org/x/sys/unix"
)

// tree is the tree of a snapshot that is worked on.
type tree struct {
	mu  sync.Mutex
	was *file // as it was handed out; nil while it is not made or not known

	// the rest belongs to the Snapshotter's lock
	reserved *idleTree
	pins     int
	retired  *idleTree // what it is once nobody reads it any more
}

// idleTree is a tree nobody uses.
type idleTree struct {
	dir      string // has fs and, after Close, index
	snapshot string // it is a tree of this snapshot
	bottom   string // the lowest delta of that
	root     *file
	dirty    bool  // a step that was given up wrote to it
	readers  int   // who read it as a view; it stays what it is meanwhile
	parked   int64 // when, in nanoseconds since 1970: it has not changed since
}

// flat is a snapshot put together.
type flat struct {
	snapshot string
	root     *file
}

// keptFlats is how many of them are remembered: a base and what is built on it.
const keptFlats = 4

func (s *Snapshotter) active(id string) *tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.actives[id]
	if t == nil {
		t = &tree{}
		s.actives[id] = t
	}
	return t
}

// reserve keeps the tree of the parent for its child.
func (s *Snapshotter) reserve(snap storage.Snapshot) {
	t := s.active(snap.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.reserved = s.takeIdle(func(i *idleTree) bool { return i.snapshot == snap.ParentIDs[0] })
}

// takeIdle takes an idle tree, the one longest unused first, clean before
// dirty. s.mu is held.
func (s *Snapshotter) takeIdle(fits func(*idleTree) bool) *idleTree {
	found := -1
	for i, t := range s.idle {
		if t.readers == 0 && fits(t) && (found < 0 || s.idle[found].dirty && !t.dirty) {
			found = i
		}
	}
	if found < 0 {
		return nil
	}
	t := s.idle[found]
	s.idle = slices.Delete(s.idle, found, found+1)
	return t
}

// tree makes the tree of a snapshot unless it is there.
func (s *Snapshotter) tree(snap storage.Snapshot) (*tree, error) {
	t := s.active(snap.ID)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.was != nil {
		return t, nil
	}
	if exists(s.indexPath(snap.ID)) { // of an engine before this one
		var err error
		t.was, err = s.handedOut(snap)
		return t, err
	}
	want, have, parked, err := s.start(t, snap)
	if err != nil {
		return nil, err
	}
	sy := &syncer{dir: s.activeDir(snap.ID), src: s.source}
	now, err := sy.sync(have, want)
	if err != nil {
		return nil, err
	}
	if !s.fine {
		awaitClock(max(sy.newest, parked))
	}
	// only an engine after this one needs to know that the tree is whole; it
	// then compares file by file
	if err := os.WriteFile(s.indexPath(snap.ID), nil, 0o600); err != nil {
		return nil, fmt.Errorf("making a tree: %w", err)
	}
	t.was = now
	return t, nil
}

// handedOut is how the tree was when a step got it: from its index, or what it
// was made of, with which every file is then compared.
func (s *Snapshotter) handedOut(snap storage.Snapshot) (*file, error) {
	x, err := loadIndex(s.indexPath(snap.ID))
	if err == nil {
		return x.Root, nil
	}
	return s.flat(snap.ParentIDs)
}

// start puts what the tree is made from in its place: have is what is there,
// and nothing of it was changed after parked.
func (s *Snapshotter) start(t *tree, snap storage.Snapshot) (want, have *file, parked int64, err error) {
	s.mu.Lock()
	from := t.reserved
	t.reserved = nil
	if from == nil {
		bottom := snap.ParentIDs[len(snap.ParentIDs)-1]
		from = s.takeIdle(func(i *idleTree) bool { return i.bottom == bottom })
	}
	s.mu.Unlock()
	place := filepath.Join(s.root, dirActive, snap.ID)
	if exists(place) { // half made by a process that was killed
		s.discard(place)
	}
	if from != nil {
		have, err = s.reuse(from, place)
		parked = from.parked
		if err == nil && !from.dirty && from.snapshot == snap.ParentIDs[0] {
			return have, have, parked, nil
		}
	}
	if from == nil || err != nil {
		have = nil
		if err := os.Mkdir(place, 0o700); err != nil {
			return nil, nil, 0, err
		}
		if err := os.Mkdir(filepath.Join(place, "fs"), 0o700); err != nil {
			return nil, nil, 0, err
		}
	}
	want, err = s.flat(snap.ParentIDs)
	return want, have, parked, err
}

// reuse moves an idle tree to a new place.
func (s *Snapshotter) reuse(from *idleTree, place string) (*file, error) {
	if err := os.Remove(filepath.Join(from.dir, "index")); err != nil && !os.IsNotExist(err) {
		s.discard(from.dir)
		return nil, err
	}
	if from.root == nil { // of an engine before this one; read when it was found
		s.discard(from.dir)
		return nil, errIndex
	}
	have := from.root
	if from.dirty {
		var err error
		if have, err = scan(filepath.Join(from.dir, "fs"), have); err != nil {
			s.discard(from.dir)
			return nil, err
		}
	}
	if err := os.Rename(from.dir, place); err != nil {
		s.discard(from.dir)
		return nil, err
	}
	return have, nil
}

// flat puts the deltas of a snapshot together; ids are the highest first.
func (s *Snapshotter) flat(ids []string) (*file, error) {
	s.mu.Lock()
	for i, f := range s.flats {
		if f.snapshot == ids[0] {
			s.flats = append(slices.Delete(s.flats, i, i+1), f)
			s.mu.Unlock()
			return f.root, nil
		}
	}
	s.mu.Unlock()
	up := slices.Clone(ids)
	slices.Reverse(up)
	root, err := s.flatten(up)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flats = append(s.flats, flat{ids[0], root})
	if n := len(s.flats) - keptFlats; n > 0 {
		s.flats = slices.Delete(s.flats, 0, n)
	}
	return root, nil
}

// awaitClock waits until a change of a file would be seen: the clock that
// stamps files must have left the stamps the tree has.
func awaitClock(newest int64) {
	for range 50 {
		if now := fileClock(); now == 0 || now > newest {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// fileClock is the time that files are stamped with where stamps are coarse; 0
// when it cannot be told.
func fileClock() int64 {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) != nil {
		return 0
	}
	return now.Nano()
}

// fineStamps reports whether a file system stamps every change of a file that
// was looked at before with a time of its own (Linux 6.13, on most), so that
// none can hide in a tick of the clock.
func fineStamps(dir string) bool {
	name := filepath.Join(dir, "stamps")
	defer os.Remove(name)
	if os.WriteFile(name, nil, 0o600) != nil {
		return false
	}
	last := int64(0)
	for i := range 8 {
		if unix.Chmod(name, 0o600|uint32(i%2)) != nil {
			return false
		}
		f, _, err := look(name)
		if err != nil || f.Ctime == last {
			return false
		}
		last = f.Ctime
	}
	return true
}

// Read gives a directory that has what the directory of a snapshot has and
// stays so until released: itself, or for a deferred view a tree of the same
// snapshot. ok is as with Pin.
func (s *Snapshotter) Read(ctx context.Context, dir string) (path string, release func(), ok bool, err error) {
	release, ok = s.Pin(dir)
	if !ok {
		return "", nil, false, nil
	}
	id := s.committed(dir)
	if id == "" || exists(dir) {
		return dir, release, true, nil
	}
	s.mu.Lock()
	for _, t := range s.idle {
		if t.snapshot == id && !t.dirty {
			t.readers++
			s.mu.Unlock()
			return filepath.Join(t.dir, "fs"), func() {
				s.mu.Lock()
				t.readers--
				s.mu.Unlock()
				s.trim()
			}, true, nil
		}
	}
	s.mu.Unlock()
	return dir, release, true, s.Ensure(ctx, dir)
}

// Ensure makes the directory of a deferred view. Other paths are left alone.
func (s *Snapshotter) Ensure(_ context.Context, dir string) error {
	rel, err := filepath.Rel(filepath.Join(s.root, dirViews), dir)
	if err != nil || strings.HasPrefix(rel, "..") {
		return nil
	}
	view, rest, _ := strings.Cut(rel, "/")
	_, id, ok := strings.Cut(view, "-")
	if !ok || rest != "fs" {
		return nil
	}
	s.mu.Lock()
	lock := s.views[view]
	if lock == nil {
		lock = &sync.Mutex{}
		s.views[view] = lock
	}
	s.mu.Unlock()
	lock.Lock()
	defer lock.Unlock()
	if exists(dir) {
		return nil
	}
	ids, err := s.chain(id)
	if err != nil {
		return err
	}
	want, err := s.flat(ids)
	if err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(dir), "new")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if _, err := (&syncer{dir: tmp, link: true, src: s.source}).sync(nil, want); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// chain lists a committed snapshot and those below it.
func (s *Snapshotter) chain(id string) ([]string, error) {
	var ids []string
	for id != "" {
		ids = append(ids, id)
		r, err := loadRecord(s.recordPath(id))
		if err != nil {
			return nil, err
		}
		id = r.Parent
	}
	return ids, nil
}

// Pin keeps the directory of a snapshot as it is while it is read, also when
// the snapshot is committed meanwhile. ok is false when that has happened
// already: the mounts must then be asked for again. release is called once.
func (s *Snapshotter) Pin(dir string) (release func(), ok bool) {
	rel, err := filepath.Rel(filepath.Join(s.root, dirActive), dir)
	if err != nil || strings.HasPrefix(rel, "..") {
		return func() {}, true
	}
	id, _, _ := strings.Cut(rel, "/")
	s.mu.Lock()
	t := s.actives[id]
	if t == nil || t.retired != nil && t.pins == 0 {
		s.mu.Unlock()
		return func() {}, false
	}
	t.pins++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		t.pins--
		retired := t.retired
		if t.pins > 0 {
			retired = nil
		}
		if retired != nil {
			t.retired = nil
			delete(s.actives, id)
		}
		s.mu.Unlock()
		if retired != nil {
			s.park(retired)
		}
	}, true
}

// park makes a tree an idle one.
func (s *Snapshotter) park(t *idleTree) {
	place := filepath.Join(s.root, dirIdle, s.unique())
	if s.opt.Idle < 0 || os.Rename(t.dir, place) != nil {
		s.discard(t.dir)
		return
	}
	_ = os.Remove(filepath.Join(place, "index")) // it says how the tree was before
	t.dir, t.parked = place, fileClock()
	s.mu.Lock()
	s.idle = append(s.idle, t)
	s.mu.Unlock()
	s.trim()
}

// trim removes the idle trees that are too many, the oldest first.
func (s *Snapshotter) trim() {
	var old []*idleTree
	s.mu.Lock()
	over := len(s.idle) - s.opt.Idle
	s.idle = slices.DeleteFunc(s.idle, func(t *idleTree) bool {
		if over <= 0 || t.readers > 0 {
			return false
		}
		over--
		old = append(old, t)
		return true
	})
	s.mu.Unlock()
	for _, t := range old {
		s.discard(t.dir)
	}
}

// treeUsage is what the changes of a tree take.
func (s *Snapshotter) treeUsage(snap storage.Snapshot) (snapshots.Usage, error) {
	if !exists(s.activeDir(snap.ID)) {
		return snapshots.Usage{}, nil
	}
	t, err := s.tree(snap)
	if err != nil {
		return snapshots.Usage{}, err
	}
	now, err := scan(s.activeDir(snap.ID), t.was)
	if err != nil {
		return snapshots.Usage{}, err
	}
	c := comparer{dir: s.activeDir(snap.ID), src: s.source}
	if err := c.compare(t.was, now); err != nil {
		return snapshots.Usage{}, err
	}
	usage, seen := snapshots.Usage{}, map[uint64]bool{}
	for _, ch := range c.changes {
		if f := now.at(ch.Path); ch.Kind != kindDelete && !seen[f.Ino] {
			seen[f.Ino] = true
			usage.Inodes++
			usage.Size += f.Size
		}
	}
	return usage, nil
}
