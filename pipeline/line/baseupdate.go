package line

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/base"
)

// UpdateBases resolves bases to the newest packages, builds them, says what that
// does to packages and known vulnerabilities, and writes their locks into the
// catalog: all of them, or none. With propose it writes proposals into out/locks
// instead, which AcceptBases takes after review. names empty is all bases.
func (l *Line) UpdateBases(ctx context.Context, names []string, propose bool) ([]UpdatedBase, error) {
	bases, err := l.chosenBases(names)
	if err != nil {
		return nil, err
	}
	if _, err := l.mirrors.get(); err != nil {
		return nil, err
	}
	out := []UpdatedBase{}
	var files []catalogFile
	var changes []Change
	for _, b := range bases {
		u, raw, err := l.moveBase(ctx, b)
		if err != nil {
			return out, err
		}
		if u.Written {
			f, err := l.baseLockFile(b, raw, propose)
			if err != nil {
				return out, err
			}
			files = append(files, f)
		}
		changes = append(changes, u.Packages...)
		out = append(out, u)
	}
	known, err := l.lookUp(ctx, changes)
	if err != nil {
		return out, err
	}
	for i := range out {
		out[i].CVEs = known.judge(out[i].Packages)
	}
	return out, writeFiles(files)
}

// moveBase resolves one base anew and builds it; raw is its lock then. The
// first lock of a base differs from nothing: its packages are no changes.
func (l *Line) moveBase(ctx context.Context, b catalog.Base) (u UpdatedBase, raw []byte, err error) {
	old, err := l.lockOf(b)
	if err != nil {
		return u, nil, err
	}
	spec, err := baseSpec(b)
	if err != nil {
		return u, nil, err
	}
	res, err := l.builder().Update(ctx, spec, old)
	if err != nil {
		return u, nil, err
	}
	if raw, err = res.Lock.Marshal(); err != nil {
		return u, nil, err
	}
	u = UpdatedBase{
		BaseUpdate: BaseUpdate{Name: b.Name, Digest: res.Digest, Changed: append([]string{}, res.Changed...), Lock: b.LockPath},
		Packages:   []Change{},
	}
	if u.Written, err = differs(old, raw); err == nil && old != nil {
		u.Packages = basePackages(old, res.Lock)
	}
	return u, raw, err
}

// proposal is a base's lock to be reviewed, and what it is to replace.
type proposal struct {
	Version  int             `json:"version"`
	Base     string          `json:"base"`
	Replaces artifact.Digest `json:"replaces,omitempty"` // of the lock file it was made beside; "" there was none
	Lock     json.RawMessage `json:"lock"`
}

func (l *Line) proposalFile(name string) string {
	return filepath.Join(l.cfg.Out, "locks", name+".proposal.json")
}

// baseLockFile is where a lock goes: to its place, or into a proposal.
func (l *Line) baseLockFile(b catalog.Base, raw []byte, propose bool) (catalogFile, error) {
	at := filepath.Join(l.cfg.CatalogDir, filepath.FromSlash(b.LockPath))
	if !propose {
		return catalogFile{path: at, shown: filepath.Join(l.cfg.Catalog.Name, b.LockPath), text: raw}, nil
	}
	p := proposal{Version: 1, Base: b.Name, Lock: raw}
	var err error
	if p.Replaces, err = sumFile(at); err != nil {
		return catalogFile{}, err
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(p)
	file := l.proposalFile(b.Name)
	return catalogFile{path: file, shown: file, text: text.Bytes()}, err
}

// sumFile is the digest of a file, "" where there is none.
func sumFile(path string) (artifact.Digest, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	sum := sha256.Sum256(raw)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:])), err
}

// AcceptBases moves proposals into the catalog: all of them, or none. names
// empty is every base there is a proposal for. A proposal is refused when the
// lock is no longer the one it was reviewed against.
func (l *Line) AcceptBases(names []string) ([]UpdatedBase, error) {
	bases, err := l.chosenBases(names)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		bases = slices.DeleteFunc(slices.Clone(bases), func(b catalog.Base) bool {
			_, err := os.Stat(l.proposalFile(b.Name))
			return err != nil
		})
	}
	if len(bases) == 0 {
		return nil, l.proposalError(filepath.Join(l.cfg.Out, "locks"), "there is no proposal", "make some with drydock base update --propose", nil)
	}
	out := []UpdatedBase{}
	var files []catalogFile
	for _, b := range bases {
		u, f, err := l.accept(b)
		if err != nil {
			return nil, err
		}
		out, files = append(out, u), append(files, f)
	}
	if err := writeFiles(files); err != nil {
		return nil, err
	}
	for _, b := range bases {
		_ = os.Remove(l.proposalFile(b.Name)) // accepted twice it would be refused
	}
	return out, nil
}

func (l *Line) accept(b catalog.Base) (UpdatedBase, catalogFile, error) {
	file, again := l.proposalFile(b.Name), "drydock base update --propose "+b.Name
	fail := func(message string, err error) (UpdatedBase, catalogFile, error) {
		return UpdatedBase{}, catalogFile{}, l.proposalError(file, message, again, err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return fail("there is no proposal for base "+b.Name, nil)
	}
	var p proposal
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return fail("", err)
	}
	if p.Version != 1 || p.Base != b.Name {
		return fail(fmt.Sprintf("it is version %d, of base %q", p.Version, p.Base), nil)
	}
	lock, err := base.ParseLock(p.Lock, file)
	if err != nil {
		return UpdatedBase{}, catalogFile{}, err
	}
	f, err := l.baseLockFile(b, nil, false)
	if err != nil {
		return UpdatedBase{}, f, err
	}
	now, err := sumFile(f.path)
	if err != nil {
		return fail("", err)
	}
	if now != p.Replaces {
		return fail("the lock is not the one it was made beside: it moved since", nil)
	}
	old, err := l.lockOf(b)
	if err != nil {
		return UpdatedBase{}, f, err
	}
	if f.text, err = lock.Marshal(); err != nil {
		return UpdatedBase{}, f, err
	}
	u := UpdatedBase{
		BaseUpdate: BaseUpdate{Name: b.Name, Digest: lock.Digest, Changed: []string{}, Lock: b.LockPath, Written: true},
		Packages:   []Change{}, CVEs: CVEs{Fixed: []CVE{}, Introduced: []CVE{}},
	}
	if old != nil {
		u.Changed, u.Packages = append(u.Changed, base.Changes(old, lock)...), basePackages(old, lock)
	}
	return u, f, nil
}

func (l *Line) proposalError(place, message, remedy string, err error) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: "accepting a base's lock", Place: place, Message: message, Remedy: remedy, Err: err}
}
