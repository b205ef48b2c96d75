package base

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"drydock/modules/artifact"
	"drydock/modules/base/resolve"
	"drydock/modules/mirror"
	"drydock/modules/mirror/debian/deb"
)

// qemuNames is qemu's name for an architecture where it is not OCI's.
var qemuNames = map[string]string{"386": "i386", "amd64": "x86_64", "arm64": "aarch64"}

// programsOf are the paths an architecture's emulator may have in a package:
// Debian 13 and later build qemu-user itself static.
func programsOf(architecture string) []string {
	name := architecture
	if q, ok := qemuNames[architecture]; ok {
		name = q
	}
	return []string{"usr/bin/qemu-" + name + "-static", "usr/bin/qemu-" + name}
}

// maxEmulator is how large one emulator may be.
const maxEmulator = 128 << 20

// errEnough ends a walk through a package.
var errEnough = errors.New("enough")

// ResolveEmulators locks the newest emulators the mirrors serve.
func (b *Builder) ResolveEmulators(ctx context.Context, spec EmulatorSpec) (*EmulatorLock, error) {
	s, err := findSuite(ctx, b.Mirrors, Spec{Name: "emulators", Suite: spec.Suite, Place: spec.Place})
	if err != nil {
		return nil, err
	}
	lock := &EmulatorLock{Version: EmulatorLockVersion, Package: spec.Package, Suite: s.name}
	for _, host := range spec.Platforms {
		t := LockedEmulators{Platform: host, Emulators: []LockedEmulator{}}
		if t.Package, err = b.newestEmulators(ctx, s, spec, host); err != nil {
			return nil, err
		}
		if t.Emulators, err = b.readEmulators(ctx, t.Package, spec, host); err != nil {
			return nil, err
		}
		lock.Platforms = append(lock.Platforms, t)
	}
	return lock, nil
}

func emulatorError(spec EmulatorSpec, host artifact.Platform, message, remedy string) error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "resolving emulators for " + host.String(), Place: spec.Place, Message: message, Remedy: remedy,
	}
}

// newestEmulators finds the package for one kind of building machine.
func (b *Builder) newestEmulators(ctx context.Context, s *suite, spec EmulatorSpec, host artifact.Platform) (LockedPackage, error) {
	arch, ok := architectures[host.Architecture]
	if !ok {
		return LockedPackage{}, emulatorError(spec, host, "Debian has no such architecture", "name another platform")
	}
	candidates, err := s.candidates(ctx, b.Mirrors, arch)
	if err != nil {
		return LockedPackage{}, err
	}
	pool, err := resolve.NewPool(candidates, arch)
	if err != nil {
		return LockedPackage{}, err
	}
	c, ok := pool.Newest(spec.Package)
	if !ok {
		return LockedPackage{}, emulatorError(spec, host, fmt.Sprintf("suite %s has no package %s", s.name, spec.Package),
			"write package: qemu-user-static, or qemu-user where that is static")
	}
	return LockedPackage{
		Name: c.Name, Version: c.Version, Architecture: c.Architecture, Archive: c.Archive,
		Path: c.Filename, SHA256: c.SHA256, Size: c.Size,
	}, nil
}

