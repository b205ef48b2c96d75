package catalog

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/policy"
)

// ProjectFile is what the project file of a repository is called.
const ProjectFile = "drydock.yaml"

// ProjectLocks is the folder beside it with the locks of the project's images.
const ProjectLocks = "drydock.locks"

// Project is what an application repository says of itself: its images, the
// catalog they are built with, and which of the catalog's rules are to be
// stricter for it.
type Project struct {
	Version int                          `yaml:"version"`
	Catalog string                       `yaml:"catalog,omitempty"` // directory relative to the file, git URL@commit, or OCI reference@sha256:…
	Images  []Image                      `yaml:"images"`            // contexts are relative to the file; default the file's own folder
	Policy  map[string]policy.Tightening `yaml:"policy,omitempty"`  // by the stage to be entered

	Place   string   `yaml:"-"` // the file, as errors call it
	Exclude []string `yaml:"-"` // paths below the file's folder that are part of no context: what drydock itself writes there

	source source
}

// Tightened is a value of a policy that a project made stricter.
type Tightened struct {
	Stage string `json:"stage"`
	Rule  string `json:"rule"` // as vulnerabilities.failOn
	Was   string `json:"was"`
	Is    string `json:"is"`
	Place string `json:"from"` // file:line
}

// ReadProject reads a project file; place is how errors call it.
func ReadProject(place string, data []byte) (*Project, error) {
	p := &Project{Place: place}
	var err error
	if p.source, err = parse(place, data); err == nil {
		err = p.source.decode(p)
	}
	if err != nil {
		return nil, ofProject(err)
	}
	if len(p.Images) == 0 {
		return nil, ofProject(usage(p.source.at("images"), "no images", "name at least one: images: [{name: app, platforms: [linux/amd64]}]"))
	}
	for i := range p.Images {
		tests := value(p.image(i).root, "tests")
		if tests == nil || value(tests, "nonRoot") == nil {
			p.Images[i].Tests.NonRoot = true
		}
	}
	return p, nil
}

// At is file:line of what the keys lead to.
func (p *Project) At(keys ...string) string { return p.source.at(keys...) }

// image is the part of the file that is about one image.
func (p *Project) image(i int) source {
	s := p.source
	if list := value(s.root, "images"); list != nil {
		_, s.root = step(list, strconv.Itoa(i))
	}
	return s
}

// ofProject makes errors of the catalog's reader errors about a project file.
func ofProject(err error) error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			_ = ofProject(e)
		}
		return err
	}
	var e *artifact.Error
	if errors.As(err, &e) && e.Op == "reading catalog" {
		e.Op = "reading project"
	}
	return err
}

// LoadProject reads a catalog and adds a project to it; files is the folder of
// the project file. Images of the catalog stay as far as the project builds on
// them.
func LoadProject(fsys fs.FS, name string, p *Project, files fs.FS) (*Catalog, error) {
	l := begin(fsys, name)
	l.loadImages()
	theirs := &loader{fsys: files, name: path.Dir(p.Place), dir: ".", what: "project", cat: l.cat}
	for i := range p.Images {
		theirs.addProjectImage(p, i)
	}
	theirs.tighten(p)
	for _, err := range theirs.errs {
		l.errs = append(l.errs, ofProject(err))
	}
	l.cat = theirs.cat
	c, err := l.finish()
	if err == nil {
		c.keepUsed()
	}
	return c, err
}

func (l *loader) addProjectImage(p *Project, i int) {
	img, s := p.Images[i], p.image(i)
	if img.Version != 0 {
		l.fail(s.at("version"), "an image of a project has a version").Remedy = "leave it out: the file has one"
	}
	if img.Context == "" {
		img.Context = "."
	}
	img.Project, img.File = true, path.Base(p.Place)
	before := len(l.cat.Images)
	l.addImage(s, img)
	if len(l.cat.Images) == before {
		return
	}
	added := &l.cat.Images[before]
	added.Ignore = append(p.excluded(added.ContextDir), added.Ignore...)
	for j := range added.NamedContexts {
		c := &added.NamedContexts[j]
		c.Ignore = append(p.excluded(c.Dir), c.Ignore...)
	}
	if added.Parsed == nil {
		return
	}
	for _, from := range added.Parsed.ContextPaths() {
		for _, own := range p.Exclude {
			if at := path.Join(added.ContextDir, from); at == own || within(own, at) {
				l.fail(added.Place, "the Dockerfile copies %s, and %s is where drydock writes", at, own).Remedy = "let it write elsewhere: --out DIR (DRYDOCK_OUT), --state DIR"
			}
		}
	}
}

// excluded is what a context leaves out before its own ignore file is asked:
// what drydock itself writes, and the repository's history, as BuildKit leaves
// it out of git contexts; an unrelated commit must not change an image. An
// ignore file with !.git brings it back.
func (p *Project) excluded(dir string) []string {
	out := []string{"**/.git"}
	for _, own := range p.Exclude {
		if rel, ok := strings.CutPrefix(own, dir+"/"); ok {
			out = append(out, rel)
		} else if dir == "." {
			out = append(out, own)
		}
	}
	return out
}

// tighten gives every stage the project names a stricter policy of its own.
func (l *loader) tighten(p *Project) {
	for _, name := range slices.Sorted(maps.Keys(p.Policy)) {
		at := func(keys ...string) string { return p.At(append([]string{"policy", name}, keys...)...) }
		stage, ok := l.cat.Stage(name)
		if !ok || stage.Policy == "" {
			var names []string
			for _, s := range l.cat.Stages {
				if s.Policy != "" {
					names = append(names, s.Name)
				}
			}
			l.fail(at(), "%q is no stage with a policy", name).Remedy = "name the stage that is entered: " + strings.Join(names, ", ")
			continue
		}
		pol, ok := l.cat.Policy(stage.Policy)
		if !ok {
			continue // said where the stage is written
		}
		strict, changed, problems := pol.Tighten(p.Policy[name])
		for _, problem := range problems {
			l.fail(at(problem.Path...), "stage %s: %s", name, problem.Message).Remedy = problem.Remedy
		}
		if len(changed) == 0 {
			continue
		}
		strict.Name = pol.Name + " as " + path.Base(p.Place) + " tightens it for " + name
		stage.Policy = strict.Name
		l.cat.Policies = append(l.cat.Policies, strict)
		for _, c := range changed {
			l.cat.Tightened = append(l.cat.Tightened, Tightened{
				Stage: name, Rule: strings.Join(c.Path[max(0, len(c.Path)-2):], "."), Was: c.Was, Is: c.Is, Place: at(c.Path...),
			})
		}
	}
}

// keepUsed drops the catalog's images that no image of the project builds on.
func (c *Catalog) keepUsed() {
	used := map[string]bool{}
	var use func(img *Image)
	use = func(img *Image) {
		if used[img.Name] {
			return
		}
		used[img.Name] = true
		for _, v := range img.Variants {
			for _, r := range v.Refs {
				if next, ok := c.Image(r.Image); ok {
					use(next)
				}
			}
		}
	}
	for i := range c.Images {
		if c.Images[i].Project {
			use(&c.Images[i])
		}
	}
	c.Images = slices.DeleteFunc(c.Images, func(img Image) bool { return !used[img.Name] })
}

// ProjectImages names the images of the project, in its order; nil without one.
func (c *Catalog) ProjectImages() []string {
	var out []string
	for _, img := range c.Images {
		if img.Project {
			out = append(out, img.Name)
		}
	}
	return out
}
