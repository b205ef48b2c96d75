package line

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/mirror"
	"drydock/modules/mirror/lockfile"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
)

// observation is the making of locks: the images whose steps run anew and are
// watched.
type observation struct {
	nonce  string
	images map[string]bool
}

// ImageLock is what locking one image did.
type ImageLock struct {
	Image   string         `json:"image"`
	Lock    string         `json:"lock"`    // its file, relative to the catalog, or to the project whose image it is
	Files   int            `json:"files"`   // that it pins
	Written bool           `json:"written"` // it was not the same before
	Changed []Change       `json:"changed"`
	Old     *lockfile.Lock `json:"-"`
	New     *lockfile.Lock `json:"-"`
}

// Locked is the outcome of LockImages.
type Locked struct {
	Images []ImageLock
	Failed []report.Image // images that could not be built, with their errors
}

// LockImages builds the chosen images of a plan and writes what their steps
// fetched into the catalog's locks. Steps that are cached still have what they
// fetched; fresh runs all of them again, with the mirrors' newest.
func (l *Line) LockImages(ctx context.Context, p *plan.Plan, fresh bool) (*Locked, error) {
	out, files, err := l.makeLocks(ctx, p, fresh)
	if err != nil || len(out.Failed) > 0 {
		return out, err
	}
	return out, writeFiles(files)
}

// makeLocks is LockImages without the writing: the files are what is to be
// written.
func (l *Line) makeLocks(ctx context.Context, p *plan.Plan, fresh bool) (*Locked, []catalogFile, error) {
	names, err := l.wholeImages(p)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	l.locking = true
	l.mu.Unlock()
	again := names
	made := map[string]*lockfile.Lock{}
	out := &Locked{}
	if !fresh {
		if again, err = l.lockPass(ctx, p, names, out, made); err != nil {
			return nil, nil, err
		}
	}
	if len(again) > 0 && len(out.Failed) == 0 {
		if err := l.observe(again); err != nil {
			return nil, nil, err
		}
		left, err := l.lockPass(ctx, p, again, out, made)
		if err != nil {
			return nil, nil, err
		}
		if len(left) > 0 && len(out.Failed) == 0 {
			return nil, nil, &artifact.Error{
				Kind: artifact.KindFault, Op: "locking", Place: left[0], Message: "what its steps fetched is not all known",
				Remedy: "lock with the embedded engine: others give steps a network nobody watches",
			}
		}
	}
	if len(out.Failed) > 0 {
		return out, nil, nil
	}
	files, err := l.lockFiles(ctx, names, made, out)
	return out, files, err
}

// lockFiles are the locks that are to be written.
func (l *Line) lockFiles(ctx context.Context, names []string, made map[string]*lockfile.Lock, out *Locked) ([]catalogFile, error) {
	database, err := l.databaseToLock(ctx)
	if err != nil {
		return nil, err
	}
	var files []catalogFile
	for _, name := range names {
		if made[name] != nil {
			made[name].Database = database
		}
		one, file, err := l.imageLock(name, made[name])
		if err != nil {
			return nil, err
		}
		if one.Written {
			files = append(files, file)
		}
		out.Images = append(out.Images, *one)
	}
	return files, nil
}

// wholeImages are the chosen images. Some variants alone are refused: a lock is
// of all of them.
func (l *Line) wholeImages(p *plan.Plan) ([]string, error) {
	names := []string{}
	chosen := map[string]int{}
	for _, img := range p.Images {
		if img.Implied {
			continue
		}
		if chosen[img.Image]++; chosen[img.Image] == 1 {
			names = append(names, img.Image)
		}
	}
	for _, name := range names {
		img, ok := l.cfg.Catalog.Image(name)
		if ok && len(img.Variants) != chosen[name] {
			return nil, &artifact.Error{
				Kind: artifact.KindUsage, Op: "choosing images", Place: name, Message: "a lock is of all variants of an image",
				Remedy: "--image " + name,
			}
		}
	}
	return names, nil
}

