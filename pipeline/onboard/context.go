package onboard

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
)

// wantedBy lists the paths an image copies, and whether it copies everything.
func wantedBy(img *Image) (wanted []string, all bool) {
	for _, s := range img.file.Sources() {
		switch p := inContext(s.Path); {
		case strings.Contains(p, "$"):
		case p == "":
			all = true
		default:
			wanted = append(wanted, p)
		}
	}
	return wanted, all
}

// markers are files a tool wants where it is called.
var markers = map[string][]string{
	"go": {"go.mod"}, "npm": {"package.json"}, "cargo": {"Cargo.toml"}, "pip": {"requirements.txt", "pyproject.toml", "setup.py", "Pipfile"},
	"maven": {"pom.xml", "build.gradle", "build.gradle.kts"}, "gem": {"Gemfile"}, "composer": {"composer.json"}, "make": {"Makefile", "makefile", "GNUmakefile"},
}

// imagesOf are the images a Dockerfile makes: one, or one for each context and set
// of arguments that the repository's own files say it is built with.
func imagesOf(fsys fs.FS, file string, parsed *dockerfile.File, said []saying, given map[string]string) []Image {
	var ways [][]saying // those that differ in their target alone together
	for _, s := range said {
		i := slices.IndexFunc(ways, func(w []saying) bool { return w[0].context == s.context && maps.Equal(w[0].args, s.args) })
		if i < 0 {
			i, ways = len(ways), append(ways, nil)
		}
		ways[i] = append(ways[i], s)
	}
	if len(ways) == 0 {
		ways = [][]saying{nil}
	}
	var out []Image
	for _, way := range ways {
		img := Image{file: parsed, Targets: noNil(parsed.Targets()), Choices: []string{}, Missing: []string{}, Problems: []Problem{}, only: onlyFor(path.Base(file))}
		img.Arguments, img.Args = guess(parsed.Arguments())
		if img.only != nil && len(img.Args) > 0 {
			img.Arguments, img.Args = parsed.Arguments(), map[string]string{}
		}
		img.give(file, given)
		if len(way) > 0 {
			img.follow(way)
			if len(ways) > 1 {
				img.said = way[0].name
			}
		}
		chooseContext(fsys, file, &img)
		out = append(out, img)
	}
	return out
}

// give takes the values a Makefile gives arguments that FROM lines need, or have
// something for that is no image.
func (i *Image) give(file string, given map[string]string) {
	for _, s := range i.file.Stages {
		for _, m := range argumentNames.FindAllStringSubmatch(s.From.Raw, -1) {
			value, ok := given[m[1]]
			if _, have := i.Args[m[1]]; !ok || have {
				continue
			}
			if strings.ContainsAny(value, "$`") {
				p := Problem{
					fmt.Sprintf("%s:%d", file, s.From.Line), "the Makefile gives " + m[1] + " a value that only make knows, " + value,
					"name it in the project file: args: {" + m[1] + ": …}",
				}
				if !slices.Contains(i.Problems, p) {
					i.Problems, i.unknown = append(i.Problems, p), append(i.unknown, m[1])
				}
				continue
			}
			i.Args[m[1]], i.ArgsWhy = value, "the Makefile says so"
			i.Arguments = slices.DeleteFunc(i.Arguments, func(a string) bool { return a == m[1] })
		}
	}
}

var argumentNames = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)

// follow takes what the repository says of a build. A stage for those who work on
// the image is not what is shipped.
func (i *Image) follow(way []saying) {
	s := way[0]
	i.Context, i.Why = s.context, s.file+" says"
	for k, v := range s.args {
		if s.work && !slices.Contains(i.Arguments, k) {
			continue // the Dockerfile has a value of its own
		}
		i.Args[k], i.ArgsWhy = v, s.file+" says so"
		i.Arguments = slices.DeleteFunc(i.Arguments, func(a string) bool { return a == k })
	}
	same := !slices.ContainsFunc(way, func(o saying) bool { return o.target != s.target })
	if same && s.target != "" && !forWork.MatchString(s.target) && slices.ContainsFunc(i.file.Stages, func(st dockerfile.Stage) bool { return st.Name == s.target }) {
		i.Target, i.TargetWhy = s.target, s.file+" says so"
	}
}

