package trees

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// What a record says of a path in a delta.
const (
	kindAdd    = 'A' // not in the parent
	kindModify = 'M' // in the parent, but not so
	kindDelete = 'D' // removed from the parent; the delta has nothing there
	kindKeep   = 'K' // differs only in what a layer does not tell: a directory's time, another name of a changed file
	kindParent = 'P' // a directory that is there because of what is in it
	kindOpaque = 'O' // everything the parent has in this directory is removed
)

type change struct {
	Kind byte
	Path string // from "/"
}

// record is what a delta says besides its files.
type record struct {
	Parent  string // id of the snapshot it is a change of; "" for none
	Changes []change
}

const recordMagic = "drydock delta 1\n"

// save writes the record; the delta is complete once it is there.
func (r record) save(name string) error {
	var b bytes.Buffer
	b.WriteString(recordMagic)
	putString(&b, r.Parent)
	putUint(&b, uint64(len(r.Changes)))
	for _, c := range r.Changes {
		b.WriteByte(c.Kind)
		putString(&b, c.Path)
	}
	if err := replace(name, b.Bytes()); err != nil {
		return fmt.Errorf("writing a delta's record: %w", err)
	}
	return nil
}

// loadRecord reads what save wrote. A delta without a parent has none: all its
// files are additions.
func loadRecord(name string) (record, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("reading a delta's record: %w", err)
	}
	body, ok := strings.CutPrefix(string(b), recordMagic)
	if !ok {
		return record{}, fmt.Errorf("reading a delta's record: %s is not one", name)
	}
	in := &reader{Reader: bufio.NewReader(strings.NewReader(body))}
	r := record{Parent: in.text()}
	n := in.uint()
	for range n {
		if in.err != nil {
			break
		}
		c := change{}
		c.Kind, in.err = in.ReadByte()
		c.Path = in.text()
		r.Changes = append(r.Changes, c)
	}
	if in.err != nil {
		return record{}, fmt.Errorf("reading a delta's record %s: %w", name, in.err)
	}
	return r, nil
}

// sort puts the changes in the order in which a tree is walked.
func (r *record) sort() {
	slices.SortFunc(r.Changes, func(a, b change) int { return comparePaths(a.Path, b.Path) })
}

// comparePaths orders paths so that a directory comes before what is in it and
// that before its siblings.
func comparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		x, y := a[i], b[i]
		if x == '/' {
			x = 0
		}
		if y == '/' {
			y = 0
		}
		if x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// flatten puts deltas, the lowest first, over one another.
func (s *Snapshotter) flatten(ids []string) (*file, error) {
	root := &file{Kids: map[string]*file{}}
	for _, id := range ids {
		r, err := loadRecord(s.recordPath(id))
		if err != nil {
			return nil, err
		}
		kinds := make(map[string]byte, len(r.Changes))
		for _, c := range r.Changes {
			switch c.Kind {
			case kindDelete:
				if dir := root.at(path.Dir(c.Path)); dir.dir() {
					delete(dir.Kids, path.Base(c.Path))
				}
			case kindOpaque:
				if dir := root.at(c.Path); dir.dir() {
					dir.Kids = map[string]*file{}
				}
			default:
				kinds[c.Path] = c.Kind
			}
		}
		o := overlay{id: id, kinds: kinds}
		if err := o.put(root, "", s.deltaDir(id)); err != nil {
			return nil, err
		}
	}
	return root, nil
}

// overlay puts one delta over a tree.
type overlay struct {
	id    string
	kinds map[string]byte
}

// put lays what dir has at the path over f.
func (o overlay) put(f *file, at, dir string) error {
	if at == "" {
		top, _, err := look(dir)
		if err != nil {
			return err
		}
		if f.Delta == "" || o.kinds["/"] == kindKeep {
			top.Kids, top.Delta = f.Kids, o.id
			*f = *top
		}
	}
	names, err := list(dir + at)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := at + "/" + name
		found, from, err := look(dir + path)
		if err != nil {
			return err
		}
		found.Delta = o.id
		have := f.Kids[name]
		if !found.dir() {
			found.From = from
			f.Kids[name] = found
			continue
		}
		switch {
		case !have.dir():
			found.Kids = map[string]*file{}
			f.Kids[name] = found
		case o.kinds[path] != kindParent:
			found.Kids = have.Kids
			f.Kids[name] = found
		}
		if err := o.put(f.Kids[name], path, dir); err != nil {
			return err
		}
	}
	return nil
}
