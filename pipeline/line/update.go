package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/base"
	"drydock/modules/mirror/debian"
	"drydock/modules/wholefile"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
)

// catalogFile is a file of the catalog that is to be written.
type catalogFile struct {
	path, shown string
	text        []byte
}

// writeFiles writes all of the files, or none.
func writeFiles(files []catalogFile) (err error) {
	fail := func(f catalogFile, err error) error {
		return &artifact.Error{Kind: artifact.KindUsage, Op: "writing lock", Place: f.shown, Err: err, Remedy: "give a catalog that can be written"}
	}
	var staged []*wholefile.File
	defer func() {
		for _, s := range staged {
			s.Discard()
		}
	}()
	for _, f := range files {
		s, err := stage(f)
		if err != nil {
			return fail(f, err)
		}
		staged = append(staged, s)
	}
	for i, f := range files {
		before, readErr := os.ReadFile(f.path)
		if err := staged[i].Commit(f.path); err != nil {
			return fail(f, err)
		}
		defer func() {
			switch {
			case err == nil:
			case readErr == nil:
				err = errors.Join(err, os.WriteFile(f.path, before, 0o644)) //nolint:gosec // as it was
			default:
				err = errors.Join(err, os.Remove(f.path))
			}
		}()
	}
	return nil
}

// stage writes a file beside its place.
func stage(f catalogFile) (*wholefile.File, error) {
	if st, err := os.Lstat(f.path); err == nil && !st.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	t, err := wholefile.Begin(filepath.Dir(f.path), wholefile.Options{Mode: 0o644, DirMode: 0o755, Sync: true})
	if err != nil {
		return nil, err
	}
	if _, err := t.Write(f.text); err != nil {
		t.Discard()
		return nil, err
	}
	return t, nil
}

// UpdatedBase is one base's lock moved forward.
type UpdatedBase struct {
	BaseUpdate
	Packages []Change `json:"packages"`
	CVEs     CVEs     `json:"cves"`
}

// UpdatedImage is one image's lock moved forward.
type UpdatedImage struct {
	ImageLock
	Bases []string `json:"bases"` // of those it stands on, the ones that moved
	CVEs  CVEs     `json:"cves"`  // of the packages its own steps fetch
}

// Updated is the outcome of UpdateLocks.
type Updated struct {
	Bases   []UpdatedBase  `json:"bases"`
	Images  []UpdatedImage `json:"images"`
	Touched []string       `json:"touched"` // images whose lock is another now
	Failed  []report.Image `json:"-"`       // images that could not be built: nothing was written
}

// Changed says whether any lock is another now.
func (u *Updated) Changed() bool {
	return len(u.Touched) > 0 || slices.ContainsFunc(u.Bases, func(b UpdatedBase) bool { return b.Written })
}

// UpdateOptions are what UpdateLocks may be asked to leave.
type UpdateOptions struct {
	Dry    bool // nothing is written
	Pinned bool // the catalog is one by commit or digest: its bases and images stay
}

