// Package lockfile is the lock of an image: every file its steps fetch, by
// mirror-relative path and digest, with what else the image follows from. A
// lock holds no address of any mirror: whatever serves the paths will do, and
// the digests say whether it served the right thing.
package lockfile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// Version is the newest lock format this program reads, and the one it writes of
// locks that need it: those made as of a time. Others are of format 1.
const Version = 2

// Lock pins what an image's steps fetch.
type Lock struct {
	Version   int        `json:"version"` // 1, or 2 with To
	Image     string     `json:"image"`
	Drydock   string     `json:"drydock"`            // version that wrote it
	Frontend  string     `json:"frontend,omitempty"` // what reads the Dockerfile, with its version
	Epoch     int64      `json:"epoch"`              // Unix seconds; the newest of the bases'
	To        *time.Time `json:"to,omitempty"`       // the mirrors were taken as of then; nil: as they were
	Bases     []Base     `json:"bases"`
	Database  *Database  `json:"database,omitempty"`  // vulnerability database, where one is configured
	Emulators []Emulator `json:"emulators,omitempty"` // that its steps run in
	Materials []Material `json:"materials"`
	Absent    []Absent   `json:"absent,omitempty"`
}

// Base is a base the image stands on.
type Base struct {
	Name   string          `json:"name"`
	Digest artifact.Digest `json:"digest"` // of its index or only manifest
}

// Database is the identity of a vulnerability database.
type Database struct {
	Source string          `json:"source"`
	Schema string          `json:"schema"`
	Built  time.Time       `json:"built"`
	Digest artifact.Digest `json:"digest"`
}

// Emulator is the package an emulator of another processor comes from.
type Emulator struct {
	PURL   string          `json:"purl"`
	Digest artifact.Digest `json:"digest"` // of the package
}

// Material is one file.
type Material struct {
	Ecosystem string          `json:"ecosystem"` // debian, go, npm, oci
	Path      string          `json:"path"`      // below the mirror; Debian: "<archive>/…"
	Digest    artifact.Digest `json:"digest"`
	Size      int64           `json:"size"` // bytes
	PURL      string          `json:"purl,omitempty"`
	Steps     []string        `json:"steps,omitempty"` // that fetched it

	// Tags is, in a lock made as of a time, what the tags of an npm package named
	// then: the registry states of versions when they were published, of tags not.
	Tags map[string]string `json:"tags,omitempty"`
}

// Absent is a path the mirrors answered they do not have: clients ask for such
// and go on, so the answer is part of what they did.
type Absent struct {
	Ecosystem string `json:"ecosystem"`
	Path      string `json:"path"`
}

// Parse reads a lock; place is where it came from, for errors. One of a newer
// format, or with a field this program does not know, is refused.
func Parse(data []byte, place string) (*Lock, error) {
	fail := func(message, remedy string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading image lock", Place: place, Message: message, Remedy: remedy, Err: err,
		}
	}
	const again = "mend it, or make it anew with drydock mirror lock"
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fail("", again, located(data, err))
	}
	if head.Version > Version {
		return nil, fail(fmt.Sprintf("version %d is newer than this program reads (%d)", head.Version, Version), "use a newer drydock", nil)
	}
	if head.Version < 1 {
		return nil, fail("it has no version", again, nil)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var l Lock
	if err := dec.Decode(&l); err != nil {
		return nil, fail("", again, located(data, err))
	}
	if err := l.check(); err != nil {
		return nil, fail("", again, err)
	}
	return &l, nil
}

// located adds the line a JSON error is at, as far as it says.
func located(data []byte, err error) error {
	at := int64(-1)
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &syntax) {
		at = syntax.Offset
	} else if errors.As(err, &wrong) {
		at = wrong.Offset
	} else if _, field, ok := strings.Cut(err.Error(), "unknown field "); ok {
		at = int64(bytes.Index(data, []byte(field)))
	}
	if at < 0 || at > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:at], []byte("\n")), err)
}

