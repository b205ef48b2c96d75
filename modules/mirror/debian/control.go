package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// maxLine bounds one line of a control file. Debian's longest (a Provides of
// a language runtime) are some 100 KB.
const maxLine = 4 << 20

// Stanza is one paragraph of a control file: fields by lower-case name.
// Continuation lines keep their line feeds, without the leading blank.
type Stanza map[string]string

// ReadStanzas calls yield for each stanza of r until it returns false. Comment
// lines are dropped (deb822(5)). want limits which fields are kept; nil keeps
// all.
func ReadStanzas(r io.Reader, want map[string]bool, yield func(Stanza) bool) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	b := builder{stanza: Stanza{}, want: want}
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \t\r")
		if line != "" {
			if err := b.line(line); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
			continue
		}
		if len(b.stanza) > 0 && !yield(b.stanza) {
			return nil
		}
		b.stanza, b.last = Stanza{}, ""
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading control data: %w", err)
	}
	if len(b.stanza) > 0 {
		yield(b.stanza)
	}
	return nil
}

// builder collects one stanza.
type builder struct {
	stanza Stanza
	want   map[string]bool
	last   string // field a continuation line belongs to
}

func (b *builder) line(line string) error {
	switch line[0] {
	case '#':
		return nil
	case ' ', '\t':
		if b.last == "" {
			return errors.New("continuation without a field")
		}
		if b.last != skipped {
			b.stanza[b.last] += "\n" + line[1:]
		}
		return nil
	}
	key, value, ok := strings.Cut(line, ":")
	if !ok || key == "" || strings.ContainsAny(key, " \t") {
		return errors.New("not a field")
	}
	b.last = strings.ToLower(key)
	if b.want != nil && !b.want[b.last] {
		b.last = skipped
		return nil
	}
	b.stanza[b.last] = strings.TrimSpace(value)
	return nil
}

// skipped stands for a field nobody wants while its continuation lines pass.
const skipped = " "

// ParseRelease reads a Release document (the text inside an InRelease).
func ParseRelease(r io.Reader) (*Release, error) {
	var found Stanza
	if err := ReadStanzas(r, nil, func(s Stanza) bool { found = s; return false }); err != nil {
		return nil, fmt.Errorf("parsing Release: %w", err)
	}
	if found == nil {
		return nil, fmt.Errorf("parsing Release: it is empty")
	}
	rel := &Release{
		Origin: found["origin"], Label: found["label"], Suite: found["suite"],
		Codename: found["codename"], Version: found["version"],
		Architectures: strings.Fields(found["architectures"]),
		Components:    strings.Fields(found["components"]),
		AcquireByHash: found["acquire-by-hash"] == "yes",
		Files:         map[string]File{},
	}
	var err error
	if rel.Date, err = parseDate(found["date"]); err != nil {
		return nil, fmt.Errorf("parsing Release: Date: %w", err)
	}
	if v := found["valid-until"]; v != "" {
		if rel.ValidUntil, err = parseDate(v); err != nil {
			return nil, fmt.Errorf("parsing Release: Valid-Until: %w", err)
		}
	}
	for _, line := range strings.Split(found["sha256"], "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || !isSHA256(f[0]) {
			return nil, fmt.Errorf("parsing Release: %q is not a checksum line", line)
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("parsing Release: %q is not a size", f[1])
		}
		rel.Files[f[2]] = File{Size: size, SHA256: f[0]}
	}
	if len(rel.Files) == 0 {
		return nil, fmt.Errorf("parsing Release: no SHA256 checksums")
	}
	return rel, nil
}

// parseDate reads the RFC 2822 dates archives write, in UTC by name or offset.
func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC1123, time.RFC1123Z, "Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a date", s)
}

func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}

// wanted are the fields ParsePackages keeps.
func wanted() map[string]bool {
	w := map[string]bool{}
	for _, f := range []string{
		"package", "version", "architecture", "source", "priority", "section", "multi-arch",
		"essential", "depends", "pre-depends", "provides", "conflicts", "breaks", "recommends",
		"filename", "size", "installed-size", "sha256",
	} {
		w[f] = true
	}
	return w
}

// ParsePackages reads a Packages file. A stanza that cannot be installed by
// hash (no name, version, file name, size or SHA256) is an error: the file is
// signed, so it is not what its archive meant to say.
func ParsePackages(r io.Reader) ([]Package, error) {
	var out []Package
	var bad error
	err := ReadStanzas(r, wanted(), func(s Stanza) bool {
		var p Package
		if p, bad = newPackage(s); bad != nil {
			return false
		}
		out = append(out, p)
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("parsing Packages: %w", err)
	}
	return out, nil
}

func newPackage(s Stanza) (Package, error) {
	p := Package{
		Name: s["package"], Version: s["version"], Architecture: s["architecture"],
		Priority: s["priority"], Section: s["section"], MultiArch: s["multi-arch"],
		Essential: s["essential"] == "yes",
		Depends:   s["depends"], PreDepends: s["pre-depends"], Provides: s["provides"],
		Conflicts: s["conflicts"], Breaks: s["breaks"], Recommends: s["recommends"],
		Filename: s["filename"], SHA256: s["sha256"],
	}
	if p.Name == "" || p.Version == "" || !nameLike(p.Name) {
		return p, fmt.Errorf("a stanza names no package and version (Package: %q)", p.Name)
	}
	if !safePath(p.Filename) {
		return p, fmt.Errorf("package %s: %q is not a file of the archive", p.Name, p.Filename)
	}
	if !isSHA256(p.SHA256) {
		return p, fmt.Errorf("package %s: no SHA256", p.Name)
	}
	var err error
	if p.Size, err = strconv.ParseInt(s["size"], 10, 64); err != nil || p.Size <= 0 {
		return p, fmt.Errorf("package %s: %q is not a size", p.Name, s["size"])
	}
	p.InstalledSize, _ = strconv.ParseInt(s["installed-size"], 10, 64) // informative only
	p.Source, p.SourceVersion = p.Name, p.Version
	if src := s["source"]; src != "" {
		name, version, ok := strings.Cut(src, "(")
		p.Source = strings.TrimSpace(name)
		if ok {
			p.SourceVersion = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(version), ")"))
		}
	}
	return p, nil
}

// safePath says whether a file name stays below the archive.
func safePath(p string) bool {
	if p == "" || p[0] == '/' || strings.ContainsAny(p, "\\\x00?#") {
		return false
	}
	for _, part := range strings.Split(p, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
