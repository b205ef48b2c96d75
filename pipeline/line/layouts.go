package line

import (
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"drydock/modules/artifact"
)

// openLayouts makes the folder for this run's finished layouts. Every run has
// its own: another on the same cache, perhaps of another commit, writes the
// same images. What runs that were killed left is removed.
func (l *Line) openLayouts() (string, error) {
	all := filepath.Join(l.cfg.Cache, "layouts")
	if err := os.MkdirAll(all, 0o700); err != nil {
		return "", layoutsError(all, err)
	}
	sweepLayouts(all)
	// the lock is held before the folder is there, and so for as long as it is
	f, err := os.CreateTemp(all, "run-*.lock")
	if err != nil {
		return "", layoutsError(all, err)
	}
	_ = f.Close()
	guard := flock.New(f.Name())
	if err := guard.Lock(); err != nil {
		return "", layoutsError(f.Name(), err)
	}
	dir := folderOf(f.Name())
	if err := os.Mkdir(dir, 0o700); err != nil {
		_ = guard.Unlock()
		return "", layoutsError(dir, err)
	}
	l.onClose(func() error {
		err := os.RemoveAll(dir)
		_ = os.Remove(f.Name())
		_ = guard.Unlock()
		return err
	})
	return dir, nil
}

const lockSuffix = ".lock"

func folderOf(lock string) string { return lock[:len(lock)-len(lockSuffix)] }

// sweepLayouts removes folders whose run has ended.
func sweepLayouts(all string) {
	there, err := os.ReadDir(all)
	if err != nil {
		return
	}
	for _, e := range there {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(all, e.Name())
		guard := flock.New(dir + lockSuffix)
		if free, err := guard.TryLock(); err != nil || !free {
			continue
		}
		_ = os.RemoveAll(dir) // the next run tries again
		_ = os.Remove(guard.Path())
		_ = guard.Unlock()
	}
}

func layoutsError(place string, err error) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: "making a folder for layouts", Place: place, Err: err}
}

// layoutDir is where the finished layout of an image variant lies on this host
// for as long as this run lasts.
func (l *Line) layoutDir(image, variant string) (string, error) {
	all, err := l.layouts.get()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(all, filepath.FromSlash(image))
	if variant == "" {
		variant = "default"
	}
	return filepath.Join(dir, variant), os.MkdirAll(dir, 0o700)
}
