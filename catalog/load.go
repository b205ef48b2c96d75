package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/policy"
)

var (
	namePattern     = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*$`)
	imagePattern    = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)
	tagPattern      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	argPattern      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	ociPattern      = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*@sha256:[a-f0-9]{64}$`)
	registryPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)
	goPattern       = regexp.MustCompile(`^1\.\d+(\.\d+|rc\d+)?$`)
	nodePattern     = regexp.MustCompile(`^\d+(\.\d+\.\d+)?$`)
)

// loader collects a catalog and what is wrong with it.
type loader struct {
	fsys fs.FS
	name string
	dir  string // what paths of images are relative to
	what string // catalog or project, as errors call it
	cat  Catalog
	errs []error
}

// Load reads a catalog from fsys; name is how errors call it. All errors found
// are reported together.
func Load(fsys fs.FS, name string) (*Catalog, error) {
	l := begin(fsys, name)
	l.loadImages()
	return l.finish()
}

// begin reads all of a catalog but its images.
func begin(fsys fs.FS, name string) *loader {
	l := &loader{fsys: fsys, name: name, dir: "images", what: "catalog", cat: Catalog{Name: name}}
	l.loadMirrors()
	l.loadPolicies()
	l.loadStages()
	l.loadEmulators()
	l.loadFrontends()
	l.loadBases()
	return l
}

// finish finds what images build on.
func (l *loader) finish() (*Catalog, error) {
	for i := range l.cat.Images {
		l.resolveImage(&l.cat.Images[i])
	}
	if len(l.errs) > 0 {
		return nil, errors.Join(l.errs...)
	}
	return &l.cat, nil
}

func (l *loader) fail(place, format string, args ...any) *artifact.Error {
	e := &artifact.Error{Kind: artifact.KindUsage, Op: "reading catalog", Place: place, Message: fmt.Sprintf(format, args...)}
	l.errs = append(l.errs, e)
	return e
}

// read parses one file and decodes it strictly.
func (l *loader) read(file string, into any) (source, bool) {
	place := path.Join(l.name, file)
	data, err := fs.ReadFile(l.fsys, file)
	if err != nil {
		remedy := "create the file, or give the right directory with --catalog"
		if !errors.Is(err, fs.ErrNotExist) {
			remedy = "make the file readable"
		}
		l.errs = append(l.errs, &artifact.Error{Kind: artifact.KindUsage, Op: "reading catalog", Place: place, Remedy: remedy, Err: cause(err)})
		return source{}, false
	}
	s, err := parse(place, data)
	if err == nil {
		err = s.decode(into)
	}
	if err != nil {
		l.errs = append(l.errs, err)
		return s, false
	}
	return s, true
}

// cause drops the path fs errors repeat.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// files lists the YAML files of one folder.
func (l *loader) files(dir string) []string {
	entries, err := fs.ReadDir(l.fsys, dir)
	if err != nil {
		l.errs = append(l.errs, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading catalog", Place: path.Join(l.name, dir), Err: cause(err),
			Remedy: "create the folder, or give the right directory with --catalog",
		})
		return nil
	}
	var out []string
	for _, e := range entries {
		switch {
		case e.IsDir():
		case strings.HasSuffix(e.Name(), ".yaml"):
			out = append(out, path.Join(dir, e.Name()))
		case strings.HasSuffix(e.Name(), ".yml"):
			l.fail(path.Join(l.name, dir, e.Name()), "files that end in .yml are not read").Remedy = "rename it to end in .yaml"
		}
	}
	return out
}

func (l *loader) loadPolicies() {
	for _, file := range l.files("policies") {
		var p policy.Policy
		s, ok := l.read(file, &p)
		if !ok {
			continue
		}
		if !l.goodName(s, p.Name, namePattern) {
			continue
		}
		if _, twice := l.cat.Policy(p.Name); twice {
			l.fail(s.at("name"), "policy %s is there twice", p.Name).Remedy = "rename or remove one of them"
			continue
		}
		for _, problem := range p.Validate() {
			l.fail(s.at(problem.Path...), "%s", problem.Message).Remedy = problem.Remedy
		}
		l.cat.Policies = append(l.cat.Policies, p.WithDefaults())
	}
}

func (l *loader) goodName(s source, name string, pattern *regexp.Regexp) bool {
	if pattern.MatchString(name) {
		return true
	}
	l.fail(s.at("name"), "%q is not a name", name).Remedy = "write name: and lower-case letters and digits, with dots, dashes or underscores between them"
	return false
}

func (l *loader) loadStages() {
	var doc struct {
		Version int     `yaml:"version"`
		Stages  []Stage `yaml:"stages"`
	}
	s, ok := l.read("stages.yaml", &doc)
	if !ok {
		return
	}
	if len(doc.Stages) == 0 {
		l.fail(s.at("stages"), "no stages").Remedy = "name at least the first one: - {name: quarantine, registry: embedded}"
	}
	for i, st := range doc.Stages {
		n := strconv.Itoa(i)
		st.Place = s.at("stages", n)
		at := func(key string) string { return s.at("stages", n, key) }
		if !namePattern.MatchString(st.Name) {
			l.fail(at("name"), "%q is not a name", st.Name).Remedy = "write name: and lower-case letters and digits"
		} else if _, twice := l.cat.Stage(st.Name); twice {
			l.fail(at("name"), "stage %s is there twice", st.Name).Remedy = "rename or remove one of them"
		}
		if st.Registry != "embedded" && !registryPattern.MatchString(st.Registry) {
			l.fail(at("registry"), "%q is not a registry location", st.Registry).Remedy = "write embedded, or host/path without scheme and tag"
		}
		l.checkEntry(st, i, at)
		l.cat.Stages = append(l.cat.Stages, st)
	}
}

// checkEntry checks how a stage is entered: the first by pushing, the others
// from an earlier one under a policy.
func (l *loader) checkEntry(st Stage, i int, at func(string) string) {
	if i == 0 {
		if st.From != "" || st.Policy != "" {
			l.fail(at("name"), "the first stage has from or policy").Remedy = "leave both out: images are pushed there before any gate"
		}
		return
	}
	if _, ok := l.cat.Stage(st.From); !ok {
		l.fail(at("from"), "%q is no earlier stage", st.From).Remedy = "write from: and the name of a stage further up"
	}
	if _, ok := l.cat.Policy(st.Policy); !ok {
		l.fail(at("policy"), "policy %q is not in the catalog", st.Policy).Remedy = "write policy: and the name of a policy in policies/" + nearest(st.Policy, l.policyNames())
	}
}

func (l *loader) policyNames() []string {
	var out []string
	for _, p := range l.cat.Policies {
		out = append(out, p.Name)
	}
	return out
}
