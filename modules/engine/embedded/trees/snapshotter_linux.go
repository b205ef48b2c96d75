package trees

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	bolt "go.etcd.io/bbolt"
)

// Options of a Snapshotter; the zero value is what containerd expects of one.
type Options struct {
	// Lazy leaves a tree unmade until Mounts is called for it, and marks views
	// read-write: who reads them then takes the path and mounts nothing.
	Lazy bool
	// Deferred names snapshots whose directory is not even made then: views
	// wait for Ensure, and layers are unpacked without a tree. nil defers none.
	Deferred func(key string) bool
	// Idle is how many trees nobody uses are kept for the next steps; 0 is
	// three, a negative number keeps none.
	Idle int
}

// Snapshotter keeps snapshots as deltas and trees. Its mounts are single bind
// mounts of plain directories.
type Snapshotter struct {
	root string
	opt  Options
	ms   *storage.MetaStore
	fine bool // every change is stamped with a time of its own

	mu      sync.Mutex
	actives map[string]*tree
	idle    []*idleTree
	views   map[string]*sync.Mutex
	flats   []flat
	serial  int
	trash   background
}

// background is work nobody waits for but at the end. Unlike with a WaitGroup,
// more may begin while somebody waits.
type background struct {
	mu      sync.Mutex
	running int
	none    *sync.Cond
}

// Go runs f.
func (b *background) Go(f func()) {
	b.mu.Lock()
	b.running++
	b.mu.Unlock()
	go func() {
		defer func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.running--
			if b.running == 0 && b.none != nil {
				b.none.Broadcast()
			}
		}()
		f()
	}()
}

// Wait returns when nothing is running.
func (b *background) Wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.none == nil {
		b.none = sync.NewCond(&b.mu)
	}
	for b.running > 0 {
		b.none.Wait()
	}
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

const defaultIdle = 3

// The folders of a Snapshotter.
const (
	dirDeltas = "deltas"
	dirActive = "active"
	dirIdle   = "idle"
	dirViews  = "views"
	dirTrash  = "trash"
)

// New opens the snapshots in root and clears what a killed process left.
func New(root string, opt Options) (*Snapshotter, error) {
	if opt.Idle == 0 {
		opt.Idle = defaultIdle
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	for _, d := range []string{dirDeltas, dirActive, dirIdle, dirViews, dirTrash} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, fmt.Errorf("opening snapshots: %w", err)
		}
	}
	// NoSync: a killed process loses nothing it wrote
	ms, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bolt.Options) error {
		o.NoSync, o.FreelistType = true, bolt.FreelistMapType
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening snapshots: %w", err)
	}
	s := &Snapshotter{root: root, opt: opt, ms: ms, actives: map[string]*tree{}, views: map[string]*sync.Mutex{}}
	s.fine = fineStamps(root)
	if err := s.recover(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("opening snapshots: %w", err), ms.Close())
	}
	return s, nil
}

func (s *Snapshotter) deltaDir(id string) string { return filepath.Join(s.root, dirDeltas, id, "fs") }
func (s *Snapshotter) recordPath(id string) string {
	return filepath.Join(s.root, dirDeltas, id, "record")
}
func (s *Snapshotter) activeDir(id string) string { return filepath.Join(s.root, dirActive, id, "fs") }
func (s *Snapshotter) indexPath(id string) string {
	return filepath.Join(s.root, dirActive, id, "index")
}

// source is where a delta has a file.
func (s *Snapshotter) source(f *file, path string) string { return s.deltaDir(f.Delta) + path }

// Stat returns what is known of the snapshot with that key or name.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes the labels of a snapshot.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (out snapshots.Info, err error) {
	err = s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		out, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return out, err
}

