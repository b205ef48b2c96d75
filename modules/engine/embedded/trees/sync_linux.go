package trees

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// copiers is how many files are copied at once: the work is the kernel's, and
// a second one fills what the first waits for.
const copiers = 4

// syncer turns the directory tree at dir, known as have, into want.
type syncer struct {
	dir  string
	link bool // hard links to the deltas in place of copies: nobody writes to it
	src  func(f *file, path string) string

	keep   map[origin]bool     // groups of hard links that are as they should be
	groups map[origin][]string // paths of want that are one file
	copied errgroup.Group
	later  []func() error // links and directories, once the files are there

	blocks sync.Pool // to copy by, of *[blockSize]byte

	linkat func(from, to string) error // nil: linkAt; tests have others

	mu     sync.Mutex
	newest int64             // the latest change of any file
	apart  map[origin]string // where the copy is of what could not be linked
}

func (s *syncer) changed(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = max(s.newest, f.Ctime)
}

// sync does it and returns the new state. What happened to the directory after
// an error is unknown: it must be removed.
func (s *syncer) sync(have, want *file) (*file, error) {
	s.copied.SetLimit(copiers)
	s.findGroups(have, want)
	out, err := s.directory("", have, want)
	if cerr := s.copied.Wait(); err == nil {
		err = cerr
	}
	if err == nil && len(s.apart) > 0 {
		err = s.unite("", want)
	}
	for i := 0; err == nil && i < len(s.later); i++ {
		err = s.later[i]()
	}
	if err != nil {
		return nil, fmt.Errorf("making a tree: %w", err)
	}
	return out, nil
}

// findGroups finds the files with several names, which must be one file in the
// tree too. A group is kept whole or made anew whole.
func (s *syncer) findGroups(have, want *file) {
	s.groups, s.keep = map[origin][]string{}, map[origin]bool{}
	if s.link || have == want && !have.sharesLinks() {
		return // linking keeps them by itself
	}
	want.named("", func(path string, f *file) {
		if f.From != (origin{}) {
			s.groups[f.From] = append(s.groups[f.From], path)
		}
	})
	for from, paths := range s.groups {
		if len(paths) < 2 {
			delete(s.groups, from)
			continue
		}
		slices.SortFunc(paths, comparePaths) // the first is made first
		first := have.at(paths[0])
		ok := true
		for _, p := range paths {
			h := have.at(p)
			ok = ok && h != nil && h.Ino == first.Ino && copyOf(h, want.at(p))
		}
		s.keep[from] = ok
	}
}

// directory makes the directory at path; have is nil when there is none yet.
// A tree that is to become what it is needs copies only of what it shares.
func (s *syncer) directory(path string, have, want *file) (*file, error) {
	if have == want && !have.Below && !s.link {
		return have, nil
	}
	out := &file{Delta: want.Delta, Kids: make(map[string]*file, len(want.Kids))}
	touched, err := s.removeOthers(path, have, want)
	if err != nil {
		return nil, err
	}
	for _, name := range want.names() {
		k, changed, err := s.entry(path+"/"+name, have.kid(name), want.Kids[name])
		if err != nil {
			return nil, err
		}
		out.Kids[name] = k
		touched = touched || changed
	}
	if !touched && have.sameMeta(want) && have.Mtime == want.Mtime && have.Delta == want.Delta {
		keep := *have
		keep.Kids, keep.Below = out.Kids, false
		s.changed(&keep)
		return &keep, nil
	}
	s.later = append(s.later, func() error {
		return s.finish(path, want, out, func() error {
			if have != nil {
				if err := clearXattrs(s.dir+path, s.src(want, path)); err != nil {
					return err
				}
			}
			return copyMeta(s.dir+path, s.src(want, path), want)
		})
	})
	return out, nil
}

// removeOthers removes what is not wanted; touched says that the directory was
// written to, or is new.
func (s *syncer) removeOthers(path string, have, want *file) (touched bool, err error) {
	for name := range have.kids() {
		if want.Kids[name] == nil {
			touched = true
			if err := os.RemoveAll(s.dir + path + "/" + name); err != nil {
				return touched, err
			}
		}
	}
	return touched || have == nil, nil
}

// sharesLinks reports whether a file with several names is shared.
func (f *file) sharesLinks() bool {
	for _, k := range f.Kids {
		if k.Shared && k.Links > 2 || k.Below && k.sharesLinks() { // one of the names is the delta's
			return true
		}
	}
	return false
}

func (f *file) kids() map[string]*file {
	if f == nil {
		return nil
	}
	return f.Kids
}

// finish does the last of a file and notes how it then looks.
func (s *syncer) finish(path string, want, out *file, do func() error) error {
	if err := do(); err != nil {
		return err
	}
	f, _, err := look(s.dir + path)
	if err != nil {
		return err
	}
	f.Kids = out.Kids
	s.note(f, want, out)
	return nil
}

