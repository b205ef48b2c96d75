package line

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/base"
	"drydock/modules/engine"
	"drydock/pipeline/results"
)

// emulation is the emulators of a run: those the lock names for this machine,
// each taken out of its package when it is first wanted.
type emulation struct {
	locked  *base.LockedEmulators                 // nil: none
	problem error                                 // why there are none though the catalog wants some
	taken   map[string]*shared[artifact.Material] // by architecture
}

func emulatorSpec(e *catalog.Emulators) base.EmulatorSpec {
	return base.EmulatorSpec{Package: e.Package, Suite: e.Suite, Platforms: e.Platforms, Emulate: e.Emulate, Place: e.Place}
}

func (l *Line) emulatorLock() (*base.EmulatorLock, error) {
	path := filepath.Join(l.cfg.CatalogDir, filepath.FromSlash(l.cfg.Catalog.Emulators.Lock))
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "reading emulators' lock", Place: path, Err: err}
	}
	return base.ParseEmulatorLock(raw, path)
}

// openEmulation reads the lock; nothing is fetched.
func (l *Line) openEmulation() (*emulation, error) {
	e := &emulation{taken: map[string]*shared[artifact.Material]{}}
	want := l.cfg.Catalog.Emulators
	if want == nil {
		return e, nil
	}
	lock, err := l.emulatorLock()
	if err != nil {
		return nil, err
	}
	why := "the emulators have no lock"
	if lock != nil {
		why = lock.Fits(emulatorSpec(want))
	}
	if why != "" {
		e.problem = &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading emulators' lock", Place: want.Lock, Message: why, Remedy: "drydock base update --emulators",
		}
		return e, nil
	}
	e.locked = lock.On(runtime.GOARCH)
	if e.locked == nil {
		return e, nil
	}
	for _, locked := range e.locked.Emulators {
		arch := locked.Architecture
		e.taken[arch] = share(func() (artifact.Material, error) {
			if _, err := l.mirrors.get(); err != nil {
				return artifact.Material{}, err
			}
			m, err := l.builder().Emulator(l.ctx, e.locked, arch)
			m.Step = "emulating linux/" + arch
			return m, err
		})
	}
	return e, nil
}

// forEngine is what the embedded engine is told of them.
func (e *emulation) forEngine(b *base.Builder) map[string]engine.Emulator {
	if e.locked == nil {
		return nil
	}
	out := map[string]engine.Emulator{}
	for _, locked := range e.locked.Emulators {
		out[locked.Architecture] = engine.Emulator{Path: b.EmulatorFile(locked), SHA256: locked.SHA256}
	}
	return out
}

// emulator puts the emulator for a platform in its place and says what it is
// made of; nothing where none is needed, or where the engine will say that
// there is none.
func (l *Line) emulator(p artifact.Platform) ([]artifact.Material, error) {
	arch := engine.Emulated(p)
	if arch == "" {
		return nil, nil
	}
	e, err := l.emulation.get()
	if err != nil {
		return nil, err
	}
	if e.problem != nil {
		return nil, e.problem
	}
	s, ok := e.taken[arch]
	if !ok {
		return nil, nil
	}
	m, err := s.get()
	return []artifact.Material{m}, err
}

// emulatorOf is emulator for what the engine is to run by itself.
func (l *Line) emulatorOf(p artifact.Platform) ([]artifact.Material, error) {
	e, err := l.engine.get()
	if err != nil || e.Kind != engine.KindEmbedded {
		return nil, err
	}
	return l.emulator(p)
}

