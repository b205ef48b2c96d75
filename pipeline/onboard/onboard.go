// Package onboard looks at a repository it never saw: which Dockerfiles are in
// it, what they need, and what a project file and a catalog for them would have
// to say. It reads the folder it is handed and nothing else.
package onboard

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
)

// Input is what a proposal follows from.
type Input struct {
	Files   fs.FS
	Name    string                  // of the repository: what an image at its top is called
	Catalog *catalog.Catalog        // what there is
	Spec    string                  // the catalog, as the project file is to name it
	Mirror  func(string) string     // URL of an ecosystem's mirror, "" when there is none
	Ignored func([]string) []string // paths git ignores; nil asks nobody
}

// Proposal is what was found and what to do about it.
type Proposal struct {
	Version    int         `json:"version"`
	Images     []Image     `json:"images"`
	Bases      []Base      `json:"bases"`
	Ecosystems []Ecosystem `json:"ecosystems"`
	Downloads  []Download  `json:"downloads"`
	Skipped    []Skipped   `json:"skipped"`
	Project    string      `json:"project"` // the text of the project file
	Added      []string    `json:"added"`   // files of the catalog that were written

	speakers []string // files that say how images are built
	noImages bool     // no mirror has upstream's images
}

// Image is one image a Dockerfile makes.
type Image struct {
	Name       string              `json:"name"`
	Context    string              `json:"context"`    // relative to the repository
	Dockerfile string              `json:"dockerfile"` // relative to the context
	Why        string              `json:"why"`        // the context was chosen
	Platforms  []artifact.Platform `json:"platforms"`
	Targets    []string            `json:"targets"`   // stages nothing else uses, besides the last
	Target     string              `json:"target"`    // proposed; "" is the last
	TargetWhy  string              `json:"targetWhy"` // it was chosen
	ArgsWhy    string              `json:"argsWhy"`   // Args are given; "" FROM needs them
	Arguments  []string            `json:"arguments"` // that FROM needs and nothing gives
	Args       map[string]string   `json:"args"`      // values proposed for those whose name tells what they mean
	User       string              `json:"user"`      // proposed, since the Dockerfile names no ordinary one; "" it does
	Missing    []string            `json:"missing"`   // what it copies and is not in the repository
	Problems   []Problem           `json:"problems"`
	Ready      bool                `json:"ready"`   // it can be planned with the catalog as it is
	Choices    []string            `json:"choices"` // arguments that are what a FROM is, which the catalog has no base for

	file    *dockerfile.File
	unknown []string           // arguments of FROM whose value only make knows
	said    string             // its name in a file that says how it is built, where that tells it from another
	only    *artifact.Platform // its Dockerfile's name says it is for this one alone
}