var forWork = regexp.MustCompile(`(?i)^(dev|devel|development|debug|debugger|test|tests|testing|local|lint|ci)$`)

// saidContext says whether the repository has named the context, and one that the
// Dockerfile is in.
func (i *Image) saidContext(file string) bool {
	if i.Context == "" || i.Context == "." || strings.HasPrefix(file, i.Context+"/") {
		return i.Context != ""
	}
	i.Problems = append(i.Problems, Problem{
		file, i.Why + " that its context is " + i.Context + ", where the Dockerfile is not",
		"move the Dockerfile there, or name a context above both in the project file",
	})
	return false
}

// chooseContext guesses the folder the image is built from: of the Dockerfile's
// own and those above it the one that has most of what it copies.
func chooseContext(fsys fs.FS, file string, img *Image) {
	if img.saidContext(file) {
		finishContext(fsys, file, img)
		return
	}
	wanted, all := wantedBy(img)
	score := func(dir string) int {
		have := 0
		for _, w := range wanted {
			if there(fsys, dir, w) {
				have += 2
			}
		}
		if all && marked(fsys, dir, img) {
			have++
		}
		return have
	}
	best, why := path.Dir(file), "the Dockerfile's own folder"
	most := score(best)
	for dir := best; dir != "."; {
		dir = path.Dir(dir)
		if have := score(dir); have > most {
			best, most = dir, have
		}
	}
	if most > 0 {
		why = "it has what the Dockerfile copies"
	}
	if all && most == 0 && alone(fsys, best) && best != "." {
		best, why = ".", "the Dockerfile copies everything and its own folder has nothing else"
	}
	img.Context, img.Why = best, why
	finishContext(fsys, file, img)
}

// finishContext looks at what the Dockerfile copies, once its context is known.
func finishContext(fsys fs.FS, file string, img *Image) {
	img.Dockerfile = strings.TrimPrefix(file, img.Context+"/")
	chooseTarget(fsys, img)
	for _, s := range img.file.SourcesOf(img.Target) {
		if missing(fsys, img, s) {
			img.Missing = append(img.Missing, s.Path)
			img.Problems = append(img.Problems, Problem{
				Place: fmt.Sprintf("%s:%d", file, s.Line), Message: s.Path + " is not in the repository",
				Remedy: "something has to make it before the build, or in a stage of the Dockerfile",
			})
		}
	}
}

// chooseTarget leaves the last stage alone unless that copies what is not in the
// repository and exactly one other that may be meant does not.
func chooseTarget(fsys fs.FS, img *Image) {
	if img.Target != "" {
		return // it was said
	}
	whole := func(target string) bool {
		return !slices.ContainsFunc(img.file.SourcesOf(target), func(s dockerfile.Source) bool { return missing(fsys, img, s) })
	}
	if whole("") {
		return
	}
	var can []string
	for _, t := range img.Targets {
		if whole(t) {
			can = append(can, t)
		}
	}
	if len(can) == 1 {
		img.Target, img.TargetWhy = can[0], "the last stage copies what is not in the repository"
	}
}

// missing says whether what is copied is certainly not in the context.
func missing(fsys fs.FS, img *Image, s dockerfile.Source) bool {
	p := inContext(s.Path)
	if at := strings.Index(p, "$"); at >= 0 { // the folder before what nobody knows
		p = path.Dir(p[:at] + "x")
	}
	return p != "" && p != "." && !there(fsys, img.Context, p)
}

// automatic are the arguments BuildKit sets by itself, for the platform built on.
var automatic = strings.NewReplacer(
	"${TARGETPLATFORM}", built.String(), "$TARGETPLATFORM", built.String(), "${TARGETARCH}", built.Architecture, "$TARGETARCH", built.Architecture,
	"${TARGETOS}", built.OS, "$TARGETOS", built.OS,
)

// inContext is what a COPY names, relative to the context; "" is all of it.
func inContext(source string) string {
	return strings.Trim(path.Clean("/"+automatic.Replace(source)), "/")
}

func there(fsys fs.FS, dir, pattern string) bool {
	found, err := fs.Glob(fsys, path.Join(dir, pattern))
	return err != nil || len(found) > 0 // a pattern that cannot be judged may match
}