// emulators puts the emulators in place that one platform's build runs code
// with.
func (l *Line) emulators(e *engine.Engine, img *catalog.Image, v *catalog.Variant, p artifact.Platform) ([]artifact.Material, error) {
	if e.Kind != engine.KindEmbedded {
		return nil, nil // it has its own, or none
	}
	args := img.FromArgs(*v, p)
	args["BUILDPLATFORM"], args["BUILDOS"], args["BUILDARCH"] = "linux/"+runtime.GOARCH, "linux", runtime.GOARCH
	runs, err := img.Parsed.RunPlatforms(img.Target, args)
	if err != nil {
		return nil, err
	}
	var out []artifact.Material
	for _, name := range runs {
		on, err := artifact.ParsePlatform(name)
		if err != nil {
			continue // the engine knows better
		}
		more, err := l.emulator(on)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// staticOnly says why a platform's tests do not run anything of the image; ""
// when they do. What is emulated runs where the catalog asks for it.
func (l *Line) staticOnly(e *engine.Engine, native string, p artifact.Platform) (string, error) {
	if native == p.String() {
		return "", nil
	}
	cannot := fmt.Sprintf("the engine executes %s and cannot execute %s", native, p)
	want := l.cfg.Catalog.Emulators
	if e.Kind != engine.KindEmbedded || want == nil {
		return cannot, nil
	}
	if !want.Tests {
		return cannot + " but by emulation, in which no tests are run (tests: true in " + catalog.EmulatorsFile + " runs them)", nil
	}
	found, err := l.canEmulate.get()
	if err != nil {
		return "", err
	}
	if found != "" {
		return cannot + ": " + found, nil
	}
	materials, err := l.emulator(p)
	if err == nil && len(materials) == 0 && engine.Emulated(p) != "" {
		return cannot + ": " + catalog.EmulatorsFile + " names no emulator for it", nil
	}
	return "", err
}

// findEmulates asks this machine whether steps can be emulated: why not, or "".
func (l *Line) findEmulates() (string, error) {
	report, err := engine.Probe(l.ctx, l.cfg.Cache, l.cfg.Environ)
	if err != nil {
		return "", err
	}
	for _, f := range report.Findings {
		if f.Name == engine.FindingForeign && f.OK && report.Tier == "T1" {
			return "", nil
		}
	}
	return "steps cannot be emulated on this machine (drydock doctor)", nil
}

// UpdateEmulators locks the newest emulators and writes the lock.
func (l *Line) UpdateEmulators(ctx context.Context) (BaseUpdate, error) {
	want := l.cfg.Catalog.Emulators
	if want == nil {
		return BaseUpdate{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "updating emulators", Place: filepath.Join(l.cfg.Catalog.Name, catalog.EmulatorsFile),
			Message: "the catalog has no such file", Remedy: "write one that names the package and what it emulates: " +
				"version: 1, package: qemu-user-static, platforms: [linux/amd64], emulate: [linux/arm64]",
		}
	}
	u := BaseUpdate{Name: "emulators", Lock: want.Lock, Changed: []string{}}
	if _, err := l.mirrors.get(); err != nil {
		return u, err
	}
	old, err := l.emulatorLock()
	if err != nil {
		return u, err
	}
	next, err := l.builder().ResolveEmulators(ctx, emulatorSpec(want))
	if err != nil {
		return u, err
	}
	raw, err := next.Marshal()
	if err != nil {
		return u, err
	}
	u.Changed = base.EmulatorChanges(old, next)
	if u.Digest, err = results.NewContent(raw); err != nil {
		return u, err
	}
	if old != nil {
		if before, err := old.Marshal(); err == nil && string(before) == string(raw) {
			return u, nil
		}
	}
	path := filepath.Join(l.cfg.CatalogDir, filepath.FromSlash(want.Lock))
	if err := results.WriteFile(path, raw); err != nil {
		return u, &artifact.Error{Kind: artifact.KindUsage, Op: "writing lock", Place: path, Err: err, Remedy: "give a catalog that can be written"}
	}
	u.Written = true
	return u, nil
}

// addEmulators makes what emulates part of what results follow from.
func (l *Line) addEmulators(k *results.Key) error {
	want := l.cfg.Catalog.Emulators
	if want == nil {
		return nil
	}
	raw, err := os.ReadFile(filepath.Join(l.cfg.CatalogDir, filepath.FromSlash(want.Lock)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.JSON("emulators", want).Text("emulators' lock", string(raw))
	return nil
}
