package trees

import (
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// comparer finds what a step changed in a tree: was is the tree as it was
// handed out, now as it is. What did not change inherits what is known of it.
type comparer struct {
	dir string
	src func(f *file, path string) string // the delta's copy of a file of was

	changes []change
	changed map[string]*file // files (not directories) that go into the delta
	block   []byte           // to compare by
}

// compare fills the changes. What is the same node in both is not looked at.
func (c *comparer) compare(was, now *file) error {
	c.changed = map[string]*file{}
	if was == now {
		return nil
	}
	if err := c.directory("", was, now); err != nil {
		return err
	}
	c.otherNames(now)
	return nil
}

func (c *comparer) say(kind byte, path string, f *file) {
	c.changes = append(c.changes, change{Kind: kind, Path: path})
	if f != nil && !f.dir() {
		c.changed[path] = f
	}
}

func (c *comparer) directory(path string, was, now *file) error {
	for name, f := range now.Kids {
		if w := was.kid(name); w == f {
			continue
		} else if err := c.entry(path+"/"+name, w, f); err != nil {
			return err
		}
	}
	for name := range was.kids() {
		if now.Kids[name] == nil {
			c.say(kindDelete, path+"/"+name, nil)
		}
	}
	shown := path
	if shown == "" {
		shown = "/"
	}
	kind, err := c.sameDirectory(path, was, now)
	switch {
	case err != nil:
		return err
	case kind == 0:
		now.Delta = was.Delta
	case path == "":
		c.say(kindKeep, shown, now) // a layer does not tell the root
	default:
		c.say(kind, shown, now)
	}
	return nil
}

// sameDirectory gives how a directory itself changed, 0 for not at all.
func (c *comparer) sameDirectory(path string, was, now *file) (byte, error) {
	switch {
	case !now.sameMeta(was):
		return kindModify, nil
	case now.Mtime != was.Mtime:
		return kindKeep, nil
	case now.Ctime == was.Ctime:
		return 0, nil
	}
	same, err := c.sameXattrs(path, was)
	if err != nil || same {
		return 0, err
	}
	return kindKeep, nil
}

func (c *comparer) sameXattrs(path string, was *file) (bool, error) {
	a, err := xattrs(c.dir + path)
	if err != nil {
		return false, err
	}
	b, err := xattrs(c.src(was, path))
	if err != nil {
		return false, err
	}
	keep := func(m map[string]string) map[string]string {
		out := maps.Clone(m)
		maps.DeleteFunc(out, func(k, _ string) bool { return !keptXattr(k) })
		return out
	}
	return maps.Equal(keep(a), keep(b)), nil
}

func (c *comparer) entry(path string, was, now *file) error {
	switch {
	case was == nil:
		return c.added(path, now, kindAdd)
	case was.dir() != now.dir() || was.Mode&unix.S_IFMT != now.Mode&unix.S_IFMT:
		return c.added(path, now, kindModify)
	case now.dir():
		return c.directory(path, was, now)
	}
	kind, err := c.sameFile(path, was, now)
	if err != nil {
		return err
	}
	if kind == 0 {
		now.From, now.Delta = was.From, was.Delta
		return nil
	}
	c.say(kind, path, now)
	return nil
}

// added is a new file with everything below it.
func (c *comparer) added(at string, f *file, kind byte) error {
	c.say(kind, at, f)
	for _, n := range f.names() {
		if err := c.added(path.Join(at, n), f.Kids[n], kindAdd); err != nil {
			return err
		}
	}
	return nil
}

// sameFile gives how a file that is no directory changed. The kernel's times
// say which files were touched at all; those are read when nothing else tells
// them apart, as one may write what was there or put a time back.
func (c *comparer) sameFile(path string, was, now *file) (byte, error) {
	if now.untouched(was) {
		return 0, nil
	}
	if !now.sameMeta(was) || now.Size != was.Size || now.Mtime != was.Mtime {
		return kindModify, nil
	}
	if was.Delta == "" {
		return kindModify, nil
	}
	src := c.src(was, path)
	if c.block == nil {
		c.block = make([]byte, 2*blockSize)
	}
	same, err := sameContent(c.dir+path, src, now, c.block)
	if err != nil || !same {
		return kindModify, err
	}
	if same, err = c.sameXattrs(path, was); err != nil || same {
		return 0, err
	}
	a, err := capability(c.dir + path)
	if err != nil {
		return 0, err
	}
	if b, err := capability(src); err != nil || a != b {
		return kindModify, err
	}
	return kindKeep, nil
}

func capability(path string) (string, error) {
	m, err := xattrs(path)
	return m["security.capability"], err
}

// otherNames keeps the other names of changed files with them, so that they
// stay one file.
func (c *comparer) otherNames(now *file) {
	linked := map[uint64]bool{}
	for _, f := range c.changed {
		if f.Links > 1 {
			linked[f.Ino] = true
		}
	}
	if len(linked) == 0 {
		return
	}
	now.named("", func(path string, f *file) {
		if linked[f.Ino] && c.changed[path] == nil {
			c.say(kindKeep, path, f)
		}
	})
}

// build links what changed into a delta below dir.
func (c *comparer) build(dir string, now *file) error {
	done := map[string]bool{"/": true}
	var dirs []string
	for _, ch := range c.changes {
		if ch.Kind == kindDelete {
			continue
		}
		f := now.at(ch.Path)
		parent := ch.Path
		if !f.dir() {
			parent = path.Dir(ch.Path)
		}
		for _, d := range upTo(parent, done) {
			if err := os.Mkdir(dir+d, 0o700); err != nil {
				return err
			}
			dirs = append(dirs, d)
		}
		if f.dir() {
			continue
		}
		if err := linkOrCopy(dir+ch.Path, c.dir+ch.Path, f); err != nil {
			return err
		}
	}
	told := map[string]bool{}
	for _, ch := range c.changes {
		told[ch.Path] = true
	}
	for _, d := range slices.Backward(dirs) {
		if !told[d] {
			c.changes = append(c.changes, change{Kind: kindParent, Path: d})
		}
		if err := copyMeta(dir+d, c.dir+d, now.at(d)); err != nil {
			return err
		}
	}
	return copyMeta(dir, c.dir, now)
}

// upTo lists the directories from the root to d that are not done yet.
func upTo(d string, done map[string]bool) []string {
	var out []string
	for ; !done[d]; d = path.Dir(d) {
		done[d] = true
		out = append(out, d)
	}
	slices.Reverse(out)
	return out
}

// settle notes, for what is in the delta now, that it is. It writes to nodes
// of what changed and of the directories above, which are never those of
// before.
func (c *comparer) settle(id, delta string, now *file) error {
	for _, ch := range c.changes {
		if ch.Kind == kindDelete || ch.Kind == kindParent {
			continue
		}
		f := now.at(ch.Path)
		if f.dir() {
			f.Delta = id
			continue
		}
		seen, from, err := look(delta + ch.Path)
		if err != nil {
			return err
		}
		f.Shared = seen.Ino == f.Ino
		f.Ctime, f.Links, f.From, f.Delta = seen.Ctime, seen.Links, from, id
		if f.Shared {
			now.sharedAt(ch.Path)
		}
	}
	return nil
}
