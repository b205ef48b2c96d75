package onboard

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
)

// built is the platform builds run on.
var built = artifact.Platform{OS: "linux", Architecture: "amd64"}

// ordinary is the user proposed where a Dockerfile names none: distroless
// images' and our bases' nonroot.
const ordinary = "65532:65532"

// survey finds what an image needs of catalog and mirrors.
func (p *Proposal) survey(in Input, img *Image) {
	file := path.Join(img.Context, img.Dockerfile)
	at := func(line int) string { return fmt.Sprintf("%s:%d", file, line) }
	if img.foreign() && !buildsFor(in.Catalog, img, *img.only) {
		img.Platforms = []artifact.Platform{*img.only}
		img.Problems = append(img.Problems, Problem{
			file, "by its name it is for " + img.only.String() + " alone, and its stages run there, or build on what the catalog has not for it",
			"one Dockerfile for all platforms (FROM --platform=$BUILDPLATFORM and cross-compiling), or emulators.yaml and such bases in the catalog",
		})
		return
	}
	img.Ready = p.bases(in.Catalog, img, at)
	img.Platforms = platforms(in.Catalog, img)
	for _, t := range img.file.Tools() {
		p.tool(in, t.Name, at(t.Line))
	}
	p.lockedElsewhere(in, img)
	for _, f := range img.file.Fetches() {
		p.Downloads = append(p.Downloads, Download{URL: f.URL, Checksum: f.Checksum != "", Place: at(f.Line)})
	}
	for _, d := range img.file.Demands() {
		img.Ready = false
		img.Problems = append(img.Problems, Problem{at(d.Line), "RUN " + d.Flag + " asks for a privilege no build is given", "remove the flag"})
	}
	user := img.file.User(img.Target)
	if found, err := in.Catalog.Resolve(img.file.Root(img.Target)); err == nil && user == "" {
		if b, ok := in.Catalog.Base(found.Base); ok {
			user = b.User
		}
	}
	if user, _, _ = strings.Cut(user, ":"); user == "" || user == "root" || user == "0" {
		img.User = ordinary
		img.Problems = append(img.Problems, Problem{
			file, "as far as the Dockerfile says the image runs as root, which the rule nonRoot judges",
			"the project file says user: " + ordinary + "; leave that out where it has to be root",
		})
	}
}

// yarnResolved is where a yarn.lock of classic yarn has a package.
var yarnResolved = regexp.MustCompile(`(?m)^  resolved "https?://([^/"]+/)`)

