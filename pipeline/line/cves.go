package line

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/mirror"
	"drydock/modules/scan"
	"drydock/modules/steprun/wire"
)

// CVE is a known vulnerability a change of packages brings or takes away.
type CVE struct {
	ID       string   `json:"id"`
	Severity string   `json:"severity"` // critical, high, medium, low, negligible, unknown
	Packages []string `json:"packages"` // "name version", of the old version where it is fixed, else of the new
	KEV      bool     `json:"kev,omitempty"`
}

// CVEs is what a change of packages does to known vulnerabilities.
type CVEs struct {
	Fixed      []CVE    `json:"fixed"`
	Introduced []CVE    `json:"introduced"`
	Unknown    []string `json:"unknown,omitempty"` // what the database cannot tell, in words
}

// knowledge is what a vulnerability database says of some packages.
type knowledge struct {
	findings map[string][]artifact.Finding // by "type name version"
	types    map[string]artifact.Knowledge // by the scanner's type
	cannot   string                        // why there is no database, "" when there is one
}

// scannerTypes are the scanner's names of package-url types.
func scannerType(purlType string) string {
	switch purlType {
	case "golang":
		return "go-module"
	case "pypi":
		return "python"
	}
	return purlType
}

func packageKey(purlType, name, version string) string {
	return scannerType(purlType) + " " + name + " " + version
}

// lookUp holds every version of changed packages, old and new, against the
// catalog's vulnerability database. That there is none is an answer, too: an
// update is not refused for it.
func (l *Line) lookUp(ctx context.Context, changes []Change) (*knowledge, error) {
	if len(changes) == 0 {
		return &knowledge{}, nil
	}
	e, step, err := l.worker()
	if err != nil {
		return nil, err
	}
	set, err := l.mirrors.get()
	if err != nil {
		return nil, err
	}
	list, distro, sources := l.describe(ctx, set, changes)
	db, err := l.findDatabase(ctx, distro, sources, "")
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return &knowledge{cannot: err.Error()}, nil
	}
	doc := e.Client.Directory().WithNewFile("packages.purls", strings.Join(list, "\n")+"\n").File("packages.purls")
	report, err := scan.Run(ctx, e.Client, step, doc, db)
	if err != nil {
		return nil, err
	}
	k := &knowledge{types: report.Database.Knowledge, findings: map[string][]artifact.Finding{}}
	for _, f := range report.Findings {
		key := f.Type + " " + f.Package + " " + f.Version
		k.findings[key] = append(k.findings[key], f)
	}
	return k, nil
}

// describe lists the packages of changes as package URLs the scanner reads:
// with the distribution and the source package, which is what the Debian
// database speaks of.
func (l *Line) describe(ctx context.Context, set *mirror.Set, changes []Change) (list []string, distro string, sources []wire.SourcePackage) {
	index := map[string]located{}
	if slices.ContainsFunc(changes, func(c Change) bool { return c.Type == "deb" }) {
		if logs, ok := l.changelogs(set).(*changelogs); ok {
			index, _ = logs.all(ctx) // without it binary names stand for source names
		}
		distro = debianRelease(ctx, set)
	}
	for _, c := range changes {
		for _, version := range slices.Concat(c.Old, c.New) {
			purl := "pkg:" + c.Type + "/" + purlPath(c.Type, c.Package) + "@" + url.QueryEscape(version)
			if c.Type == "deb" {
				source, sourceVersion := sourceOf(index, c.Package, version)
				purl += "?distro=" + strings.Replace(distro, " ", "-", 1) + "&upstream=" + url.QueryEscape(source+"@"+sourceVersion)
				one := wire.SourcePackage{Name: source, Binary: c.Package, Version: version}
				if !slices.ContainsFunc(sources, func(s wire.SourcePackage) bool { return s.Name == source }) {
					sources = append(sources, one)
				}
			}
			list = append(list, purl)
		}
	}
	return list, distro, sources
}

// purlPath is a package's name in a package URL.
func purlPath(purlType, name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(parts[i], "@", "%40"), "+", "%2B")
	}
	if purlType == "deb" {
		return "debian/" + strings.Join(parts, "/")
	}
	return strings.Join(parts, "/")
}

