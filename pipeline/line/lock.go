package line

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/engine"
	"drydock/modules/image"
	"drydock/modules/mirror"
	"drydock/modules/mirror/lockfile"
	"drydock/modules/provenance"
	"drydock/modules/scan"
	"drydock/pipeline/results"
)

// underLock is what one build's steps are held to.
type underLock struct {
	mounts   string // the name space of RUN's cache mounts; "" is the one all builds share
	again    string // the build is one again
	key      string
	lock     *lockfile.Lock // nil: none was made, nothing may be fetched; or one is being made
	file     string         // as errors call it
	remedy   string
	observed bool // fetches are watched to be locked, not held to anything
	soft     bool // what cannot be held to is said, and not held to
}

// lockFile is where an image's lock lies, and what errors call it.
func (l *Line) lockFile(image string) (file, shown string) {
	dir, name, rel := l.cfg.CatalogDir, l.cfg.Catalog.Name, l.lockName(image)
	if img, ok := l.cfg.Catalog.Image(image); ok && img.Project {
		dir, name = l.cfg.ProjectDir, path.Dir(img.Place)
	}
	return filepath.Join(dir, filepath.FromSlash(rel)), path.Join(name, rel)
}

// readLock reads an image's lock; nil when it has none.
func (l *Line) readLock(image string) (*lockfile.Lock, error) {
	file, shown := l.lockFile(image)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "reading image lock", Place: shown, Err: err}
	}
	lock, err := lockfile.Parse(raw, shown)
	if err == nil && lock.Image != image {
		err = &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading image lock", Place: shown, Message: "it is the lock of image " + lock.Image,
			Remedy: "make this image's own with drydock mirror lock --image " + image,
		}
	}
	return lock, err
}

// lockOfImage is what the steps of an image are held to; nil is nothing.
func (l *Line) lockOfImage(img *catalog.Image) (*underLock, error) {
	_, shown := l.lockFile(img.Name)
	u := &underLock{file: shown, remedy: "drydock mirror lock --image " + img.Name + ", review and commit " + shown}
	l.mu.Lock()
	observing, locking := l.observing, l.locking
	l.mu.Unlock()
	if l.cfg.again != nil {
		return l.lockAgain(img, u)
	}
	if observing != nil && observing.images[img.Name] {
		u.key, u.observed = "new-"+observing.nonce+"-"+short(img.Name), true
		u.mounts = u.key // what an earlier build left there would not be fetched
		return u, nil
	}
	if locking && !l.cfg.Locked {
		return nil, nil
	}
	lock, err := l.readLock(img.Name)
	if err != nil || lock == nil && !l.cfg.Locked {
		return nil, err
	}
	u.lock, u.soft = lock, !l.cfg.Locked
	if lock == nil {
		u.file, u.key = img.Name+", which has no lock ("+shown+")", "none-"+short(img.Name)
		return u, nil
	}
	u.key = lock.Key()
	return u, nil
}

// lockDigest names an image's lock in its provenance.
func (l *Line) lockDigest(image string) (provenance.File, error) {
	file, _ := l.lockFile(image)
	raw, err := readFile(file)
	if err != nil {
		return provenance.File{}, err
	}
	sum, err := results.NewContent(raw)
	return provenance.File{Path: l.lockName(image), Digest: sum}, err
}

