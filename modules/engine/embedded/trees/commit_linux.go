package trees

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

// Commit makes a snapshot that was worked on one that never changes.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	var snap storage.Snapshot
	err := s.ms.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if snap, err = storage.GetSnapshot(ctx, key); err == nil && snap.Kind != snapshots.KindActive {
			return fmt.Errorf("committing %s: it is not active", key)
		}
		return err
	})
	if err != nil {
		return err
	}
	t := s.active(snap.ID)
	t.mu.Lock()
	defer t.mu.Unlock()
	after, undo, err := s.delta(t, snap)
	if err != nil {
		return fmt.Errorf("committing %s: %w", key, err)
	}
	usage, err := fs.DiskUsage(ctx, s.deltaDir(snap.ID))
	if err == nil {
		err = s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
			_, err := storage.CommitActive(ctx, key, name, snapshots.Usage(usage), opts...)
			return err
		})
	}
	if err != nil {
		return errors.Join(err, undo())
	}
	s.mu.Lock()
	busy := after != nil && t.pins > 0
	if busy {
		t.retired = after
	} else {
		delete(s.actives, snap.ID)
	}
	s.mu.Unlock()
	if after != nil && !busy {
		s.park(after)
	}
	return nil
}

// delta makes the delta of a snapshot. after is its tree, if it has one, as it
// is once the snapshot is committed; undo takes the delta away again.
func (s *Snapshotter) delta(t *tree, snap storage.Snapshot) (after *idleTree, undo func() error, err error) {
	undo = func() error { return nil }
	if len(snap.ParentIDs) == 0 || exists(s.recordPath(snap.ID)) && !exists(s.activeDir(snap.ID)) {
		return nil, undo, nil // it was worked on in its place
	}
	place := filepath.Join(s.root, dirDeltas, snap.ID)
	undo = func() error { return os.RemoveAll(place) }
	err = errors.Join(os.RemoveAll(place), os.Mkdir(place, 0o700), os.Mkdir(s.deltaDir(snap.ID), 0o755))
	if err != nil {
		return nil, undo, err
	}
	if t.was == nil && !exists(s.indexPath(snap.ID)) { // never mounted
		s.giveBack(t)
		return nil, undo, errors.Join(s.like(snap), record{Parent: snap.ParentIDs[0]}.save(s.recordPath(snap.ID)))
	}
	now, err := s.changes(t, snap)
	if err != nil {
		return nil, undo, errors.Join(err, undo())
	}
	return &idleTree{
		dir: filepath.Join(s.root, dirActive, snap.ID), snapshot: snap.ID, bottom: snap.ParentIDs[len(snap.ParentIDs)-1], root: now,
	}, undo, nil
}

// changes puts what changed in a tree into its delta.
func (s *Snapshotter) changes(t *tree, snap storage.Snapshot) (now *file, err error) {
	if t.was == nil {
		if t.was, err = s.handedOut(snap); err != nil {
			return nil, err
		}
	}
	dir := s.activeDir(snap.ID)
	if now, err = scan(dir, t.was); err != nil {
		return nil, err
	}
	c := &comparer{dir: dir, src: s.source}
	if err := c.compare(t.was, now); err != nil {
		return nil, err
	}
	if err := c.build(s.deltaDir(snap.ID), now); err != nil {
		return nil, err
	}
	r := record{Parent: snap.ParentIDs[0], Changes: c.changes}
	r.sort()
	if err := r.save(s.recordPath(snap.ID)); err != nil {
		return nil, err
	}
	return now, c.settle(snap.ID, s.deltaDir(snap.ID), now)
}

// giveBack returns a tree that was reserved and not needed.
func (s *Snapshotter) giveBack(t *tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.reserved != nil {
		s.idle = append(s.idle, t.reserved)
		t.reserved = nil
	}
}

// like gives an empty delta the root directory of what it is a change of.
func (s *Snapshotter) like(snap storage.Snapshot) error {
	f, _, err := look(s.deltaDir(snap.ParentIDs[0]))
	if err != nil {
		return err
	}
	return copyMeta(s.deltaDir(snap.ID), s.deltaDir(snap.ParentIDs[0]), f)
}

