package base

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/debian"
)

// LockVersion is the newest lock format this program reads, and the one it writes
// of locks that need it: those with Node.js. Those made as of a time are of format
// 2, others of format 1.
const LockVersion = 3

// Lock pins everything a base is made of. It holds no registry address: paths
// are relative to whatever mirror serves them.
type Lock struct {
	Version   int             `json:"version"` // 1; 2 with To; 3 with Node
	Name      string          `json:"name"`
	Kind      string          `json:"kind"`
	Variant   string          `json:"variant,omitempty"`
	Suite     string          `json:"suite,omitempty"`
	Epoch     int64           `json:"epoch"`            // Unix seconds; every time in the base
	To        int64           `json:"to,omitempty"`     // Unix seconds; the mirrors were taken as of then, 0 as they were
	Digest    artifact.Digest `json:"digest,omitempty"` // of the index or the only manifest; "" not built yet
	Request   Request         `json:"request"`
	Archives  []LockedArchive `json:"archives,omitempty"`
	Platforms []LockedTarget  `json:"platforms"`
}

// Request is what the catalog asked for when the lock was made.
type Request struct {
	Packages []string          `json:"packages,omitempty"`
	Go       string            `json:"go,omitempty"`
	Node     string            `json:"node,omitempty"`
	Image    string            `json:"image,omitempty"`
	User     string            `json:"user,omitempty"`
	Env      map[string]string `json:"env,omitempty"`
	Signed   *LockedTrust      `json:"signed,omitempty"`
}

// LockedArchive is one Debian archive the packages came from.
type LockedArchive struct {
	Archive    string   `json:"archive"` // debian, debian-security
	Suites     []string `json:"suites"`
	Components []string `json:"components"`
}

// LockedTarget is one platform of a base.
type LockedTarget struct {
	Platform  artifact.Platform `json:"platform"`
	Digest    artifact.Digest   `json:"digest,omitempty"` // of the image manifest
	Toolchain *LockedToolchain  `json:"toolchain,omitempty"`
	Node      []LockedTool      `json:"node,omitempty"` // Node.js first, then what comes with it
	Packages  []LockedPackage   `json:"packages,omitempty"`
}

// LockedPackage is one .deb.
type LockedPackage struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Archive      string `json:"archive"`
	Path         string `json:"path"`   // below the archive: pool/…
	SHA256       string `json:"sha256"` // hex
	Size         int64  `json:"size"`
	Bootstrap    bool   `json:"bootstrap,omitempty"` // unpacked before dpkg can run (variant full)
}

// LockedToolchain is one Go toolchain module.
type LockedToolchain struct {
	Module  string `json:"module"`
	Version string `json:"version"`
	Sum     string `json:"sum"`    // h1:… of the checksum database
	SHA256  string `json:"sha256"` // hex, of the zip
	Size    int64  `json:"size"`
}

// LockedTool is one package of the npm registry.
type LockedTool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // hex, of the tarball
	Size    int64  `json:"size"`
}

// LoadLock reads a lock file. One of a newer format, or with a field this
// program does not know, is refused.
func LoadLock(path string) (*Lock, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading base lock", Place: path,
			Remedy: "drydock base update " + lockName(path), Err: err,
		}
	}
	return ParseLock(data, path)
}

func lockName(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return strings.TrimSuffix(name, ".json")
}

// ParseLock is LoadLock of bytes; place is where they came from.
func ParseLock(data []byte, place string) (*Lock, error) {
	fail := func(message, remedy string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading base lock", Place: place,
			Message: message, Remedy: remedy, Err: err,
		}
	}
	again := "drydock base update " + lockName(place)
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fail("", again, err)
	}
	if head.Version > LockVersion {
		return nil, fail(fmt.Sprintf("version %d is newer than this program (%d)", head.Version, LockVersion),
			"use a newer drydock", nil)
	}
	if head.Version < 1 {
		return nil, fail("it has no version", again, nil)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var l Lock
	if err := dec.Decode(&l); err != nil {
		return nil, fail("", again, err)
	}
	if err := l.check(); err != nil {
		return nil, fail("", again, err)
	}
	return &l, nil
}

