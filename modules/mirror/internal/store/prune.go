package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// touchAfter is how old a blob's note of its last use may get.
const touchAfter = time.Minute

// Usage is what a store holds.
type Usage struct {
	Files int
	Bytes int64
}

// PruneOptions say what may go. Zero values do not limit.
type PruneOptions struct {
	MaxBytes  int64         // the least recently used go until no more than this is left
	OlderThan time.Duration // what was not used for so long goes
}

// blobFile is a blob as the directory has it; its time of change is that of its
// last use.
type blobFile struct {
	path string
	size int64
	used time.Time

	partial bool // a transfer that broke off
}

// Register notes that this process uses the store from now on: what it uses is
// not pruned by others. The function returned ends that.
func (s *Store) Register() (release func(), err error) {
	dir := filepath.Join(s.dir, "users")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, diskError(dir, err)
	}
	f, err := os.CreateTemp(dir, strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, diskError(dir, err)
	}
	_ = f.Close()
	lock := flock.New(f.Name())
	if err := lock.Lock(); err != nil {
		_ = os.Remove(f.Name())
		return nil, diskError(f.Name(), err)
	}
	return func() {
		_ = os.Remove(f.Name())
		_ = lock.Unlock()
	}, nil
}

// since is when the first of the processes that use the store began; now when
// there is none. Marks of processes that are gone are removed.
func (s *Store) since(now time.Time) time.Time {
	marks, err := os.ReadDir(filepath.Join(s.dir, "users"))
	if err != nil {
		return now
	}
	first := now
	for _, m := range marks {
		path := filepath.Join(s.dir, "users", m.Name())
		info, err := m.Info()
		if err != nil {
			continue
		}
		lock := flock.New(path)
		if free, err := lock.TryLock(); err == nil && free {
			if now.Sub(info.ModTime()) > time.Minute { // it is not being made just now
				_ = os.Remove(path)
			}
			_ = lock.Unlock()
			continue
		}
		if info.ModTime().Before(first) {
			first = info.ModTime()
		}
	}
	return first
}

// Used notes a use of a blob, whose file says that it was last used before.
func Used(path string, before, now time.Time) {
	if now.Sub(before) > touchAfter {
		_ = os.Chtimes(path, time.Time{}, now) // another user's: then it is as old as it is
	}
}

// blobs lists the blobs there are, and the transfers that broke off, the least
// recently used first.
func (s *Store) blobs() ([]blobFile, error) {
	out, err := filesIn(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return nil, err
	}
	partial, err := filesIn(s.partials())
	for _, p := range partial {
		if !strings.HasSuffix(p.path, notePath("")) {
			p.partial = true
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b blobFile) int {
		if c := a.used.Compare(b.used); c != 0 {
			return c
		}
		return strings.Compare(a.path, b.path)
	})
	return out, err
}

func filesIn(dir string) (out []blobFile, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			out = append(out, blobFile{path: path, size: info.Size(), used: info.ModTime()})
		}
		return nil
	})
	return out, err
}

// Usage measures the store.
func (s *Store) Usage() (Usage, error) {
	all, err := s.blobs()
	u := Usage{Files: len(all)}
	for _, b := range all {
		u.Bytes += b.size
	}
	return u, err
}

// remove removes a file; false when it is gone, or somebody is at it.
func (s *Store) remove(b blobFile) (bool, error) {
	if b.partial {
		return removePartial(b.path)
	}
	if err := os.Remove(b.path); err != nil {
		if os.IsNotExist(err) {
			err = nil
		}
		return false, err
	}
	s.mu.Lock()
	delete(s.verified, filepath.Base(b.path))
	s.mu.Unlock()
	return true, nil
}

// Prune removes blobs, the least recently used first, as far as the options let
// it. What a process that runs has used since it began stays. It returns what
// was removed.
func (s *Store) Prune(o PruneOptions) (Usage, error) {
	all, err := s.blobs()
	if err != nil {
		return Usage{}, err
	}
	left, gone := int64(0), Usage{}
	for _, b := range all {
		left += b.size
	}
	now := time.Now()
	held := s.since(now).Add(-touchAfter - time.Second)
	for _, b := range all {
		over := o.MaxBytes > 0 && left > o.MaxBytes
		old := o.OlderThan > 0 && now.Sub(b.used) > o.OlderThan
		if !over && !old || !b.used.Before(held) {
			continue
		}
		if removed, err := s.remove(b); err != nil {
			return gone, diskError(b.path, err)
		} else if !removed {
			continue
		}
		left -= b.size
		gone.Files++
		gone.Bytes += b.size
	}
	return gone, nil
}