// observe makes the steps of images run anew, watched.
func (l *Line) observe(images []string) error {
	mark, err := nonce()
	if err != nil {
		return err
	}
	o := &observation{nonce: mark, images: map[string]bool{}}
	for _, name := range images {
		o.images[name] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observing = o
	return nil
}

// nonce marks steps that no earlier build has.
func nonce() (string, error) {
	raw := make([]byte, 6)
	_, err := rand.Read(raw)
	return hex.EncodeToString(raw), err
}

// lockPass builds images and makes the locks of those all of whose fetches are
// known and agree; it returns the others.
func (l *Line) lockPass(ctx context.Context, p *plan.Plan, names []string, out *Locked, made map[string]*lockfile.Lock) ([]string, error) {
	l.mu.Lock()
	l.built = nil
	l.mu.Unlock()
	summary, err := l.Run(ctx, p, Options{Kinds: []plan.Kind{plan.KindBuild}})
	if err != nil {
		return nil, err
	}
	for _, img := range summary.Images {
		if img.Error != nil {
			out.Failed = append(out.Failed, img)
		}
	}
	var left []string
	for _, name := range names {
		lock, ok, err := l.composeLock(name)
		if err != nil {
			return nil, err
		}
		if made[name] = lock; !ok {
			left = append(left, name)
		}
	}
	return left, nil
}

// composeLock joins what the builds of an image fetched; false when that is not
// all known, or when two steps were given different files under one path.
func (l *Line) composeLock(name string) (*lockfile.Lock, bool, error) {
	box, err := l.gatewayBox.get()
	if err != nil {
		return nil, false, err
	}
	e, err := l.engine.get()
	if err != nil {
		return nil, false, err
	}
	img, ok := l.cfg.Catalog.Image(name)
	if !ok {
		return nil, false, fmt.Errorf("the catalog has no image %s", name)
	}
	lock := &lockfile.Lock{Image: name, Drydock: l.cfg.Version, Frontend: frontend(e, img), Bases: []lockfile.Base{}}
	files := map[string]lockfile.Material{}
	absents := map[lockfile.Absent]bool{}
	l.mu.Lock()
	built, watched := slices.Clone(l.built), l.cfg.Observe || l.observing != nil && l.observing.images[name]
	l.mu.Unlock()
	// Steps that found something in a cache mount fetched less than they need.
	ok = watched || !l.keepsCaches(name)
	for _, b := range built {
		if b.Image != name {
			continue
		}
		lock.Epoch = max(lock.Epoch, b.Epoch)
		addBases(lock, b)
		addEmulators(lock, b)
		f := box.gateway.Fetched(b.Name)
		ok = ok && f.Lockable && joinFetched(files, f)
		for _, a := range f.Absent {
			absents[a] = true
		}
	}
	if err := l.keepMoment(lock, files); err != nil {
		return nil, false, err
	}
	addFiles(lock, files, absents)
	return lock, ok, nil
}

// addFiles puts what was fetched, and what was not there, into a lock.
func addFiles(lock *lockfile.Lock, files map[string]lockfile.Material, absents map[lockfile.Absent]bool) {
	for _, m := range files {
		slices.Sort(m.Steps)
		lock.Materials = append(lock.Materials, m)
		delete(absents, lockfile.Absent{Ecosystem: m.Ecosystem, Path: m.Path})
	}
	for a := range absents {
		lock.Absent = append(lock.Absent, a)
	}
}

// keepMoment keeps in a lock made as of a time what makes its answers come out
// again elsewhere.
func (l *Line) keepMoment(lock *lockfile.Lock, files map[string]lockfile.Material) error {
	set, err := l.mirrors.get()
	if err != nil || set.At().IsZero() {
		return err
	}
	to := set.At()
	lock.To = &to
	for k, m := range files {
		if m.Tags, err = set.NpmTags(artifact.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size}); err != nil {
			return err
		}
		files[k] = m
	}
	return nil
}

// keepsCaches says whether an image's RUN instructions have cache mounts.
func (l *Line) keepsCaches(name string) bool {
	img, ok := l.cfg.Catalog.Image(name)
	return ok && img.Parsed != nil && img.Parsed.CacheMounts()
}

func addBases(lock *lockfile.Lock, b *builtImage) {
	for _, base := range b.Bases {
		one := lockfile.Base{Name: base.Name, Digest: base.Digest}
		if !strings.HasPrefix(base.Name, offeredPrefix) && !slices.Contains(lock.Bases, one) {
			lock.Bases = append(lock.Bases, one)
		}
	}
}

func addEmulators(lock *lockfile.Lock, b *builtImage) {
	for _, m := range b.Emulators {
		if one := (lockfile.Emulator{PURL: m.PURL, Digest: m.Digest}); !slices.Contains(lock.Emulators, one) {
			lock.Emulators = append(lock.Emulators, one)
		}
	}
}

// joinFetched adds what one build fetched; false when a path has two contents.
func joinFetched(files map[string]lockfile.Material, f mirror.Fetched) bool {
	ok := true
	for _, m := range f.Materials {
		k := m.Ecosystem + " " + m.Path
		one, have := files[k]
		ok = ok && m.Path != "" && (!have || one.Digest == m.Digest)
		if !have {
			one = lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size, PURL: m.PURL}
		}
		for _, s := range f.StepsOf(m) {
			if s = stepLabel(s); !slices.Contains(one.Steps, s) {
				one.Steps = append(one.Steps, s)
			}
		}
		files[k] = one
	}
	return ok
}

// stepLabel is how a lock calls a step: without its number, which changes with
// steps before it, and not at any length.
func stepLabel(name string) string {
	if _, rest, ok := strings.Cut(name, "] "); ok && strings.HasPrefix(name, "[") {
		name = rest
	}
	const most = 80
	if r := []rune(name); len(r) > most {
		name = string(r[:most]) + "…"
	}
	return name
}

// lockName is the file of an image's lock, relative to what it belongs to.
func (l *Line) lockName(image string) string {
	if img, ok := l.cfg.Catalog.Image(image); ok && img.Project {
		return catalog.ProjectLocks + "/" + image + ".json"
	}
	return "locks/" + image + ".json"
}

// imageLock is a lock beside the one the catalog has, and the file to be
// written if it is not the same.
func (l *Line) imageLock(name string, lock *lockfile.Lock) (*ImageLock, catalogFile, error) {
	file, shown := l.lockFile(name)
	if lock == nil {
		return nil, catalogFile{}, fmt.Errorf("no lock was made for %s", name)
	}
	raw, err := lock.Marshal()
	if err != nil {
		return nil, catalogFile{}, err
	}
	if _, err := lockfile.Parse(raw, shown); err != nil {
		return nil, catalogFile{}, fmt.Errorf("what was fetched makes no lock: %w", err)
	}
	old, err := l.readLock(name)
	if err != nil {
		return nil, catalogFile{}, err
	}
	out := &ImageLock{Image: name, Lock: l.lockName(name), Files: len(lock.Materials), Old: old, New: lock, Changed: Changes(old, lock)}
	have, err := os.ReadFile(file)
	out.Written = err != nil || !bytes.Equal(have, raw)
	return out, catalogFile{path: file, shown: shown, text: raw}, nil
}