// Remove removes a snapshot. The tree of one that was given up may still serve.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var (
		id   string
		snap storage.Snapshot
	)
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		if info.Kind == snapshots.KindActive {
			if snap, err = storage.GetSnapshot(ctx, key); err != nil {
				return err
			}
		}
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	s.forget(id, snap)
	s.discard(filepath.Join(s.root, dirDeltas, id))
	s.discard(filepath.Join(s.root, dirActive, id))
	views, _ := filepath.Glob(filepath.Join(s.root, dirViews, id+"-*"))
	for _, v := range append(views, filepath.Join(s.root, dirViews, id)) {
		s.discard(v)
		s.mu.Lock()
		delete(s.views, filepath.Base(v))
		s.mu.Unlock()
	}
	return nil
}

// forget drops what is kept in memory of a snapshot, and its idle trees.
func (s *Snapshotter) forget(id string, snap storage.Snapshot) {
	s.mu.Lock()
	t := s.actives[id]
	var park *idleTree
	if t != nil {
		if t.reserved != nil {
			s.idle = append(s.idle, t.reserved)
		}
		if t.was != nil && t.pins == 0 && snap.ID != "" && len(snap.ParentIDs) > 0 {
			park = &idleTree{
				dir: filepath.Join(s.root, dirActive, id), snapshot: snap.ParentIDs[0],
				bottom: snap.ParentIDs[len(snap.ParentIDs)-1], root: t.was, dirty: true,
			}
		}
		delete(s.actives, id)
	}
	s.flats = slices.DeleteFunc(s.flats, func(f flat) bool { return f.snapshot == id })
	var gone []*idleTree
	s.idle = slices.DeleteFunc(s.idle, func(i *idleTree) bool {
		if i.snapshot == id {
			gone = append(gone, i)
		}
		return i.snapshot == id
	})
	s.mu.Unlock()
	for _, i := range gone {
		s.discard(i.dir)
	}
	if park != nil {
		s.park(park)
	}
}

// unique is a name no process before or after this one gives.
func (s *Snapshotter) unique() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	return fmt.Sprintf("%d-%d", time.Now().UnixNano(), s.serial)
}

// discard removes a directory in the background, out of the way at once.
func (s *Snapshotter) discard(dir string) {
	if !exists(dir) {
		return
	}
	to := filepath.Join(s.root, dirTrash, s.unique())
	if os.Rename(dir, to) != nil {
		to = dir
	}
	s.trash.Go(func() { _ = os.RemoveAll(to) }) // what is left the next start clears
}

// recover clears what no snapshot stands for and finds the idle trees.
func (s *Snapshotter) recover(ctx context.Context) error {
	kinds := map[string]snapshots.Kind{}
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // a new database
		}
		if err != nil {
			return err
		}
		for id, key := range ids {
			_, info, _, err := storage.GetInfo(ctx, key)
			if err != nil {
				return err
			}
			kinds[id] = info.Kind
		}
		return nil
	})
	if err != nil {
		return err
	}
	sweep := func(folder string, keep func(name string) bool) error {
		names, err := list(filepath.Join(s.root, folder))
		for _, n := range names {
			if !keep(n) {
				s.discard(filepath.Join(s.root, folder, n))
			}
		}
		return err
	}
	return errors.Join(
		sweep(dirDeltas, func(id string) bool {
			return kinds[id] == snapshots.KindCommitted || kinds[id] == snapshots.KindActive && !exists(s.activeDir(id))
		}),
		sweep(dirActive, func(id string) bool { return kinds[id] == snapshots.KindActive }),
		sweep(dirViews, func(view string) bool {
			id, _, _ := strings.Cut(view, "-")
			return kinds[id] == snapshots.KindView
		}),
		sweep(dirIdle, func(name string) bool { return s.findIdle(name, kinds) }),
		sweep(dirTrash, func(string) bool { return false }),
	)
}

// findIdle takes an idle tree of an engine before this one, if it is whole.
func (s *Snapshotter) findIdle(name string, kinds map[string]snapshots.Kind) bool {
	dir := filepath.Join(s.root, dirIdle, name)
	x, err := loadIndex(filepath.Join(dir, "index"))
	if err != nil || kinds[x.Snapshot] != snapshots.KindCommitted {
		return false
	}
	ids, err := s.chain(x.Snapshot)
	if err != nil || len(ids) == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, &idleTree{dir: dir, snapshot: x.Snapshot, bottom: ids[len(ids)-1], root: x.Root})
	return true
}

// parentOf is the id of the snapshot that one with this id is a child of.
func (s *Snapshotter) parentOf(ctx context.Context, id string) (parent string, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil {
			return err
		}
		snap, err := storage.GetSnapshot(ctx, ids[id])
		if err == nil && len(snap.ParentIDs) > 0 {
			parent = snap.ParentIDs[0]
		}
		return err
	})
	return parent, err
}