// UpdateLocks moves the locks of the plan's images, and of the bases they stand
// on, to the mirrors' newest, builds all of it and writes the locks, all of them
// or, where anything fails or nothing is to be written, none.
func (l *Line) UpdateLocks(ctx context.Context, p *plan.Plan, o UpdateOptions) (*Updated, error) {
	names, err := l.wholeImages(p)
	if err != nil {
		return nil, err
	}
	bases, files := []UpdatedBase{}, []catalogFile(nil)
	if o.Pinned {
		err = l.onlyProject(names)
	} else {
		bases, files, err = l.moveBases(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	locked, more, err := l.makeLocks(ctx, p, true)
	if err != nil {
		return nil, err
	}
	out := &Updated{Bases: bases, Images: []UpdatedImage{}, Touched: []string{}, Failed: locked.Failed}
	if len(out.Failed) > 0 {
		return out, nil
	}
	for _, one := range locked.Images {
		out.Images = append(out.Images, UpdatedImage{ImageLock: one, Bases: movedUnder(one, bases)})
		if one.Written {
			out.Touched = append(out.Touched, one.Image)
		}
	}
	if err := l.judgeUpdate(ctx, out); err != nil {
		return nil, err
	}
	if o.Dry {
		return out, nil
	}
	return out, writeFiles(append(files, more...))
}

// onlyProject refuses images of a catalog that cannot be written.
func (l *Line) onlyProject(names []string) error {
	for _, name := range names {
		if img, ok := l.cfg.Catalog.Image(name); ok && !img.Project {
			return &artifact.Error{
				Kind: artifact.KindUsage, Op: "updating locks", Place: name, Message: "it is of a catalog that is named by commit or digest, which cannot be written",
				Remedy: "choose images of the project with --image, or run in the catalog's own repository",
			}
		}
	}
	return nil
}

// moveBases resolves the plan's bases anew and builds them; from then on the
// line builds on those.
func (l *Line) moveBases(ctx context.Context, p *plan.Plan) ([]UpdatedBase, []catalogFile, error) {
	out := []UpdatedBase{}
	var files []catalogFile
	if _, err := l.mirrors.get(); err != nil {
		return nil, nil, err
	}
	for _, n := range p.Nodes {
		b, ok := l.cfg.Catalog.Base(n.Base)
		if n.Kind != plan.KindBase || !ok {
			continue
		}
		u, raw, err := l.moveBase(ctx, *b)
		if err != nil {
			return nil, nil, err
		}
		if u.Written {
			lock, err := base.ParseLock(raw, b.LockPath)
			if err != nil {
				return nil, nil, err
			}
			f, err := l.baseLockFile(*b, raw, false)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, f)
			l.moveTo(b.Name, lock)
		}
		out = append(out, u)
	}
	return out, files, nil
}

func (l *Line) moveTo(name string, lock *base.Lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.moved == nil {
		l.moved = map[string]*base.Lock{}
	}
	l.moved[name] = lock
}

func differs(old *base.Lock, raw []byte) (bool, error) {
	if old == nil {
		return true, nil
	}
	before, err := old.Marshal()
	return !bytes.Equal(before, raw), err
}

// basePackages lists the packages that differ between two locks of a base; old
// may be nil.
func basePackages(old, now *base.Lock) []Change {
	versions := func(l *base.Lock) map[[2]string][]string {
		out := map[[2]string][]string{}
		add := func(kind, name, version string) {
			key := [2]string{kind, name}
			if !slices.Contains(out[key], version) {
				out[key] = append(out[key], version)
			}
		}
		if l == nil {
			return out
		}
		for _, t := range l.Platforms {
			for _, p := range t.Packages {
				add("deb", p.Name, p.Version)
			}
			for _, n := range t.Node {
				add("npm", n.Name, n.Version)
			}
			if t.Toolchain != nil {
				add("golang", "stdlib", toolchainVersion(t.Toolchain.Version))
			}
		}
		for _, v := range out {
			slices.SortFunc(v, debian.Compare)
		}
		return out
	}
	return changesOf(versions(old), versions(now))
}

// toolchainVersion is 1.26.3 of v0.0.1-go1.26.3.linux-amd64: a toolchain's
// library is a package to scanners.
func toolchainVersion(module string) string {
	_, v, ok := strings.Cut(module, "-go")
	if !ok {
		return module
	}
	parts := strings.SplitN(v, ".", 4)
	return strings.Join(parts[:min(3, len(parts))], ".")
}

// movedUnder are the bases of an image that moved.
func movedUnder(img ImageLock, bases []UpdatedBase) []string {
	out := []string{}
	for _, on := range img.New.Bases {
		if slices.ContainsFunc(bases, func(b UpdatedBase) bool { return b.Name == on.Name && b.Written }) {
			out = append(out, on.Name)
		}
	}
	return out
}

// judgeUpdate asks the vulnerability database about everything that changed,
// once.
func (l *Line) judgeUpdate(ctx context.Context, u *Updated) error {
	var all []Change
	for _, b := range u.Bases {
		all = append(all, b.Packages...)
	}
	for _, i := range u.Images {
		all = append(all, i.Changed...)
	}
	k, err := l.lookUp(ctx, all)
	if err != nil {
		return err
	}
	for i := range u.Bases {
		u.Bases[i].CVEs = k.judge(u.Bases[i].Packages)
	}
	for i := range u.Images {
		u.Images[i].CVEs = k.judge(u.Images[i].Changed)
	}
	return nil
}

// ParseTo reads the date of an update: a day, of which the whole counts, or a
// time as RFC 3339 has it. It must not be in the future.
func ParseTo(text string, now time.Time) (time.Time, error) {
	fail := func(message string) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--to " + text, Message: message,
			Remedy: "write a day as 2006-01-02, or a time as 2006-01-02T15:04:05Z",
		}
	}
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if at, err = time.Parse(time.DateOnly, text); err != nil {
			return time.Time{}, fail("not a date")
		}
		at = at.Add(24*time.Hour - time.Second)
		if at.After(now) && !at.Add(-24*time.Hour).After(now) {
			at = now.UTC().Truncate(time.Second)
		}
	}
	if at.After(now) {
		return time.Time{}, fail(fmt.Sprintf("it is in the future (now is %s)", now.UTC().Format(time.RFC3339)))
	}
	return at.UTC(), nil
}
