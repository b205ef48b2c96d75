// Package wire holds what crosses the boundary between the program and the
// step program: the JSON both sides write and read. It links nothing but the
// shared nouns, so that neither side carries the other's libraries.
package wire

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// Version is the version of every document here. A step program is built from
// the same source as the program that calls it, so it is only ever compared.
const Version = 1

// History is one entry of an image's history (OCI image-spec, config.md).
type History struct {
	CreatedBy  string `json:"created_by,omitempty"`
	Author     string `json:"author,omitempty"`
	Comment    string `json:"comment,omitempty"`
	EmptyLayer bool   `json:"empty_layer,omitempty"`
}

// Reach is what a step that tried its network got to.
type Reach struct {
	Version int      `json:"version"`
	Tried   []string `json:"tried"`   // host:port
	Reached []string `json:"reached"` // of them
}

// ErrorPrefix starts the line on stderr in which the step program reports the
// error that ended it.
const ErrorPrefix = "drydock-step-error: "

// failure is an artifact.Error as JSON.
type failure struct {
	Kind    artifact.Kind `json:"kind"`
	Op      string        `json:"op,omitempty"`
	Place   string        `json:"place,omitempty"`
	Message string        `json:"message,omitempty"`
	Remedy  string        `json:"remedy,omitempty"`
}

// FormatError is the line that reports err.
func FormatError(err error) string {
	f := failure{Kind: artifact.KindInternal, Message: err.Error()}
	var e *artifact.Error
	if errors.As(err, &e) {
		f = failure{Kind: e.Kind, Op: e.Op, Place: e.Place, Message: e.Message, Remedy: e.Remedy}
		if e.Err != nil {
			f.Message = strings.TrimPrefix(f.Message+": "+e.Err.Error(), ": ")
		}
	}
	b, _ := json.Marshal(f) // strings and a number always marshal
	return ErrorPrefix + string(b)
}

// ParseError finds the last report line in a step's output.
func ParseError(text string) (*artifact.Error, bool) {
	i := strings.LastIndex(text, ErrorPrefix)
	if i < 0 {
		return nil, false
	}
	line, _, _ := strings.Cut(text[i+len(ErrorPrefix):], "\n")
	var f failure
	if json.Unmarshal([]byte(strings.TrimSpace(line)), &f) != nil {
		return nil, false
	}
	if f.Kind < artifact.KindInternal || f.Kind > artifact.KindFault {
		f.Kind = artifact.KindInternal
	}
	return &artifact.Error{Kind: f.Kind, Op: f.Op, Place: f.Place, Message: f.Message, Remedy: f.Remedy}, true
}

// Layer is one layer of an image.
type Layer struct {
	Digest    artifact.Digest `json:"digest"`
	DiffID    artifact.Digest `json:"diffID"`
	Size      int64           `json:"size"`
	MediaType string          `json:"mediaType"`
	Base      bool            `json:"base,omitempty"` // kept from the base untouched
}

// Config is the part of an image's configuration Drydock looks at.
type Config struct {
	User       string            `json:"user,omitempty"`
	Env        []string          `json:"env,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Workdir    string            `json:"workdir,omitempty"`
	Ports      []string          `json:"ports,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// Image is what the normalize step says of the archive it wrote.
type Image struct {
	Version  int               `json:"version"`
	Platform artifact.Platform `json:"platform"`
	Manifest artifact.Digest   `json:"manifest"`
	ConfigID artifact.Digest   `json:"configDigest"`
	Size     int64             `json:"size"` // of the blobs together
	Layers   []Layer           `json:"layers"`
	Config   Config            `json:"config"`
}

// Packages is what the sbom step found, in short.
type Packages struct {
	Version int             `json:"version"`
	Total   int             `json:"total"` // zero is said, not implied
	Types   map[string]int  `json:"types"`
	Distro  string          `json:"distro,omitempty"` // "debian 12"
	Sources []SourcePackage `json:"sources,omitempty"`
}

// SourcePackage is one Debian source package of an image, with a binary
// package made from it.
type SourcePackage struct {
	Name    string   `json:"name"`
	Binary  string   `json:"binary"`
	Version string   `json:"version"`          // of the binary
	Others  []string `json:"others,omitempty"` // more binary packages of the image made from it
}

// DatabaseFile is where the vulndb steps say what they made.
const DatabaseFile = "database.json"

// Database is a vulnerability database as a step left it.
type Database struct {
	Version int             `json:"version"`
	Digest  artifact.Digest `json:"digest"` // of vulnerability.db as it was shipped, before it was indexed; of the records of one we built
	Schema  string          `json:"schema"`
	Built   time.Time       `json:"built"`
	Files   []string        `json:"files"` // to keep, by name

	// Of a database built from changelogs:
	Entries int      `json:"entries,omitempty"` // vulnerabilities, per source package
	Sources []string `json:"sources,omitempty"` // source packages it knows
	Silent  []string `json:"silent,omitempty"`  // packages that carry no changelog
}
