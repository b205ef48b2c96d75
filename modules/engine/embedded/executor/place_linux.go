package executor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// journalName is the file that lists what is in place of something else, so
// that the next engine can put it back after this one was killed.
const journalName = "placed"

// placed is one thing that stands in a step's root for as long as it runs. It
// was renamed there; what stood there before is meanwhile where it was.
type placed struct {
	Dest  string // full path in the tree, with no link in it
	Away  string // full path of where it comes from and goes back to
	Inode uint64 // of what is placed

	dir  *os.File // directory of Dest
	base string
	obj  *os.File
}

// placer puts things into a tree and takes them out again, leaving no trace.
type placer struct {
	tree    *rootTree
	journal *os.File
	placed  []*placed
	times   []*dirTimes
	seen    map[uint64]bool
}

// dirTimes are the times of a directory that placing changes.
type dirTimes struct {
	dir           *os.File
	before, after unix.Stat_t
}

func newPlacer(t *rootTree, stepDir string) (*placer, error) {
	j, err := os.OpenFile(filepath.Join(stepDir, journalName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("preparing the step: %w", err)
	}
	return &placer{tree: t, journal: j, seen: map[uint64]bool{}}, nil
}

// place puts away (a path outside the tree, on the same file system) at name,
// whose mount point is made when missing, as mounting does.
func (p *placer) place(away, name string) error {
	at, err := fs.RootPath(p.tree.path, name) // also of a link to what is not there
	if err != nil {
		return err
	}
	if err := p.remember(path.Dir("/" + strings.TrimPrefix(at, p.tree.path))); err != nil {
		return err
	}
	obj, err := os.OpenFile(away, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(obj.Fd()), &st); err != nil {
		obj.Close()
		return err
	}
	s, err := p.tree.locate(name, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		obj.Close()
		return err
	}
	e := &placed{Away: away, Dest: filepath.Join(p.tree.path, s.real), Inode: st.Ino, dir: s.dir, base: s.base, obj: obj}
	p.placed = append(p.placed, e)
	if err := p.rememberDir(s.dir); err != nil {
		return err
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := p.journal.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := swap(unix.AT_FDCWD, away, int(s.dir.Fd()), s.base, true); err != nil {
		return fmt.Errorf("placing %s: %w", name, err)
	}
	return nil
}

func swap(fromDir int, from string, toDir int, to string, exchange bool) error {
	flags := uint(unix.RENAME_NOREPLACE)
	if exchange {
		flags = unix.RENAME_EXCHANGE
	}
	return unix.Renameat2(fromDir, from, toDir, to, flags)
}

// remember notes the times of the nearest directory that exists above name:
// making the ones below changes it.
func (p *placer) remember(name string) error {
	for {
		f, err := initproc.OpenIn(p.tree.dir, name, unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			defer f.Close()
			return p.rememberDir(f)
		}
		if !errors.Is(err, unix.ENOENT) || name == "/" {
			return err
		}
		name = path.Dir(name)
	}
}

func (p *placer) rememberDir(dir *os.File) error {
	t := &dirTimes{}
	if err := unix.Fstat(int(dir.Fd()), &t.before); err != nil {
		return err
	}
	if p.seen[t.before.Ino] {
		return nil
	}
	p.seen[t.before.Ino] = true
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	t.dir = os.NewFile(uintptr(fd), "directory")
	p.times = append(p.times, t)
	return nil
}

// settle notes how the directories are now: whatever is different later, the
// step has done.
func (p *placer) settle() {
	for _, t := range p.times {
		_ = unix.Fstat(int(t.dir.Fd()), &t.after)
	}
}

// restore takes everything out again, last first.
func (p *placer) restore() error {
	var errs []error
	for _, t := range p.times {
		var now unix.Stat_t
		settled := t.after.Ino != 0 // else the step did not start
		if settled && unix.Fstat(int(t.dir.Fd()), &now) == nil && now.Mtim != t.after.Mtim {
			t.before.Mtim, t.before.Atim = now.Mtim, now.Atim // the step's doing
		}
	}
	for _, e := range slices.Backward(p.placed) {
		errs = append(errs, e.restore(p.tree))
		e.obj.Close()
		e.dir.Close()
	}
	for _, t := range slices.Backward(p.times) {
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(t.dir), []unix.Timespec{t.before.Atim, t.before.Mtim}, 0)
		t.dir.Close()
	}
	p.journal.Close()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(p.journal.Name())
}

// restore puts back what stood there. The step may have moved or removed what
// was placed.
func (e *placed) restore(t *rootTree) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(e.dir.Fd()), e.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Ino == e.Inode {
		return swap(int(e.dir.Fd()), e.base, unix.AT_FDCWD, e.Away, true)
	}
	var was unix.Stat_t
	if unix.Lstat(e.Away, &was) == nil && was.Ino == e.Inode {
		return nil // it was never placed
	}
	// where is it now?
	at := t.inside(e.obj)
	kept := e.Away + ".placed"
	if at != "" {
		at = filepath.Join(t.path, at)
		if err := os.Rename(at, kept); err != nil {
			return err
		}
	}
	if err == nil {
		if err := os.RemoveAll(filepath.Join(fdPath(e.dir), e.base)); err != nil {
			return err
		}
	}
	// the directory itself may be gone, and then what was in it is too
	if err := swap(unix.AT_FDCWD, e.Away, int(e.dir.Fd()), e.base, false); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if at != "" {
		_ = os.RemoveAll(e.Away)
		return os.Rename(kept, e.Away)
	}
	return e.again()
}

// again makes a directory anew that the step removed, mount point and all: what
// it was of stays, empty.
func (e *placed) again() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(e.obj.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	if err := os.Mkdir(e.Away, 0o700); err != nil {
		return err
	}
	if err := os.Lchown(e.Away, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(e.Away, st.Mode&0o7777)
}

// recoverPlaced puts back what the steps of a killed engine had in place.
func recoverPlaced(steps string) error {
	journals, err := filepath.Glob(filepath.Join(steps, "*", journalName))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range journals {
		f, err := os.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var list []placed
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var e placed
			if json.Unmarshal(sc.Bytes(), &e) == nil { // the last line may be cut
				list = append(list, e)
			}
		}
		f.Close()
		for _, e := range slices.Backward(list) {
			var st unix.Stat_t
			if unix.Lstat(e.Dest, &st) != nil || st.Ino != e.Inode || !filepath.IsAbs(e.Dest) {
				continue
			}
			if err := swap(unix.AT_FDCWD, e.Dest, unix.AT_FDCWD, e.Away, true); err != nil {
				errs = append(errs, fmt.Errorf("putting back %s: %w", e.Dest, err))
			}
		}
	}
	return errors.Join(errs...)
}

// eraseLinks removes further names, in the tree, of a file that was placed:
// nothing of it may get into a layer.
func eraseLinks(t *rootTree, f *os.File) {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Nlink < 2 {
		return
	}
	_ = filepath.WalkDir(t.path, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what cannot be read has no name we made
		}
		var other unix.Stat_t
		if unix.Lstat(name, &other) == nil && other.Ino == st.Ino && other.Dev == st.Dev {
			_ = unix.Unlink(name)
		}
		return nil
	})
}

// sameOrBelow reports whether name is dir or in it.
func sameOrBelow(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}