// note says how a file that was made looks.
func (s *syncer) note(f, want, out *file) {
	f.Delta, f.From = want.Delta, want.From
	f.Shared = s.link && !f.dir()
	s.changed(f)
	*out = *f
}

// copy makes a file of its own.
func (s *syncer) copy(path string, want, out *file) error {
	full, src := s.dir+path, s.src(want, path)
	if want.Mode&unix.S_IFMT != unix.S_IFREG {
		return s.finish(path, want, out, func() error { return copyFile(full, src, want) })
	}
	block, _ := s.blocks.Get().(*[blockSize]byte)
	if block == nil {
		block = new([blockSize]byte)
	}
	defer s.blocks.Put(block)
	f, err := copyRegular(full, src, want, block[:])
	if err != nil {
		return err
	}
	s.note(f, want, out)
	return nil
}

// entry makes one name; changed says that its directory was written to.
func (s *syncer) entry(path string, have, want *file) (out *file, changed bool, err error) {
	if want.dir() {
		return s.subdirectory(path, have, want)
	}
	if s.kept(have, want) {
		keep := *have
		keep.Delta = want.Delta
		s.changed(&keep)
		return &keep, false, nil
	}
	full := s.dir + path
	if have != nil {
		if err := os.RemoveAll(full); err != nil {
			return nil, false, err
		}
	}
	return s.make(path, want), true, nil
}

func (s *syncer) subdirectory(path string, have, want *file) (out *file, changed bool, err error) {
	full := s.dir + path
	if have != nil && !have.dir() {
		if err := os.Remove(full); err != nil {
			return nil, false, err
		}
		have = nil
	}
	if have == nil {
		if err := os.Mkdir(full, 0o700); err != nil {
			return nil, false, err
		}
	}
	out, err = s.directory(path, have, want)
	return out, have == nil, err
}

// kept: what is there is a copy of the very inode that is wanted, nobody
// else's, and so are its other names.
func (s *syncer) kept(have, want *file) bool {
	if !copyOf(have, want) {
		return false
	}
	_, grouped := s.groups[want.From]
	return !grouped || s.keep[want.From]
}

// copyOf: have was copied from the inode of want, and nobody else has it.
func copyOf(have, want *file) bool {
	if have == nil || have.dir() || have.Shared || want.From == (origin{}) || have.From != want.From {
		return false
	}
	return want.From.Birth != 0 || have == want // else the number may have been given again
}

// make makes a file where none is; how it looks is known at the end.
func (s *syncer) make(path string, want *file) *file {
	out := &file{}
	full := s.dir + path
	group := s.groups[want.From]
	switch {
	case s.link:
		s.copied.Go(func() error {
			return s.finish(path, want, out, func() error { return s.linkName(path, want) })
		})
	case len(group) > 0 && group[0] != path:
		s.later = append(s.later, func() error {
			return s.finish(path, want, out, func() error { return os.Link(s.dir+group[0], full) })
		})
	default:
		s.copied.Go(func() error { return s.copy(path, want, out) })
	}
	return out
}

// linkOrCopy links, or copies where no further link can be made.
func linkOrCopy(dst, src string, f *file) error {
	err := linkAt(src, dst)
	if mayNotLink(err) {
		return copyFile(dst, src, f)
	}
	return err
}

func linkAt(from, to string) error {
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, 0); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: err}
	}
	return nil
}

func mayNotLink(err error) bool {
	return errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM)
}

// linkName links a name to a delta, or copies where no further link can be
// made: a file system has a limit to the names of a file, and images of one
// program with hundreds of names reach it after some hundred views.
func (s *syncer) linkName(path string, want *file) error {
	dst, src := s.dir+path, s.src(want, path)
	link := linkAt
	if s.linkat != nil {
		link = s.linkat
	}
	if err := link(src, dst); !mayNotLink(err) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.apart[want.From]; ok {
		return os.Link(s.dir+first, dst)
	}
	if want.From != (origin{}) { // else its other names are not known
		if s.apart == nil {
			s.apart = map[origin]string{}
		}
		s.apart[want.From] = path
	}
	return copyFile(dst, src, want)
}

// unite makes one file again of names of which some are links to a delta and
// others to a copy.
func (s *syncer) unite(path string, want *file) error {
	for _, name := range want.names() {
		at, k := path+"/"+name, want.Kids[name]
		if k.dir() {
			if err := s.unite(at, k); err != nil {
				return err
			}
			continue
		}
		first, ok := s.apart[k.From]
		if !ok || first == at {
			continue
		}
		if err := os.Remove(s.dir + at); err != nil {
			return err
		}
		if err := os.Link(s.dir+first, s.dir+at); err != nil {
			return err
		}
	}
	return nil
}
