package core

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// removeOrphans removes the directories of snapshots that a killed engine made
// and never entered into the snapshotter's database. The database gives their
// numbers out again, and a number whose directory is there fails every step
// that gets it. It runs before the snapshotter is opened, which keeps its
// database to itself.
func removeOrphans(ctx context.Context, root string) error {
	entries, err := os.ReadDir(filepath.Join(root, "snapshots"))
	if err != nil || len(entries) == 0 {
		return nil // there is nothing yet
	}
	db := filepath.Join(root, "metadata.db")
	if _, err := os.Stat(db); err != nil {
		return nil // it makes its own
	}
	store, err := storage.NewMetaStore(db)
	if err != nil {
		return fmt.Errorf("looking for orphaned snapshots: %w", err)
	}
	known := map[string]string{}
	err = store.WithTransaction(ctx, false, func(ctx context.Context) error {
		m, err := storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // no snapshot was ever entered
		}
		known = m
		return err
	})
	if cerr := store.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("looking for orphaned snapshots: %w", err)
	}
	for _, e := range entries {
		if _, ok := known[e.Name()]; !ok {
			if err := os.RemoveAll(filepath.Join(root, "snapshots", e.Name())); err != nil {
				return fmt.Errorf("removing an orphaned snapshot: %w", err)
			}
		}
	}
	return nil
}
