package trees

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// bench is a snapshotter under test.
type bench struct {
	t *testing.T
	*Snapshotter
	root string
	n    int
}

func open(t *testing.T, opt Options) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners of files can only be set by root")
	}
	b := &bench{t: t, root: t.TempDir()}
	b.reopen(opt)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func (b *bench) reopen(opt Options) {
	b.t.Helper()
	s, err := New(b.root, opt)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Snapshotter = s
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// prepare gives the directory of a new snapshot to work on.
func (b *bench) prepare(key, parent string) string {
	b.t.Helper()
	_, err := b.Prepare(b.t.Context(), key, parent)
	b.must(err)
	m, err := b.Mounts(b.t.Context(), key)
	b.must(err)
	return m[0].Source
}

// step makes snapshot name from parent by a shell script run in its directory.
func (b *bench) step(name, parent string, do func(dir string)) {
	b.t.Helper()
	b.n++
	key := fmt.Sprintf("work-%d", b.n)
	do(b.prepare(key, parent))
	b.must(b.Commit(b.t.Context(), name, key))
}

func (b *bench) view(parent string) string {
	b.t.Helper()
	b.n++
	m, err := b.View(b.t.Context(), fmt.Sprintf("view-%d", b.n), parent)
	b.must(err)
	b.must(b.Ensure(b.t.Context(), m[0].Source))
	return m[0].Source
}

// fresh gives a tree of the snapshot made from its deltas alone.
func (b *bench) fresh(parent string) string {
	b.t.Helper()
	b.mu.Lock()
	idle := b.idle
	b.idle, b.flats = nil, nil
	b.mu.Unlock()
	b.n++
	dir := b.prepare(fmt.Sprintf("fresh-%d", b.n), parent)
	b.mu.Lock()
	b.idle = append(idle, b.idle...)
	b.mu.Unlock()
	return dir
}

// describe tells everything about a tree but inode numbers and change times.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, _, err := look(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		line := fmt.Sprintf("%-20s %o %d:%d %d mtime %d", name, f.Mode, f.UID, f.GID, f.Rdev, f.Mtime)
		switch f.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", b)
			if was, ok := first[f.Ino]; ok {
				line += " link to " + was
			} else {
				first[f.Ino] = name
			}
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		x, err := xattrs(path)
		if err != nil {
			return err
		}
		if len(x) > 0 {
			line += fmt.Sprint(" ", x)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