// sourceOf is the source package of one version of a binary package, as far as
// the index of the newest ones tells. A rebuild without a change of the source
// (+b1) has the source's version.
func sourceOf(index map[string]located, name, version string) (source, sourceVersion string) {
	sourceVersion = version
	if i := strings.LastIndex(version, "+b"); i > 0 && strings.Trim(version[i+2:], "0123456789") == "" {
		sourceVersion = version[:i]
	}
	at, ok := index[name]
	if !ok || at.Source == "" {
		return name, sourceVersion
	}
	if at.Version == version && at.SourceVersion != "" {
		return at.Source, at.SourceVersion
	}
	return at.Source, sourceVersion
}

// debianRelease is "debian 12" of the archives configured, as scans name it;
// "debian" when they do not say.
func debianRelease(ctx context.Context, set *mirror.Set) string {
	sources, err := set.Debian(ctx)
	if err != nil {
		return "debian"
	}
	for _, src := range sources {
		for _, suite := range src.Suites {
			r, err := set.Release(ctx, src, suite)
			if err != nil || r.Version == "" {
				continue
			}
			major, _, _ := strings.Cut(r.Version, ".")
			return "debian " + major
		}
	}
	return "debian"
}

// all is the newest version of every package of the Debian mirrors, by name.
func (c *changelogs) all(ctx context.Context) (map[string]located, error) {
	c.once.Do(func() { c.newst, c.err = c.index(context.WithoutCancel(ctx)) })
	return c.newst, c.err
}

// judge is what changes do to known vulnerabilities.
func (k *knowledge) judge(changes []Change) CVEs {
	out := CVEs{Fixed: []CVE{}, Introduced: []CVE{}}
	if len(changes) == 0 {
		return out
	}
	if k.cannot != "" {
		out.Unknown = []string{"there is no vulnerability database to ask: " + k.cannot}
		return out
	}
	fixed, introduced, types := map[string]*CVE{}, map[string]*CVE{}, map[string]bool{}
	for _, c := range changes {
		types[scannerType(c.Type)] = true
		before, after := k.of(c, c.Old), k.of(c, c.New)
		collect(fixed, before, after)
		collect(introduced, after, before)
	}
	out.Fixed, out.Introduced = sortedCVEs(fixed), sortedCVEs(introduced)
	for t := range types {
		switch know := k.types[t]; {
		case !know.Covered:
			out.Unknown = append(out.Unknown, "the database knows nothing of "+t+" packages, or not of all of these")
		case !know.Unfixed:
			out.Unknown = append(out.Unknown, "of "+t+" packages the database knows fixed vulnerabilities only")
		}
	}
	slices.Sort(out.Unknown)
	return out
}

// of is the findings of some versions of a package, by id.
func (k *knowledge) of(c Change, versions []string) map[string]artifact.Finding {
	out := map[string]artifact.Finding{}
	for _, v := range versions {
		for _, f := range k.findings[packageKey(c.Type, c.Package, v)] {
			out[f.ID] = f
		}
	}
	return out
}

// collect adds what is in one set of findings and not in the other.
func collect(into map[string]*CVE, in, notIn map[string]artifact.Finding) {
	for id, f := range in {
		if _, there := notIn[id]; there {
			continue
		}
		if into[id] == nil {
			into[id] = &CVE{ID: id, Severity: f.Severity}
		}
		into[id].KEV = into[id].KEV || f.KEV
		if p := f.Package + " " + f.Version; !slices.Contains(into[id].Packages, p) {
			into[id].Packages = append(into[id].Packages, p)
		}
	}
}

func sortedCVEs(all map[string]*CVE) []CVE {
	rank := []string{"critical", "high", "medium", "low", "negligible", "unknown"}
	out := make([]CVE, 0, len(all))
	for _, c := range all {
		slices.Sort(c.Packages)
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b CVE) int {
		return cmp.Or(cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity)), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// String is a line for people.
func (c CVE) String() string {
	known := ""
	if c.KEV {
		known = ", exploited"
	}
	return fmt.Sprintf("%s (%s%s) %s", c.ID, c.Severity, known, strings.Join(c.Packages, ", "))
}
