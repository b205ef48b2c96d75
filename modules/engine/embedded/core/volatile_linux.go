package core

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// volatileOption has the kernel sync nothing of an overlay, neither for fsync nor
// for each file of a lower layer that is written to (Linux 5.10). What a step that
// the machine's end cut short had written is not taken up again, and the engine's
// own databases are not synced either.
const volatileOption = "volatile"

// volatileOverlays are a snapshotter's overlays, those to be written mounted
// volatile. What computes layers mounts committed ones, which are not.
type volatileOverlays struct {
	snapshot.Snapshotter
	marks *volatileMarks
}

// Mounts is as in snapshot.Snapshotter.
func (v volatileOverlays) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := v.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return volatileMountable{m, v.marks}, nil
}

type volatileMountable struct {
	snapshot.Mountable
	marks *volatileMarks
}

// Mount is as in snapshot.Mountable.
func (v volatileMountable) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := v.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	if release == nil {
		release = func() error { return nil }
	}
	for i, m := range mounts {
		work := mountOption(m, "workdir=")
		if m.Type != "overlay" || work == "" {
			continue
		}
		mounts = slices.Clone(mounts)
		mounts[i].Options = append(slices.Clone(m.Options), volatileOption)
		mark := filepath.Join(work, "work", "incompat")
		if err := v.marks.expect(mark); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("mounting a layer to be written: %w", err), release())
		}
		before := release
		release = func() error { return errors.Join(v.marks.forget(mark), before()) }
	}
	return mounts, release, nil
}

// volatileMarks are what the kernel leaves in the working directories of such
// overlays, so that nobody mounts one again who expects what was written to be
// there after the machine has ended: nobody does here. They are removed as soon
// as can be, since an ordinary user cannot: the directory they are in lets nobody
// in.
type volatileMarks struct {
	mu      sync.Mutex
	pending map[string]bool // they may come yet
}

// expect removes a mark that an ended engine left. Another one is to come.
func (v *volatileMarks) expect(mark string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pending == nil {
		v.pending = map[string]bool{}
	}
	v.pending[mark] = true
	return os.RemoveAll(mark)
}

// forget removes the mark of what is no longer mounted.
func (v *volatileMarks) forget(mark string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.pending, mark)
	return os.RemoveAll(mark)
}

// mounted removes the marks that have come.
func (v *volatileMarks) mounted() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for mark := range v.pending {
		if _, err := os.Lstat(mark); err == nil && os.RemoveAll(mark) == nil { // or it is when it is mounted again
			delete(v.pending, mark)
		}
	}
}

func mountOption(m mount.Mount, name string) string {
	for _, o := range m.Options {
		if v, ok := strings.CutPrefix(o, name); ok {
			return v
		}
	}
	return ""
}

// volatileSupported mounts an overlay that is.
func volatileSupported() bool {
	dir, err := os.MkdirTemp("", "volatile")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	return tryOverlay(dir, volatileOption) == nil
}

// tryOverlay mounts an overlay in a directory, and unmounts it.
func tryOverlay(dir string, options ...string) error {
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	options = append(options, "lowerdir="+dir+"/lower", "upperdir="+dir+"/upper", "workdir="+dir+"/work")
	if userns.RunningInUserNS() {
		options = append(options, "userxattr")
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: options}
	if err := m.Mount(dir + "/merged"); err != nil {
		return fmt.Errorf("mounting overlay: %w", err)
	}
	return unix.Unmount(dir+"/merged", 0)
}