func short(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// underLock puts one build under its lock: the gateway learns it, and every RUN
// of text gets the mounts that say so, whose secrets are added. It first makes
// sure that the build can be held to it: its bases are those locked, and the
// engine's steps have no other network.
func (l *Line) underLock(e *engine.Engine, img *catalog.Image, b *builtImage, text []byte, secrets map[string]string) (*underLock, []byte, error) {
	if l.cfg.Observe {
		return l.observeBuild(e, img, b, text, secrets)
	}
	u, err := l.lockOfImage(img)
	if u == nil || err != nil {
		return nil, text, err
	}
	if !e.Hermetic && u.soft {
		return nil, text, nil
	}
	if !e.Hermetic {
		l.note("--locked holds for bases only: the %s engine gives steps its own network", e.Kind)
		return nil, text, nil
	}
	if err := u.check(l.cfg.Version, frontend(e, img), b); err != nil {
		if !u.soft {
			return nil, nil, err
		}
		l.letGo(img, err)
		return nil, text, nil
	}
	box, err := l.gatewayBox.get()
	if err != nil {
		return nil, nil, err
	}
	if u.again != "" {
		b.Name += " " + u.key
	}
	if u.lock != nil && u.again == "" {
		if b.Lock, err = l.lockDigest(img.Name); err != nil {
			return nil, nil, err
		}
	}
	if u.observed {
		b.Name += " " + u.key // what an earlier build of it fetched is not this one's
		box.gateway.Observe(u.key)
	} else {
		box.gateway.Enforce(u.key, u.lock, u.file, u.remedy)
	}
	mounts, more := mirror.LockMounts(u.key)
	maps.Copy(secrets, more)
	text, err = mountInRuns(img, text, mounts...)
	return u, text, err
}

// mountInRuns gives every RUN of a rewritten Dockerfile more mounts.
func mountInRuns(img *catalog.Image, text []byte, mounts ...string) ([]byte, error) {
	for _, m := range mounts {
		f, err := dockerfile.Parse(img.DockerfilePath, text)
		if err != nil {
			return nil, err
		}
		if text, err = f.MountInRuns(nil, m); err != nil {
			return nil, err
		}
	}
	return text, nil
}

// withEpoch sets SOURCE_DATE_EPOCH in every RUN: tools that would write the time
// of the build into what they make write this one (python, zip, ar, javac;
// reproducible-builds.org/specs/source-date-epoch). A Dockerfile that names the
// variable decides itself.
func withEpoch(img *catalog.Image, b *builtImage, text []byte, secrets map[string]string) ([]byte, error) {
	if bytes.Contains(text, []byte(image.BuildArgEpoch)) {
		return text, nil
	}
	mount, more := mirror.EpochMount(b.Epoch)
	maps.Copy(secrets, more)
	return mountInRuns(img, text, mount)
}

// letGo says that an image is not built as its lock has it, now and whenever the
// result is remembered.
func (l *Line) letGo(img *catalog.Image, err error) {
	_, shown := l.lockFile(img.Name)
	why, _, _ := strings.Cut(err.Error(), "\n")
	l.driftNote(imageDrift+img.Name, "image %s is not built as %s has it, with what the mirrors have now instead: %s (drydock mirror lock --image %s locks that)", img.Name, shown, why, img.Name)
}

// imageDrift begins the keys of images among those of bases.
const imageDrift = "image "

// yields says whether a build failed by a lock that need not be held to.
func (l *Line) yields(o *order, err error) bool {
	if err == nil || l.cfg.Locked || o.free || !strings.Contains(err.Error(), "by rule lock/") {
		return false
	}
	lock, lerr := l.readLock(o.img.Name)
	if lerr != nil || lock == nil {
		return false
	}
	l.letGo(o.img, err)
	return true
}

// The rules by which --locked refuses what a lock pins beside files.
const (
	ruleLockedBase     = "lock/base"
	ruleLockedProgram  = "lock/drydock"
	ruleLockedFrontend = "lock/frontend"
	ruleLockedEmulator = "lock/emulator"
	ruleLockedEpoch    = "lock/epoch"
)

// check refuses to build on or with something else than what was locked. What
// is built again may be by a newer program: that is what it is to show.
func (u *underLock) check(version, frontend string, b *builtImage) error {
	if u.lock == nil {
		return nil
	}
	if err := u.checkBases(b.Bases); err != nil || u.soft || u.again != "" {
		return err
	}
	refuse := func(rule, what, was, now, remedy string) error {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "building under " + u.file, Place: u.file, Remedy: remedy,
			Message: fmt.Sprintf("it was locked with %s %s, this is %s (rule %s)", what, was, now, rule),
		}
	}
	switch {
	case u.lock.Drydock != "" && u.lock.Drydock != version:
		return refuse(ruleLockedProgram, "drydock", u.lock.Drydock, version, "use that version, or "+u.remedy)
	case u.lock.Frontend != "" && u.lock.Frontend != frontend:
		return refuse(ruleLockedFrontend, "frontend", u.lock.Frontend, frontend, "use the drydock it was locked with, or "+u.remedy)
	case b.Epoch > u.lock.Epoch:
		return refuse(ruleLockedEpoch, "epoch", fmt.Sprint(u.lock.Epoch), fmt.Sprint(b.Epoch), u.remedy)
	}
	for _, m := range b.Emulators {
		if !slices.Contains(u.lock.Emulators, lockfile.Emulator{PURL: m.PURL, Digest: m.Digest}) {
			return refuse(ruleLockedEmulator, "emulators", fmt.Sprint(u.lock.Emulators), m.PURL+" "+string(m.Digest), u.remedy)
		}
	}
	return nil
}