// Usage is what a snapshot takes besides its parents; of one being worked on,
// what it would be.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var (
		snap storage.Snapshot
		info snapshots.Info
	)
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		if _, info, usage, err = storage.GetInfo(ctx, key); err != nil || info.Kind != snapshots.KindActive {
			return err
		}
		snap, err = storage.GetSnapshot(ctx, key)
		return err
	})
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, err
	}
	if len(snap.ParentIDs) == 0 || exists(s.recordPath(snap.ID)) {
		du, err := fs.DiskUsage(ctx, s.deltaDir(snap.ID))
		return snapshots.Usage(du), err
	}
	return s.treeUsage(snap)
}

// Prepare makes a snapshot to work on.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	snap, err := s.create(ctx, snapshots.KindActive, key, parent, opts)
	if err != nil {
		return nil, err
	}
	if len(snap.ParentIDs) > 0 {
		s.reserve(snap)
	}
	if s.opt.Lazy {
		return s.mounts(snap), nil
	}
	return s.ready(ctx, key, snap)
}

// View makes a snapshot to read from.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	snap, err := s.create(ctx, snapshots.KindView, key, parent, opts)
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, key, snap)
}

// Mounts gives a snapshot's directory, made if it was not yet.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var snap storage.Snapshot
	err := s.ms.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		snap, err = storage.GetSnapshot(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, key, snap)
}

func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (snap storage.Snapshot, err error) {
	err = s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		snap, err = storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return fmt.Errorf("creating snapshot %s: %w", key, err)
		}
		if len(snap.ParentIDs) > 0 {
			return nil
		}
		dir := s.directory(snap)
		if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		return os.Chmod(dir, 0o755) // whatever the umask
	})
	return snap, err
}

// directory is where a snapshot is, or will be.
func (s *Snapshotter) directory(snap storage.Snapshot) string {
	switch {
	case snap.Kind == snapshots.KindView && len(snap.ParentIDs) == 0:
		return filepath.Join(s.root, dirViews, snap.ID, "fs")
	case snap.Kind == snapshots.KindView && len(snap.ParentIDs) == 1:
		return s.deltaDir(snap.ParentIDs[0])
	case snap.Kind == snapshots.KindView:
		return filepath.Join(s.root, dirViews, snap.ID+"-"+snap.ParentIDs[0], "fs")
	case snap.Kind == snapshots.KindActive && len(snap.ParentIDs) > 0:
		return s.activeDir(snap.ID)
	}
	return s.deltaDir(snap.ID)
}

func (s *Snapshotter) mounts(snap storage.Snapshot) []mount.Mount {
	access := "rw"
	if snap.Kind == snapshots.KindView && !s.opt.Lazy {
		access = "ro"
	}
	return []mount.Mount{{Type: "bind", Source: s.directory(snap), Options: []string{"rbind", access}}}
}

func (s *Snapshotter) ready(ctx context.Context, key string, snap storage.Snapshot) ([]mount.Mount, error) {
	if len(snap.ParentIDs) > 0 && (s.opt.Deferred == nil || !s.opt.Deferred(key)) {
		var err error
		if snap.Kind == snapshots.KindView {
			err = s.Ensure(ctx, s.directory(snap))
		} else {
			_, err = s.tree(snap)
		}
		if err != nil {
			return nil, fmt.Errorf("making the directory of snapshot %s: %w", key, err)
		}
	}
	return s.mounts(snap), nil
}

// Walk calls fn for every snapshot the filters choose.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, filters...)
	})
}

// Cleanup waits for what is being removed.
func (s *Snapshotter) Cleanup(context.Context) error {
	s.trash.Wait()
	return nil
}

// Close keeps what is known of idle trees for the next time.
func (s *Snapshotter) Close() error {
	s.mu.Lock()
	for _, t := range s.idle {
		if !t.dirty {
			_ = index{Snapshot: t.snapshot, Root: t.root}.save(filepath.Join(t.dir, "index")) // else it is made again
		}
	}
	s.idle = nil
	for id, t := range s.actives { // what is kept for longer than this engine
		if t.was != nil && len(id) > 0 {
			_ = index{Root: t.was}.save(s.indexPath(id)) // else it is compared file by file
		}
	}
	s.mu.Unlock()
	s.trash.Wait()
	return s.ms.Close()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