// check refuses values that would reach outside their place later.
func (l *Lock) check() error {
	if len(l.Platforms) == 0 {
		return fmt.Errorf("it names no platform")
	}
	if l.Epoch < 0 {
		return fmt.Errorf("epoch %d is before 1970", l.Epoch)
	}
	digests := []artifact.Digest{l.Digest}
	for _, t := range l.Platforms {
		digests = append(digests, t.Digest)
		if err := checkNode(t.Node); err != nil {
			return err
		}
		for _, p := range t.Packages {
			if err := p.check(); err != nil {
				return err
			}
		}
	}
	for _, d := range digests {
		if d == "" {
			continue
		}
		if _, err := artifact.ParseDigest(string(d)); err != nil {
			return err
		}
	}
	return nil
}

func (p LockedPackage) check() error {
	if _, err := artifact.ParseDigest("sha256:" + p.SHA256); err != nil {
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	if !plainPath(p.Archive) || strings.Contains(p.Archive, "/") || !plainPath(p.Path) {
		return fmt.Errorf("package %s: %q is not a path in an archive", p.Name, p.Archive+"/"+p.Path)
	}
	if p.Name == "" || strings.ContainsAny(p.Name, "/ \n") || strings.ContainsAny(p.Version, "/ \n") {
		return fmt.Errorf("package %q: not a package name and version", p.Name)
	}
	return nil
}

// plainPath is a relative path without tricks.
func plainPath(p string) bool {
	if p == "" {
		return false
	}
	for _, e := range strings.Split(p, "/") {
		if e == "" || e == "." || e == ".." {
			return false
		}
	}
	return !strings.ContainsAny(p, "\\\n\x00:?#")
}

// Marshal is the lock as it is committed: stable order, one line a value.
func (l *Lock) Marshal() ([]byte, error) {
	c := l.clone()
	c.sort()
	if c.Version = 1; c.To != 0 {
		c.Version = 2
	}
	if c.Request.Node != "" {
		c.Version = 3
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		return nil, fmt.Errorf("writing base lock %s: %w", l.Name, err)
	}
	return buf.Bytes(), nil
}

func (l *Lock) clone() *Lock {
	c := *l
	c.Archives = slices.Clone(l.Archives)
	c.Platforms = slices.Clone(l.Platforms)
	for i := range c.Platforms {
		c.Platforms[i].Packages = slices.Clone(c.Platforms[i].Packages)
	}
	return &c
}

func (l *Lock) sort() {
	slices.SortFunc(l.Archives, func(a, b LockedArchive) int { return strings.Compare(a.Archive, b.Archive) })
	slices.SortFunc(l.Platforms, func(a, b LockedTarget) int {
		return strings.Compare(a.Platform.String(), b.Platform.String())
	})
	for _, t := range l.Platforms {
		slices.SortFunc(t.Packages, func(a, b LockedPackage) int { return strings.Compare(a.Name, b.Name) })
	}
}

// at is the time the mirrors were taken as of; zero: as they were.
func (l *Lock) at() time.Time {
	if l.To == 0 {
		return time.Time{}
	}
	return time.Unix(l.To, 0).UTC()
}

// target is the lock's part for one platform.
func (l *Lock) target(p artifact.Platform) *LockedTarget {
	for i := range l.Platforms {
		if l.Platforms[i].Platform == p {
			return &l.Platforms[i]
		}
	}
	return nil
}

// fits says why the lock is not one of that Spec, or "".
func (l *Lock) fits(s Spec) string {
	want, have := s.request(), l.Request
	switch {
	case l.Name != s.Name:
		return fmt.Sprintf("the lock is of base %q", l.Name)
	case l.Kind != s.Kind || l.Variant != s.Variant:
		return fmt.Sprintf("the lock is of a base of kind %s %s", l.Kind, l.Variant)
	case s.Suite != "" && l.Suite != s.Suite:
		return fmt.Sprintf("the lock is of suite %s, the catalog asks for %s", l.Suite, s.Suite)
	case !slices.Equal(want.Packages, have.Packages):
		return fmt.Sprintf("the lock was made for packages %v, the catalog asks for %v", have.Packages, want.Packages)
	case want.Go != have.Go:
		return fmt.Sprintf("the lock was made for go %q, the catalog asks for %q", have.Go, want.Go)
	case want.Node != have.Node:
		return fmt.Sprintf("the lock was made for node %q, the catalog asks for %q", have.Node, want.Node)
	case want.Image != have.Image:
		return fmt.Sprintf("the lock was made for image %q, the catalog asks for %q", have.Image, want.Image)
	case want.settings(have) != "":
		return want.settings(have)
	}
	if len(s.Platforms) == 0 {
		return ""
	}
	if len(s.Platforms) != len(l.Platforms) {
		return "the catalog asks for other platforms"
	}
	for _, p := range s.Platforms {
		if l.target(p) == nil {
			return "the lock lacks platform " + p.String()
		}
	}
	return ""
}

// settings says what of a base that is no package differs, or "".
func (r Request) settings(have Request) string {
	switch {
	case !sameTrust(r.Signed, have.Signed):
		return "the lock was made under other signers, threshold or expiry"
	case r.User != have.User || !maps.Equal(r.Env, have.Env):
		return "user or environment are others than the lock was made for"
	}
	return ""
}

// Changes lists the differences between two locks, one line each, for people.
func Changes(old, next *Lock) []string {
	var out []string
	for _, t := range next.Platforms {
		o := old.target(t.Platform)
		if o == nil {
			out = append(out, fmt.Sprintf("%s: new platform", t.Platform))
			continue
		}
		out = append(out, packageChanges(o, &t)...)
		out = append(out, nodeChanges(o, &t)...)
		was, is := toolchainVersion(o), toolchainVersion(&t)
		if was != is {
			out = append(out, fmt.Sprintf("%s: go toolchain %s -> %s", t.Platform, was, is))
		}
	}
	for _, o := range old.Platforms {
		if next.target(o.Platform) == nil {
			out = append(out, fmt.Sprintf("%s: platform dropped", o.Platform))
		}
	}
	if len(out) == 0 && old.Epoch != next.Epoch {
		out = append(out, fmt.Sprintf("epoch %d -> %d", old.Epoch, next.Epoch))
	}
	if len(out) == 0 && old.Digest != "" && next.Digest != "" && old.Digest != next.Digest {
		out = append(out, fmt.Sprintf("digest %s -> %s", old.Digest, next.Digest))
	}
	return out
}

// sameInputs says whether two locks differ in times and digests at most.
func sameInputs(old, next *Lock) bool {
	c := next.clone()
	c.Epoch, c.To = old.Epoch, old.To
	o := old.clone()
	o.forget()
	c.forget()
	a, aerr := o.Marshal()
	b, berr := c.Marshal()
	return aerr == nil && berr == nil && bytes.Equal(a, b)
}

// forget takes the digests out.
func (l *Lock) forget() {
	l.Digest = ""
	for i := range l.Platforms {
		l.Platforms[i].Digest = ""
	}
}

func toolchainVersion(t *LockedTarget) string {
	if t.Toolchain == nil {
		return "none"
	}
	return t.Toolchain.Version
}

func packageChanges(old, next *LockedTarget) []string {
	var out []string
	before := map[string]LockedPackage{}
	for _, p := range old.Packages {
		before[p.Name] = p
	}
	for _, p := range next.Packages {
		o, ok := before[p.Name]
		delete(before, p.Name)
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s: %s added %s", next.Platform, p.Name, p.Version))
		case debian.Compare(o.Version, p.Version) != 0:
			out = append(out, fmt.Sprintf("%s: %s %s -> %s", next.Platform, p.Name, o.Version, p.Version))
		case o.SHA256 != p.SHA256:
			out = append(out, fmt.Sprintf("%s: %s %s is another file now", next.Platform, p.Name, p.Version))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		out = append(out, fmt.Sprintf("%s: %s dropped (was %s)", next.Platform, name, before[name].Version))
	}
	return out
}