// lockedElsewhere finds registries that a yarn.lock names: classic yarn asks there
// whatever the registry of its configuration is.
func (p *Proposal) lockedElsewhere(in Input, img *Image) {
	if !slices.ContainsFunc(img.file.Tools(), func(t dockerfile.Tool) bool { return t.Name == "npm" }) {
		return
	}
	file := path.Join(img.Context, "yarn.lock")
	raw, err := fs.ReadFile(in.Files, file)
	if err != nil {
		return
	}
	var hosts []string
	for _, m := range yarnResolved.FindAllSubmatch(raw, -1) {
		host := string(m[1])
		covered := slices.ContainsFunc(slices.Collect(maps.Keys(in.Catalog.Mirrors.StandsFor)), func(have string) bool { return strings.HasPrefix(have, host) })
		if !covered && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	for _, host := range hosts {
		img.Problems = append(img.Problems, Problem{
			file, "it has packages from " + host + ", for which no mirror answers",
			"in the catalog's mirrors.yaml: standsFor: {" + host + ": npm}",
		})
	}
}

// bases notes what an image builds on; whether the catalog has all of it.
func (p *Proposal) bases(c *catalog.Catalog, img *Image, at func(int) string) bool {
	refs, err := img.file.Bases(img.Target, (&catalog.Image{}).FromArgs(catalog.Variant{Args: img.Args}, built))
	if err != nil {
		img.Problems = append(img.Problems, Problem{short(err), "what it builds on depends on a build argument", "give it a value: args: {" + strings.Join(img.Arguments, ": …, ") + ": …}"})
		return false
	}
	ready := true
	for _, r := range refs {
		argument := img.argument(r)
		if slices.Contains(img.unknown, argument) {
			ready = false // what stands there is no image
			img.Choices = append(img.Choices, argument)
			continue
		}
		b := p.base(c, img, r)
		if place := at(r.Line); !slices.Contains(b.Places, place) {
			b.Places = append(b.Places, place)
		}
		want := wanted(img.file, r)
		if file, more := want.lacking(c, b.Base); more != "" {
			b.File, b.Propose = file, more
			img.Problems = append(img.Problems, Problem{
				at(r.Line), b.Base + " stands for " + r.Ref + " and has not all that RUN calls: " + strings.Join(want.programs, ", "),
				"add to " + file + ": " + strings.TrimSpace(more),
			})
		}
		if argument != "" && b.Base == "" && !slices.Contains(img.Choices, argument) {
			img.Choices = append(img.Choices, argument)
		}
		ready = ready && b.Base != "" && !(b.Upstream && p.noImages)
	}
	return ready
}

// argument is the build argument that a reference consists of; "" for none.
func (i *Image) argument(r dockerfile.BaseRef) string {
	if m := onlyArgument.FindStringSubmatch(argumentOf(i.file, r)); m != nil {
		return m[1]
	}
	return ""
}

// base is what is known of a reference, found out when it is the first time.
func (p *Proposal) base(c *catalog.Catalog, img *Image, r dockerfile.BaseRef) *Base {
	if i := slices.IndexFunc(p.Bases, func(b Base) bool { return b.Ref == r.Ref }); i >= 0 {
		return &p.Bases[i]
	}
	b := Base{Ref: r.Ref, Argument: argumentOf(img.file, r)}
	if found, err := c.Resolve(r.Ref); err == nil {
		if b.Base = found.Base; b.Base == "" {
			b.Base = found.Image
		}
	} else {
		b.File, b.Propose = proposeBase(c, wanted(img.file, r))
		b.Upstream = strings.Contains(b.Propose, "\nkind: oci\n")
	}
	if is, ok := c.Base(b.Base); ok && is.Kind == "oci" {
		b.Upstream = true
	}
	p.Bases = append(p.Bases, b)
	return &p.Bases[len(p.Bases)-1]
}

var onlyArgument = regexp.MustCompile(`^\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?$`)

// argumentOf is how a FROM is written that has build arguments in it.
func argumentOf(f *dockerfile.File, r dockerfile.BaseRef) string {
	for _, s := range f.Stages {
		if s.From.Line == r.Line && r.Instruction == "FROM" && strings.Contains(s.From.Raw, "$") {
			return s.From.Raw
		}
	}
	return ""
}

// guess takes from the arguments FROM lines need those whose name tells their
// value.
func guess(arguments []string) (rest []string, args map[string]string) {
	args = map[string]string{}
	rest = slices.DeleteFunc(noNil(arguments), func(name string) bool {
		switch strings.ToUpper(name) {
		case "ARCH", "GOARCH", "BUILD_ARCH", "TARGET_ARCH", "TARGET_GOARCH":
			args[name] = built.Architecture
		case "OS", "GOOS", "BUILD_OS", "TARGET_OS", "TARGET_GOOS":
			args[name] = built.OS
		default:
			return false
		}
		return true
	})
	return rest, args
}

// foreign says whether an image is for a platform builds do not run on, and no
// other.
func (i Image) foreign() bool { return i.only != nil && *i.only != built }

// platforms are those the image can be built for without running foreign code.
func platforms(c *catalog.Catalog, img *Image) []artifact.Platform {
	if img.foreign() {
		return []artifact.Platform{*img.only}
	}
	out := []artifact.Platform{built}
	if !img.Ready || img.only != nil || len(img.Args) > 0 { // what was guessed is right for one
		return out
	}
	var all []artifact.Platform
	for _, b := range c.Bases {
		for _, q := range b.Platforms {
			if q != built && !slices.Contains(all, q) {
				all = append(all, q)
			}
		}
	}
	for _, q := range all {
		if buildsFor(c, img, q) {
			out = append(out, q)
		}
	}
	return out
}

func buildsFor(c *catalog.Catalog, img *Image, q artifact.Platform) bool {
	args := (&catalog.Image{}).FromArgs(catalog.Variant{Args: img.Args}, q)
	args["BUILDPLATFORM"], args["BUILDOS"], args["BUILDARCH"] = built.String(), built.OS, built.Architecture
	runs, err := img.file.RunPlatforms(img.Target, args)
	if err != nil || slices.ContainsFunc(runs, func(r string) bool { return r != built.String() }) || len(runs) == 0 {
		return false
	}
	refs, err := img.file.Bases(img.Target, args)
	for _, r := range refs {
		found, rerr := c.Resolve(r.Ref)
		b, ok := c.Base(found.Base)
		if rerr != nil || !ok {
			return false
		}
		want := q
		if r.Platform != "" {
			if want, err = artifact.ParsePlatform(r.Platform); err != nil {
				return false
			}
		}
		if !slices.Contains(b.Platforms, want) {
			return false
		}
	}
	return err == nil
}

// mirrorOfImages is where bases that are upstream's images come from.
const mirrorOfImages = "oci"

// ecosystems are what tools fetch from, by tool: the mirror's name, or "" for
// what no mirror serves, and what to do then.
var ecosystems = map[string]struct{ mirror, remedy string }{
	"apt": {"debian", "set debian: in the catalog's mirrors.yaml"}, "go": {"go", "set go: in the catalog's mirrors.yaml"},
	"npm": {"npm", "set npm: in the catalog's mirrors.yaml"}, "pip": {"pypi", "a mirror of PyPI: pypi: in the catalog's mirrors.yaml"},
	"apk":      {"apk", "build on a Debian base, or bring the packages into a base (kind: oci)"},
	"rpm":      {"rpm", "build on a Debian base, or bring the packages into a base (kind: oci)"},
	"cargo":    {"cargo", "vendor the crates (cargo vendor) into the context"},
	"gem":      {"rubygems", "vendor the gems (bundle cache) into the context"},
	"maven":    {"maven", "bring the repository's files into the context"},
	"nuget":    {"nuget", "bring the packages into the context"},
	"composer": {"composer", "bring vendor/ into the context"},
	"FROM":     {mirrorOfImages, "set oci: in the catalog's mirrors.yaml to a registry that has upstream's images, and write their digests into the bases proposed"},
	"git":      {"git", "a submodule, or a copy in the context"},
	"download": {"files", "ADD --checksum=sha256:… of a file a mirror has, or a copy in the context"},
}

func (p *Proposal) tool(in Input, tool, place string) {
	e, ok := ecosystems[tool]
	if !ok {
		return // make and its like: what they call stands elsewhere
	}
	i := slices.IndexFunc(p.Ecosystems, func(x Ecosystem) bool { return x.Tool == tool })
	if i < 0 {
		x := Ecosystem{Name: e.mirror, Tool: tool, Mirror: in.Mirror(e.mirror)}
		if x.Mirror == "" {
			x.Remedy = e.remedy
		}
		p.Ecosystems = append(p.Ecosystems, x)
		i = len(p.Ecosystems) - 1
	}
	p.Ecosystems[i].Places = append(p.Ecosystems[i].Places, place)
}
