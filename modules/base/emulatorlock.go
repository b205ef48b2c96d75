package base

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"drydock/modules/artifact"
)

// EmulatorLockVersion is the newest format of the emulators' lock this program
// reads and the one it writes.
const EmulatorLockVersion = 1

// EmulatorSpec is what the catalog asks of emulators.
type EmulatorSpec struct {
	Package   string // Debian package with qemu's static user mode
	Suite     string // "" is the one the mirror settings lead to
	Platforms []artifact.Platform
	Emulate   []artifact.Platform
	Place     string // the file, for errors
}

// EmulatorLock pins the emulators. It holds no mirror's address.
type EmulatorLock struct {
	Version   int               `json:"version"` // EmulatorLockVersion
	Package   string            `json:"package"` // as asked for
	Suite     string            `json:"suite"`
	Platforms []LockedEmulators `json:"platforms"`
}

// LockedEmulators is what one kind of building machine uses.
type LockedEmulators struct {
	Platform  artifact.Platform `json:"platform"` // of the machine
	Package   LockedPackage     `json:"package"`
	Emulators []LockedEmulator  `json:"emulators"`
}

// LockedEmulator is one program of the package.
type LockedEmulator struct {
	Architecture string `json:"architecture"` // that it emulates, as OCI names it
	Path         string `json:"path"`         // in the package
	SHA256       string `json:"sha256"`       // hex
	Size         int64  `json:"size"`
}

const updateEmulators = "drydock base update --emulators"

// ParseEmulatorLock reads a lock; place is where it came from. One of a newer
// format, or with a field this program does not know, is refused.
func ParseEmulatorLock(data []byte, place string) (*EmulatorLock, error) {
	fail := func(message, remedy string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading emulators' lock", Place: place, Message: message, Remedy: remedy, Err: err,
		}
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fail("", updateEmulators, err)
	}
	if head.Version > EmulatorLockVersion {
		return nil, fail(fmt.Sprintf("version %d is newer than this program (%d)", head.Version, EmulatorLockVersion), "use a newer drydock", nil)
	}
	if head.Version < 1 {
		return nil, fail("it has no version", updateEmulators, nil)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var l EmulatorLock
	if err := dec.Decode(&l); err != nil {
		return nil, fail("", updateEmulators, err)
	}
	if err := l.check(); err != nil {
		return nil, fail("", updateEmulators, err)
	}
	return &l, nil
}

// check refuses values that would reach outside their place later.
func (l *EmulatorLock) check() error {
	if len(l.Platforms) == 0 {
		return fmt.Errorf("it names no platform")
	}
	for _, t := range l.Platforms {
		p := t.Package
		sums := []string{p.SHA256}
		if !plainPath(p.Archive) || strings.Contains(p.Archive, "/") || !plainPath(p.Path) {
			return fmt.Errorf("package %s: %q is not a path in an archive", p.Name, p.Archive+"/"+p.Path)
		}
		for _, e := range t.Emulators {
			if !plainPath(e.Path) || !plainPath(e.Architecture) || strings.Contains(e.Architecture, "/") || e.Size < 1 {
				return fmt.Errorf("emulator of %q: %q is not a file of a package", e.Architecture, e.Path)
			}
			sums = append(sums, e.SHA256)
		}
		for _, s := range sums {
			if _, err := artifact.ParseDigest("sha256:" + s); err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

// Fits says why the lock is not one of that Spec, or "".
func (l *EmulatorLock) Fits(s EmulatorSpec) string {
	if l.Package != s.Package {
		return fmt.Sprintf("it is of package %s, the catalog asks for %s", l.Package, s.Package)
	}
	if s.Suite != "" && s.Suite != l.Suite {
		return fmt.Sprintf("it is of suite %s, the catalog asks for %s", l.Suite, s.Suite)
	}
	for _, host := range s.Platforms {
		for _, p := range s.Emulate {
			if host.Architecture != p.Architecture && l.find(host, p.Architecture) == nil {
				return fmt.Sprintf("it lacks an emulator of %s on %s", p.Architecture, host)
			}
		}
	}
	return ""
}

// On is what a machine of that architecture uses; nil when there is nothing.
func (l *EmulatorLock) On(architecture string) *LockedEmulators {
	for i, t := range l.Platforms {
		if t.Platform.OS == "linux" && t.Platform.Architecture == architecture {
			return &l.Platforms[i]
		}
	}
	return nil
}

// Of is the emulator of an architecture; nil when there is none.
func (t *LockedEmulators) Of(architecture string) *LockedEmulator {
	if t == nil {
		return nil
	}
	for i, e := range t.Emulators {
		if e.Architecture == architecture {
			return &t.Emulators[i]
		}
	}
	return nil
}

func (l *EmulatorLock) find(host artifact.Platform, architecture string) *LockedEmulator {
	return l.On(host.Architecture).Of(architecture)
}

// Marshal is the lock as it is committed: stable order, one line a value.
func (l *EmulatorLock) Marshal() ([]byte, error) {
	c := EmulatorLock{Version: EmulatorLockVersion, Package: l.Package, Suite: l.Suite, Platforms: slices.Clone(l.Platforms)}
	slices.SortFunc(c.Platforms, func(a, b LockedEmulators) int {
		return strings.Compare(a.Platform.String(), b.Platform.String())
	})
	for i := range c.Platforms {
		e := slices.Clone(c.Platforms[i].Emulators)
		slices.SortFunc(e, func(a, b LockedEmulator) int { return strings.Compare(a.Architecture, b.Architecture) })
		c.Platforms[i].Emulators = e
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("writing the emulators' lock: %w", err)
	}
	return buf.Bytes(), nil
}

// EmulatorChanges lists the differences between two locks, for people.
func EmulatorChanges(old, next *EmulatorLock) []string {
	out := []string{}
	for _, t := range next.Platforms {
		was := "none"
		if old != nil {
			if o := old.On(t.Platform.Architecture); o != nil {
				was = o.Package.Version
			}
		}
		if was != t.Package.Version {
			out = append(out, fmt.Sprintf("%s: %s %s -> %s", t.Platform, t.Package.Name, was, t.Package.Version))
		}
	}
	return out
}