// Problem is something a build of the image will meet.
type Problem struct {
	Place   string `json:"place"` // file:line
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Base is one reference Dockerfiles build on.
type Base struct {
	Ref      string   `json:"ref"`
	Base     string   `json:"base"`    // that stands for it; "" the catalog has none
	Propose  string   `json:"propose"` // what to add to the catalog; "" nothing
	File     string   `json:"file"`    // of the catalog, that it is to be added to
	Places   []string `json:"places"`
	Argument string   `json:"argument"` // as FROM is written, where build arguments are in it
	Upstream bool     `json:"upstream"` // what is proposed is the image itself, mirrored
}

// Ecosystem is a kind of package RUN instructions fetch.
type Ecosystem struct {
	Name   string   `json:"name"`
	Tool   string   `json:"tool"`
	Mirror string   `json:"mirror"` // "" there is none
	Remedy string   `json:"remedy"`
	Places []string `json:"places"`
}

// Download is a file an ADD takes from an address.
type Download struct {
	URL      string `json:"url"`
	Checksum bool   `json:"checksum"`
	Place    string `json:"place"`
}

// Skipped is a Dockerfile that no image is proposed for.
type Skipped struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

var (
	dockerfiles = regexp.MustCompile(`^(?i:(Dockerfile|Containerfile)([._-].+)?|.+\.(Dockerfile|Containerfile))$`)
	templates   = regexp.MustCompile(`(?i)\.(j2|tmpl|template|tpl|erb|in|mustache|ejs|gotmpl)$`)
	notThem     = regexp.MustCompile(`(?i)\.(dockerignore|md|txt|go|py|sh|ya?ml|json|toml|lock|orig|rej|bak|swp|js|ts|rst|html)$`)
)

// vendored are folders with what others wrote, by name.
var vendored = map[string]string{
	"node_modules": "node_modules", "vendor": "vendored code", "third_party": "vendored code", "bower_components": "vendored code",
	"integration": "for tests", "e2e": "for tests", "test": "for tests", "tests": "for tests",
	"testdata": "test data", "fixtures": "test data", "__fixtures__": "test data", "site-packages": "vendored code", "examples": "", "target": "",
}

// Propose looks at a repository. It is an error when there is nothing to build.
func Propose(in Input) (*Proposal, error) {
	p := &Proposal{Version: 1, Images: []Image{}, Bases: []Base{}, Ecosystems: []Ecosystem{}, Downloads: []Download{}, Skipped: []Skipped{}, Added: []string{}}
	found, err := p.find(in)
	if err != nil {
		return nil, err
	}
	if err := p.read(in, found); err != nil {
		return nil, err
	}
	if len(p.Images) == 0 {
		e := &artifact.Error{
			Kind: artifact.KindUsage, Op: "looking for Dockerfiles", Message: "there is none to build",
			Remedy: "run it at the top of a repository with a Dockerfile, NAME.Dockerfile or Containerfile",
		}
		for i, s := range p.Skipped {
			if i < 5 {
				e.Message += "; left out " + s.Path + ": " + s.Why
			}
		}
		return nil, e
	}
	p.name(in.Name, func(name string) bool {
		_, base := in.Catalog.Base(name)
		_, image := in.Catalog.Image(name)
		return base || image
	})
	p.noImages = in.Mirror(mirrorOfImages) == ""
	for i := range p.Images {
		p.survey(in, &p.Images[i])
	}
	p.upstream(in)
	p.Project = p.text(in.Spec)
	if _, err := catalog.ReadProject(catalog.ProjectFile, []byte(p.Project)); err != nil {
		return nil, fmt.Errorf("the proposal is no project file: %w", err)
	}
	return p, nil
}

// upstream asks for a mirror of the images that are proposed as they are.
func (p *Proposal) upstream(in Input) {
	for _, b := range p.Bases {
		for _, place := range b.Places {
			if b.Upstream {
				p.tool(in, "FROM", place)
			}
		}
	}
}

// read finds the images that the Dockerfiles make.
func (p *Proposal) read(in Input, files []string) error {
	said, given := sayings(in.Files, p.speakers), makeArguments(in.Files)
	for _, file := range files {
		raw, err := fs.ReadFile(in.Files, file)
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		parsed, err := dockerfile.Parse(file, raw)
		if err == nil {
			_, err = in.Catalog.FrontendOf(parsed)
		}
		switch {
		case err != nil:
			p.Skipped = append(p.Skipped, Skipped{file, "it cannot be read: " + short(err)})
		case windows(parsed):
			p.Skipped = append(p.Skipped, Skipped{file, "for Windows"})
		default:
			p.Images = append(p.Images, imagesOf(in.Files, file, parsed, saidOf(said, file), given)...)
		}
	}
	return nil
}

func noNil(s []string) []string { return append([]string{}, s...) }

// short is an error without what was being done and where.
func short(err error) string {
	if e, ok := err.(*artifact.Error); ok && e.Message != "" {
		return e.Place + ": " + e.Message
	}
	return err.Error()
}

// maxEntries bounds the walk: a repository is looked through, not a disk.
const maxEntries = 500000

// find lists the Dockerfiles, those that are not the repository's own left out.
func (p *Proposal) find(in Input) ([]string, error) {
	var found []string
	entries := 0
	err := fs.WalkDir(in.Files, ".", func(file string, d fs.DirEntry, err error) error {
		if entries++; entries > maxEntries {
			return &artifact.Error{Kind: artifact.KindUsage, Op: "looking for Dockerfiles", Message: fmt.Sprintf("more than %d files", maxEntries), Remedy: "give the folder of one repository"}
		}
		if err != nil && (d == nil || !d.IsDir()) {
			return err
		}
		if d.IsDir() {
			return p.enter(in.Files, file, err)
		}
		if p.take(file, d) {
			found = append(found, file)
		}
		return nil
	})
	if err == nil && in.Ignored != nil && len(found) > 0 {
		for _, file := range in.Ignored(found) {
			p.Skipped = append(p.Skipped, Skipped{file, "git ignores it"})
			found = slices.DeleteFunc(found, func(f string) bool { return f == file })
		}
	}
	return found, err
}

// take says whether a file is a Dockerfile to build, and notes what else it is.
func (p *Proposal) take(file string, d fs.DirEntry) bool {
	switch why := leftOut(file, d); {
	case why == other && speaks(file) && d.Type().IsRegular() && notOurs(path.Dir(file), "") == "":
		p.speakers = append(p.speakers, file)
	case why != other && why != "":
		p.Skipped = append(p.Skipped, Skipped{file, why})
	default:
		return why == ""
	}
	return false
}

// enter says whether to look into a folder; err is what reading it gave.
func (p *Proposal) enter(fsys fs.FS, dir string, err error) error {
	switch name := path.Base(dir); {
	case err != nil:
		p.Skipped = append(p.Skipped, Skipped{dir, "it cannot be read"})
	case slices.Contains([]string{".git", ".hg", ".svn", "node_modules"}, name):
	case dir != "." && submodule(fsys, dir):
		p.Skipped = append(p.Skipped, Skipped{dir, "a repository of its own"})
	default:
		return nil
	}
	return fs.SkipDir
}

const other = "no Dockerfile"

// leftOut says why no image is proposed for a file; "" when one is.
func leftOut(file string, d fs.DirEntry) string {
	name := path.Base(file)
	switch {
	case !dockerfiles.MatchString(name) || notThem.MatchString(name):
		return other
	case !d.Type().IsRegular():
		return "a link or special file"
	case templates.MatchString(name):
		return "a template"
	case windowsName.MatchString(name):
		return "for Windows"
	}
	return notOurs(path.Dir(file), name)
}

func submodule(fsys fs.FS, dir string) bool {
	_, err := fs.Stat(fsys, path.Join(dir, ".git"))
	return err == nil
}

// notOurs says why a Dockerfile is not one of the repository's own images.
func notOurs(dir, name string) string {
	for _, part := range strings.Split(dir, "/") {
		if why := vendored[part]; why != "" {
			return why + " (" + part + ")"
		}
		if strings.HasPrefix(part, ".") && part != "." {
			return "for tools (" + part + ")"
		}
	}
	if strings.HasPrefix(name, ".") {
		return "for tools (" + name + ")"
	}
	return ""
}
