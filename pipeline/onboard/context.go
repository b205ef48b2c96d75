package onboard

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

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

// chooseContext guesses the folder the image is built from: of the Dockerfile's
// own and those above it the one that has most of what it copies.
func chooseContext(fsys fs.FS, file string, img *Image) {
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
	img.Dockerfile = strings.TrimPrefix(file, best+"/")
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
		img.Target = can[0]
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