// check refuses what cannot be a lock.
func (l *Lock) check() error {
	if l.Epoch < 0 {
		return fmt.Errorf("epoch %d is before 1970", l.Epoch)
	}
	for _, b := range l.Bases {
		if _, err := artifact.ParseDigest(string(b.Digest)); err != nil {
			return fmt.Errorf("base %s: %w", b.Name, err)
		}
	}
	if err := l.checkTools(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, m := range l.Materials {
		if _, err := artifact.ParseDigest(string(m.Digest)); err != nil {
			return fmt.Errorf("%s %s: %w", m.Ecosystem, m.Path, err)
		}
		if err := goodPath(m.Ecosystem, m.Path); err != nil {
			return err
		}
		if m.Size < 0 {
			return fmt.Errorf("%s %s: size %d", m.Ecosystem, m.Path, m.Size)
		}
		if k := m.Ecosystem + " " + m.Path; seen[k] {
			return fmt.Errorf("%s is there twice", k)
		} else {
			seen[k] = true
		}
	}
	for _, a := range l.Absent {
		if err := goodPath(a.Ecosystem, a.Path); err != nil {
			return err
		}
		if seen[a.Ecosystem+" "+a.Path] {
			return fmt.Errorf("%s %s is both there and absent", a.Ecosystem, a.Path)
		}
	}
	return nil
}

func (l *Lock) checkTools() error {
	if l.Database != nil {
		if _, err := artifact.ParseDigest(string(l.Database.Digest)); err != nil {
			return fmt.Errorf("database: %w", err)
		}
	}
	for _, e := range l.Emulators {
		if _, err := artifact.ParseDigest(string(e.Digest)); err != nil {
			return fmt.Errorf("emulator %s: %w", e.PURL, err)
		}
	}
	return nil
}

// goodPath refuses paths that lead out of a mirror, and addresses.
func goodPath(ecosystem, path string) error {
	if ecosystem == "" || path == "" || strings.HasPrefix(path, "/") || strings.Contains(path, "://") || strings.ContainsAny(path, "\\\x00\r\n") {
		return fmt.Errorf("%q %q is not a path below a mirror", ecosystem, path)
	}
	file, _, _ := strings.Cut(path, "?")
	for _, part := range strings.Split(strings.TrimSuffix(file, "/"), "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%s %q is not a path below a mirror", ecosystem, path)
		}
	}
	return nil
}

// Marshal is the lock in its stable order, one value a line.
func (l *Lock) Marshal() ([]byte, error) {
	out := *l
	if out.Version = 1; l.To != nil {
		to := l.To.UTC()
		out.Version, out.To = 2, &to
	}
	out.Bases = append([]Base{}, l.Bases...)
	slices.SortFunc(out.Bases, func(a, b Base) int { return cmp.Compare(a.Name, b.Name) })
	out.Emulators = slices.Clone(l.Emulators)
	slices.SortFunc(out.Emulators, func(a, b Emulator) int { return cmp.Or(cmp.Compare(a.PURL, b.PURL), cmp.Compare(a.Digest, b.Digest)) })
	out.Materials = append([]Material{}, l.Materials...)
	slices.SortFunc(out.Materials, func(a, b Material) int {
		return cmp.Or(cmp.Compare(a.Ecosystem, b.Ecosystem), cmp.Compare(a.Path, b.Path))
	})
	out.Absent = slices.Clone(l.Absent)
	slices.SortFunc(out.Absent, func(a, b Absent) int {
		return cmp.Or(cmp.Compare(a.Ecosystem, b.Ecosystem), cmp.Compare(a.Path, b.Path))
	})
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("writing image lock: %w", err)
	}
	return b.Bytes(), nil
}

// Key identifies what the lock lets steps fetch and nothing else of it: 24 hex
// digits, part of the cache key of every step built under the lock.
func (l *Lock) Key() string {
	lines := make([]string, 0, len(l.Materials)+len(l.Absent))
	for _, m := range l.Materials {
		lines = append(lines, m.Ecosystem+" "+m.Path+" "+string(m.Digest))
	}
	for _, a := range l.Absent {
		lines = append(lines, a.Ecosystem+" "+a.Path+" absent")
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte("drydock image lock\n" + strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:12])
}