// databaseRefusal tells what to do about a vulnerability database that is not
// the locked one.
func (l *Line) databaseRefusal(err error, image string) error {
	var e *artifact.Error
	if errors.As(err, &e) && strings.Contains(e.Message, scan.RuleLocked) {
		_, shown := l.lockFile(image)
		e.Op, e.Place = "scanning under "+shown, shown
		e.Remedy = "bring the cache of a run that has it (--cache); or drydock mirror lock --image " + image +
			", review and commit it; or take database out of the lock, to scan with the newest"
	}
	return err
}

// checkBases refuses a base that is not the one an image was locked on.
func (u *underLock) checkBases(bases []baseReady) error {
	if u == nil || u.lock == nil {
		return nil
	}
	locked := map[string]artifact.Digest{}
	for _, b := range u.lock.Bases {
		locked[b.Name] = b.Digest
	}
	for _, b := range bases {
		if strings.HasPrefix(b.Name, offeredPrefix) || locked[b.Name] == b.Digest {
			continue
		}
		message := fmt.Sprintf("it was locked on base %s %s, which now is %s", b.Name, locked[b.Name], b.Digest)
		if locked[b.Name] == "" {
			message = "it was not locked on base " + b.Name
		}
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "building under " + u.file, Place: u.file, Message: message + " (rule " + ruleLockedBase + ")", Remedy: u.remedy,
		}
	}
	return nil
}

// checkMaterials refuses what steps fetched and the lock does not have: steps
// that run are refused by the gateway, cached ones are told from here.
func (u *underLock) checkMaterials(b *builtImage) error {
	if u == nil || u.observed || u.soft {
		return nil
	}
	fail := func(message, remedy string) error {
		return &artifact.Error{Kind: artifact.KindFault, Op: "building under " + u.file, Place: u.file, Message: message, Remedy: remedy}
	}
	if !b.Complete {
		return fail("what its cached steps fetched is not known any more", "drydock engine prune, and run again")
	}
	locked := map[string]artifact.Digest{}
	if u.lock != nil {
		for _, m := range u.lock.Materials {
			locked[m.Ecosystem+" "+m.Path] = m.Digest
		}
	}
	for _, m := range b.Materials {
		if locked[m.Ecosystem+" "+m.Path] == m.Digest || mirror.IsProof(m) {
			continue
		}
		return fail(fmt.Sprintf("step %q fetched %s %s (%s), which is not in it (rule %s)", m.Step, m.Ecosystem, m.Path, m.Digest, mirror.RuleLocked), u.remedy)
	}
	return nil
}

// lockRefusal makes a refusal by a rule of a lock an error of that lock.
func lockRefusal(e *artifact.Error, text string, u *underLock) bool {
	switch {
	case strings.Contains(text, "by rule "+mirror.RuleOffline):
		e.Kind, e.Remedy = artifact.KindFault, "run once without --offline, or bring the cache of a run that fetched it (--cache)"
	case strings.Contains(text, "by rule "+mirror.RuleServed):
		e.Kind, e.Remedy = artifact.KindFault, "bring the cache of a run that has it (--cache), or lock anew: remove the lock and run drydock mirror lock"
	case strings.Contains(text, "by rule "+mirror.RuleLocked):
		e.Kind, e.Remedy = artifact.KindFault, "drydock mirror lock"
	default:
		return false
	}
	if u != nil {
		e.Remedy = strings.Replace(e.Remedy, "drydock mirror lock", u.remedy, 1)
	}
	return true
}

// frontend is what reads an image's Dockerfile, with its version or digest.
func frontend(e *engine.Engine, img *catalog.Image) string {
	if img.Frontend != nil {
		return img.Frontend.Syntax + " " + img.Frontend.Image
	}
	if e.Kind != engine.KindEmbedded {
		return e.Kind + " " + e.Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, d := range info.Deps {
		if d.Path == "github.com/moby/buildkit" {
			return "buildkit " + d.Version
		}
	}
	return ""
}