// readEmulators finds the programs of a package and what they are.
func (b *Builder) readEmulators(ctx context.Context, p LockedPackage, spec EmulatorSpec, host artifact.Platform) ([]LockedEmulator, error) {
	blob, err := b.fetchPackage(ctx, p)
	if err != nil {
		return nil, err
	}
	b.logf("emulators: reading %s %s for %s", p.Name, p.Version, host)
	if err := os.MkdirAll(b.CacheDir, 0o755); err != nil {
		return nil, fmt.Errorf("reading emulators: %w", err)
	}
	tmp, err := os.MkdirTemp(b.CacheDir, ".build-*")
	if err != nil {
		return nil, fmt.Errorf("reading emulators: %w", err)
	}
	defer os.RemoveAll(tmp)
	wanted := map[string]string{} // path to architecture
	list := slices.DeleteFunc(slices.Clone(spec.Emulate), func(e artifact.Platform) bool {
		return e.Architecture == host.Architecture
	})
	for _, e := range list {
		for _, name := range programsOf(e.Architecture) {
			wanted[name] = e.Architecture
		}
	}
	found := map[string]LockedEmulator{}
	err = walkPackage(ctx, blob.Path, func(name string, body io.Reader) error {
		arch := wanted[name]
		if _, have := found[arch]; arch == "" || have {
			return nil
		}
		file := filepath.Join(tmp, "emulator")
		sum, size, err := writeProgram(file, body)
		if err == nil && !static(file) {
			return nil // qemu-user of Debian 12 and earlier
		}
		if err != nil {
			return err
		}
		found[arch] = LockedEmulator{Architecture: arch, Path: name, SHA256: sum, Size: size}
		if len(found) == len(list) {
			return errEnough // the package is large
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", p.Name, p.Version, err)
	}
	out := []LockedEmulator{}
	for _, e := range list {
		locked, ok := found[e.Architecture]
		if !ok {
			return nil, emulatorError(spec, host, fmt.Sprintf("package %s %s has no static emulator of %s", p.Name, p.Version, e.Architecture),
				"write package: qemu-user-static, or take the platform out of emulate:")
		}
		out = append(out, locked)
	}
	return out, nil
}

func (b *Builder) fetchPackage(ctx context.Context, p LockedPackage) (mirror.Blob, error) {
	blob, err := b.Mirrors.Fetch(ctx, mirror.Request{
		Ecosystem: mirror.Debian, Path: p.Archive + "/" + p.Path, SHA256: artifact.Digest("sha256:" + p.SHA256), Size: p.Size,
	})
	if err != nil {
		return blob, fmt.Errorf("fetching %s %s: %w", p.Name, p.Version, err)
	}
	blob.Material = named(blob.Material, fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", p.Name, p.Version, p.Architecture))
	return blob, nil
}

// walkPackage reads the regular files of a package.
func walkPackage(ctx context.Context, file string, fn func(name string, body io.Reader) error) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	p, err := deb.Open(f, info.Size())
	if err != nil {
		return err
	}
	err = p.Walk(func(h *tar.Header, body io.Reader) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		return fn(path.Clean(h.Name), body)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// writeProgram writes an executable and returns its digest and size.
func writeProgram(file string, body io.Reader) (sum string, size int64, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, h), io.LimitReader(body, maxEmulator+1))
	if err = errors.Join(err, f.Close()); err == nil && size > maxEmulator {
		err = fmt.Errorf("an emulator of more than %d bytes", maxEmulator)
	}
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// static says whether a program runs in a root that has none of its libraries.
func static(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// EmulatorFile is where Emulator puts a locked emulator.
func (b *Builder) EmulatorFile(e LockedEmulator) string {
	return filepath.Join(b.CacheDir, "emulators", e.SHA256)
}

// Emulator puts the emulator of an architecture in its place, if it is not
// there, and returns the package it is from.
func (b *Builder) Emulator(ctx context.Context, t *LockedEmulators, architecture string) (m artifact.Material, err error) {
	e := t.Of(architecture)
	if e == nil {
		return m, fmt.Errorf("no emulator of %s is locked", architecture)
	}
	at := b.EmulatorFile(*e)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return m, fmt.Errorf("keeping emulators: %w", err)
	}
	guard := flock.New(at + ".lock")
	if _, err := guard.TryLockContext(ctx, lockPoll); err != nil {
		return m, fmt.Errorf("waiting for another run that takes out the same emulator: %w", err)
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	if m, ok := keptEmulator(at, *e); ok {
		return m, nil
	}
	blob, err := b.fetchPackage(ctx, t.Package)
	if errors.Is(err, mirror.ErrNotFound) {
		return m, &artifact.Error{
			Kind: artifact.KindFault, Op: "fetching the emulator of " + architecture, Place: t.Package.Name + " " + t.Package.Version,
			Message: "the mirror no longer serves what is locked", Remedy: updateEmulators, Err: err,
		}
	}
	if err != nil {
		return m, err
	}
	b.logf("emulators: taking %s out of %s %s", e.Path, t.Package.Name, t.Package.Version)
	if err := takeOut(ctx, blob.Path, *e, at); err != nil {
		return m, fmt.Errorf("taking %s out of %s %s: %w", e.Path, t.Package.Name, t.Package.Version, err)
	}
	data, err := json.Marshal(emulatorRecord{Version: 1, Material: blob.Material})
	if err != nil {
		return m, err
	}
	return blob.Material, writeWhole(at+".json", data)
}

// emulatorRecord is kept beside an emulator.
type emulatorRecord struct {
	Version  int               `json:"version"`
	Material artifact.Material `json:"material"`
}

func keptEmulator(at string, e LockedEmulator) (artifact.Material, bool) {
	info, err := os.Stat(at)
	if err != nil || info.Size() != e.Size {
		return artifact.Material{}, false
	}
	var r emulatorRecord
	data, err := os.ReadFile(at + ".json")
	return r.Material, err == nil && json.Unmarshal(data, &r) == nil && r.Version == 1
}

// takeOut writes one program of a package, whole and as locked.
func takeOut(ctx context.Context, file string, e LockedEmulator, to string) error {
	tmp := to + ".new"
	defer os.Remove(tmp)
	found := false
	err := walkPackage(ctx, file, func(name string, body io.Reader) error {
		if name != e.Path {
			return nil
		}
		sum, size, err := writeProgram(tmp, body)
		if err == nil && (sum != e.SHA256 || size != e.Size) {
			err = fmt.Errorf("it is not the file that is locked: sha256 %s, %d bytes", sum, size)
		}
		found = true
		if err == nil {
			err = errEnough
		}
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		return errors.New("the package does not have it")
	}
	return os.Rename(tmp, to)
}