// marked says whether a folder has the files that the Dockerfile's tools want.
func marked(fsys fs.FS, dir string, img *Image) bool {
	for _, t := range img.file.Tools() {
		for _, m := range markers[t.Name] {
			if _, err := fs.Stat(fsys, path.Join(dir, m)); err == nil {
				return true
			}
		}
	}
	return false
}

// alone says whether a folder has Dockerfiles and what goes with them only.
func alone(fsys fs.FS, dir string) bool {
	entries, err := fs.ReadDir(fsys, dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() || !dockerfiles.MatchString(e.Name()) && !strings.HasSuffix(e.Name(), ".md")
	})
}

var windowsName = regexp.MustCompile(`(?i)([._-])(windows|nanoserver|servercore)([._-]|\d|$)`)

// windows says whether an image is for Windows.
func windows(f *dockerfile.File) bool {
	from := f.Stages[len(f.Stages)-1].From
	return strings.Contains(from.Raw, "/windows/") || strings.Contains(from.Raw, "nanoserver") || strings.HasPrefix(from.Platform, "windows/")
}

// architectures are the names Dockerfiles have of them, and OCI's.
var architectures = map[string]string{
	"amd64": "amd64", "x86_64": "amd64", "x64": "amd64", "arm64": "arm64", "aarch64": "arm64", "arm64v8": "arm64",
	"ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
}

// onlyFor is the platform a Dockerfile's name ends in: Dockerfile.arm64.
func onlyFor(base string) *artifact.Platform {
	parts := regexp.MustCompile(`[._-]`).Split(strings.ToLower(strings.ReplaceAll(base, "x86_64", "x64")), -1)
	if last := parts[len(parts)-1]; slices.Contains([]string{"dockerfile", "containerfile"}, last) && len(parts) > 1 {
		parts = parts[:len(parts)-1]
	}
	if arch := architectures[parts[len(parts)-1]]; arch != "" {
		return &artifact.Platform{OS: "linux", Architecture: arch}
	}
	return nil
}

// ownName is what distinguishes a Dockerfile by its name: api of Dockerfile.api.
func ownName(base string) string {
	for _, sep := range []string{"ockerfile.", "ockerfile-", "ockerfile_", "ontainerfile.", "ontainerfile-", "ontainerfile_"} {
		if _, after, ok := strings.Cut(base, sep); ok {
			return after
		}
	}
	for _, ending := range []string{".dockerfile", ".containerfile"} {
		if before, ok := strings.CutSuffix(strings.ToLower(base), ending); ok {
			return before
		}
	}
	return ""
}

// packaging are folders that say where a Dockerfile lies, not what it makes.
var packaging = []string{".", "build", "docker", "container", "containers", "package", "packaging", "deploy", "deployments", "ci"}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

func nameOf(s string) string {
	return strings.Trim(notInNames.ReplaceAllString(strings.ToLower(s), "-"), "-")
}

// name gives every image a name: its folder's, or what distinguishes its
// Dockerfile from others.
func (p *Proposal) name(repository string, taken func(string) bool) {
	repository = nameOf(repository)
	if repository == "" {
		repository = "app"
	}
	for i := range p.Images {
		img := &p.Images[i]
		dir, base := path.Split(path.Join(img.Context, img.Dockerfile))
		own, folder := ownName(base), path.Base(path.Clean(dir))
		if slices.Contains(packaging, folder) {
			folder = ""
		}
		folder = nameOf(folder)
		switch {
		case folder == "" && own == "":
			img.Name = repository
		case folder == "":
			img.Name = repository + "-" + nameOf(own)
		case own == "":
			img.Name = folder
		default:
			img.Name = folder + "-" + nameOf(own)
		}
		if img.said != "" && nameOf(img.said) != "" {
			img.Name = nameOf(img.said)
		}
	}
	for i := range p.Images {
		if taken(p.Images[i].Name) {
			p.Images[i].Name += "-app" // the catalog has one of that name
		}
		twins := slices.ContainsFunc(p.Images, func(o Image) bool { return o.Name == p.Images[i].Name && o.file != p.Images[i].file })
		if twins {
			p.Images[i].Name = nameOf(path.Join(repository, p.Images[i].Context, p.Images[i].Dockerfile))
		}
	}
}
