package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
)

// FrontendsFile lists the frontends Dockerfiles may name in their first line
// beside the built-in one. A catalog without it has none.
const FrontendsFile = "frontends.yaml"

// Frontend is what reads a Dockerfile in place of the built-in frontend: an
// image that speaks BuildKit's gateway protocol.
type Frontend struct {
	Syntax string `json:"syntax" yaml:"syntax"` // as # syntax= names it
	Image  string `json:"image" yaml:"image"`   // path@sha256:… at the oci mirror

	Place string `json:"-" yaml:"-"` // file:line of its syntax
}

// Repository is its image's path at the oci mirror.
func (f Frontend) Repository() string {
	repository, _, _ := strings.Cut(f.Image, "@")
	return repository
}

// Digest is its image's.
func (f Frontend) Digest() artifact.Digest {
	_, d, _ := strings.Cut(f.Image, "@")
	return artifact.Digest(d)
}

var syntaxPattern = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9._/-]*(:\d+/[A-Za-z0-9._/-]+)?(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$`)

// loadFrontends reads frontends.yaml where there is one.
func (l *loader) loadFrontends() {
	if _, err := fs.Stat(l.fsys, FrontendsFile); errors.Is(err, fs.ErrNotExist) {
		return
	}
	var list struct {
		Version   int        `yaml:"version"`
		Frontends []Frontend `yaml:"frontends"`
	}
	s, ok := l.read(FrontendsFile, &list)
	if !ok {
		return
	}
	for i, f := range list.Frontends {
		at := func(key string) string { return s.at("frontends", strconv.Itoa(i), key) }
		f.Place = at("syntax")
		switch {
		case !syntaxPattern.MatchString(f.Syntax):
			l.fail(f.Place, "%q is not what a # syntax= line names", f.Syntax).Remedy = "write it as the Dockerfiles do, without a digest: syntax: example/dockerfile:1"
		case dockerfile.BuiltIn(f.Syntax):
			l.fail(f.Place, "%s is built in", f.Syntax).Remedy = "remove it from the list: Dockerfiles may name it without"
		case l.cat.frontend(f.Syntax) != nil:
			l.fail(f.Place, "%s is there twice, also in %s", f.Syntax, l.cat.frontend(f.Syntax).Place).Remedy = "remove one of them"
		}
		if !ociPattern.MatchString(f.Image) {
			l.fail(at("image"), "%q is not path@sha256:…", f.Image).Remedy = "write image: and path@sha256: with 64 hex digits, as the oci mirror has it; a tag can move"
		}
		l.cat.Frontends = append(l.cat.Frontends, f)
	}
}

// frontend is the one listed under a name; nil where there is none.
func (c *Catalog) frontend(syntax string) *Frontend {
	name, _, _ := strings.Cut(syntax, "@")
	for i := range c.Frontends {
		if Familiar(c.Frontends[i].Syntax) == Familiar(name) {
			return &c.Frontends[i]
		}
	}
	return nil
}

// FrontendOf is what reads a Dockerfile: nil for the built-in frontend, an
// error for one the catalog does not list.
func (c *Catalog) FrontendOf(file *dockerfile.File) (*Frontend, error) {
	ref, place := file.Frontend()
	if ref == "" {
		return nil, nil
	}
	bad := func(message, remedy string) error {
		return &artifact.Error{Kind: artifact.KindUsage, Op: "reading Dockerfile", Place: place, Message: message, Remedy: remedy}
	}
	f := c.frontend(ref)
	if f == nil {
		return nil, bad(fmt.Sprintf("the syntax directive names the frontend %s, which the catalog does not list", ref),
			"remove the directive, or name docker/dockerfile:1, which is built in; or have the frontend's image listed by its digest in "+FrontendsFile)
	}
	if _, d, pinned := strings.Cut(ref, "@"); pinned && artifact.Digest(d) != f.Digest() {
		return nil, bad(fmt.Sprintf("the syntax directive names %s, the catalog has that frontend as %s", ref, f.Digest()),
			"leave the digest out of the directive: the catalog's holds ("+f.Place+")")
	}
	return f, nil
}
