// Package debian reads what a Debian archive is made of: control stanzas,
// Release and Packages files, versions and dependency fields. It does no I/O
// beyond the readers it is handed.
package debian

import "time"

// File is one entry of a Release document's checksum list.
type File struct {
	Size   int64
	SHA256 string // hex
}

// Release is a parsed Release document.
type Release struct {
	Origin, Label, Suite, Codename, Version string
	Architectures, Components               []string
	Date                                    time.Time
	ValidUntil                              time.Time // zero: never expires
	AcquireByHash                           bool
	Files                                   map[string]File // by path relative to the suite
}

// Package is one stanza of a Packages file. Dependency fields are as written:
// ParseDependencies reads them.
type Package struct {
	Name, Version, Architecture string
	Source, SourceVersion       string // of the source package; never empty
	Priority, Section           string
	MultiArch                   string
	Essential                   bool
	Depends, PreDepends         string
	Provides, Conflicts, Breaks string
	Recommends                  string
	Filename                    string // relative to the archive: pool/…
	Size                        int64
	InstalledSize               int64 // KiB
	SHA256                      string
}

// Relation is one alternative of a dependency: a package, perhaps with a
// version constraint.
type Relation struct {
	Name    string
	Arch    string // qualifier after the colon: any, native, an architecture; ""
	Op      string // << <= = >= >>, or ""
	Version string
}

// Dependencies is a parsed dependency field: every element must hold, by any
// one of its alternatives.
type Dependencies [][]Relation
