package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"drydock/modules/dockerfile"
	"drydock/modules/policy"

	"github.com/moby/patternmatcher/ignorefile"
)

const defaultTimeout = policy.Duration(30 * time.Second)

// loadImages reads images/, which a catalog for projects elsewhere need not have.
func (l *loader) loadImages() {
	if _, err := fs.Stat(l.fsys, "images"); errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, file := range l.files("images") {
		img := Image{Tests: Tests{NonRoot: true}}
		if s, ok := l.read(file, &img); ok {
			img.File = file
			l.addImage(s, img)
		}
	}
}

// addImage checks one image and takes it in; s is what it is written in.
func (l *loader) addImage(s source, img Image) {
	if !l.goodName(s, img.Name, imagePattern) {
		return
	}
	if have, twice := l.cat.Image(img.Name); twice {
		l.fail(s.at("name"), "image %s is there twice, also in %s", img.Name, have.Place).Remedy = "rename or remove one of them"
		return
	}
	if have, twice := l.cat.Base(img.Name); twice {
		l.fail(s.at("name"), "image %s has the name of a base, in %s", img.Name, have.Place).Remedy = "rename one of them: FROM could not tell them apart"
		return
	}
	img.Place = s.at("name")
	l.checkPlatforms(s, img.Platforms)
	l.checkUser(s, img.User)
	l.findContext(s, &img)
	l.findContexts(s, &img)
	l.checkArgs(s, &img)
	l.checkSecrets(s, &img)
	l.checkTests(s, &img)
	l.checkTags(s, &img)
	l.cat.Images = append(l.cat.Images, img)
}

var userPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)

// checkUser refuses what is no user, and root: an image that must run as root
// says so in its Dockerfile, or nothing.
func (l *loader) checkUser(s source, user string) {
	const remedy = "write an ordinary user's number, as user: \"65532:65532\", or leave it out: then the Dockerfile decides"
	name, _, _ := strings.Cut(user, ":")
	switch {
	case user == "":
	case !userPattern.MatchString(user):
		l.fail(s.at("user"), "%q is no user", user).Remedy = remedy
	case name == "root" || strings.Trim(name, "0") == "":
		l.fail(s.at("user"), "user %s is root", user).Remedy = remedy
	}
}

// findContext finds the context and parses the Dockerfile in it.
func (l *loader) findContext(s source, img *Image) {
	if img.Context == "" {
		img.Context = img.Name
	}
	if img.Dockerfile == "" {
		img.Dockerfile = "Dockerfile"
	}
	img.ContextDir = path.Join(l.dir, img.Context)
	img.DockerfilePath = path.Join(img.ContextDir, img.Dockerfile)
	if path.IsAbs(img.Context) || !fs.ValidPath(img.ContextDir) {
		l.fail(s.at("context"), "context %s is outside the %s", img.Context, l.what).Remedy = "move it into the " + l.what + ", beside the image's file"
		return
	}
	if info, err := fs.Stat(l.fsys, img.ContextDir); err != nil || !info.IsDir() {
		l.fail(s.at("context"), "there is no directory %s", path.Join(l.name, img.ContextDir)).Remedy = "create it, or name another with context:, relative to this file"
		return
	}
	if path.IsAbs(img.Dockerfile) || !fs.ValidPath(img.DockerfilePath) || !within(img.ContextDir, img.DockerfilePath) {
		l.fail(s.at("dockerfile"), "Dockerfile %s is outside the context", img.Dockerfile).Remedy = "move it into the context"
		return
	}
	data, err := fs.ReadFile(l.fsys, img.DockerfilePath)
	if err != nil {
		l.fail(s.at("dockerfile"), "there is no Dockerfile %s", path.Join(l.name, img.DockerfilePath)).Remedy = "create it, or name another with dockerfile:, relative to the context"
		return
	}
	file, err := dockerfile.Parse(path.Join(l.name, img.DockerfilePath), data)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.readDockerfile(s, img, file)
	l.readIgnore(img)
}

// readDockerfile takes a parsed Dockerfile for the image's and checks what can
// be asked of it.
func (l *loader) readDockerfile(s source, img *Image, file *dockerfile.File) {
	img.Parsed = file
	var err error
	if img.Frontend, err = l.cat.FrontendOf(file); err != nil {
		l.errs = append(l.errs, err)
	}
	for _, d := range file.Demands() {
		l.fail(fmt.Sprintf("%s:%d", file.Name, d.Line), "RUN %s asks for a privilege no build is given", d.Flag).Remedy = "remove the flag: a RUN is confined and reaches the mirrors only"
	}
	if img.Target != "" && !slices.ContainsFunc(file.Stages, func(st dockerfile.Stage) bool { return strings.EqualFold(st.Name, img.Target) }) {
		l.fail(s.at("target"), "there is no stage %s in %s", img.Target, file.Name).Remedy = "name a stage of the Dockerfile, or leave target out for the last one"
	}
}

// within says whether a cleaned path is inside a cleaned directory.
func within(dir, p string) bool { return dir == "." || strings.HasPrefix(p, dir+"/") }

// readIgnore reads the ignore file BuildKit would: the Dockerfile's own, or
// the context's.
func (l *loader) readIgnore(img *Image) {
	for _, file := range []string{img.DockerfilePath + ".dockerignore", path.Join(img.ContextDir, ".dockerignore")} {
		if _, err := fs.Stat(l.fsys, file); err == nil {
			img.Ignore = l.ignoreFile(file)
			return
		}
	}
}

// ignoreFile reads the patterns of an ignore file; there are none without one.
func (l *loader) ignoreFile(file string) []string {
	data, err := fs.ReadFile(l.fsys, file)
	if err != nil {
		return nil
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		l.fail(path.Join(l.name, file), "%v", err).Remedy = "mend the ignore file"
	}
	return patterns
}

// checkArgs checks build arguments and spreads the matrix out.
func (l *loader) checkArgs(s source, img *Image) {
	check := func(name string, path ...string) {
		switch {
		case !argPattern.MatchString(name):
			l.fail(s.at(path...), "%q is not the name of a build argument", name).Remedy = "write letters, digits and underscores"
		case strings.HasPrefix(name, "DRYDOCK_"), strings.HasPrefix(name, "BUILDKIT_"), name == "SOURCE_DATE_EPOCH":
			l.fail(s.at(path...), "build argument %s is set by drydock", name).Remedy = "use another name"
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Args)) {
		check(name, "args", name)
	}
	for _, a := range img.Matrix.Axes {
		check(a.Name, "matrix", a.Name)
		if _, twice := img.Args[a.Name]; twice {
			l.fail(s.at("matrix", a.Name), "%s is an axis and an argument", a.Name).Remedy = "leave it out of args"
		}
	}
	l.checkCells(s, img)
	if img.Matrix.IsZero() {
		img.Variants = []Variant{{Args: img.Args}}
		return
	}
	for _, cell := range img.Matrix.cells() {
		v := Variant{Args: maps.Clone(img.Args)}
		if v.Args == nil {
			v.Args = map[string]string{}
		}
		maps.Copy(v.Args, cell)
		var parts []string
		for _, a := range img.Matrix.Axes {
			parts = append(parts, cell[a.Name])
		}
		v.Name = strings.Join(parts, "-")
		if !tagPattern.MatchString(v.Name) {
			l.fail(s.at("matrix"), "variant %q cannot be a tag", v.Name).Remedy = "use letters, digits, dots, dashes and underscores as values of the matrix"
		}
		if slices.ContainsFunc(img.Variants, func(o Variant) bool { return o.Name == v.Name }) {
			l.fail(s.at("matrix"), "variant %q is there twice", v.Name).Remedy = "give the cells of the matrix different values"
			continue
		}
		img.Variants = append(img.Variants, v)
	}
	if len(img.Variants) == 0 {
		l.fail(s.at("matrix"), "the matrix has no cells").Remedy = "give it an axis with a value that is not excluded"
	}
}

// checkCells checks what include and exclude name.
func (l *loader) checkCells(s source, img *Image) {
	for _, key := range []string{"exclude", "include"} {
		cells := img.Matrix.Include
		if key == "exclude" {
			cells = img.Matrix.Exclude
		}
		for i, cell := range cells {
			known := 0
			for _, a := range img.Matrix.Axes {
				if _, ok := cell[a.Name]; ok {
					known++
				}
			}
			if known != len(cell) || len(cell) == 0 || (key == "include" && known != len(img.Matrix.Axes)) {
				l.fail(s.at("matrix", key, strconv.Itoa(i)), "%s names %s", key, fmt.Sprint(slices.Sorted(maps.Keys(cell)))).Remedy =
					"name axes of the matrix only; include names all of them"
			}
		}
	}
}

func (l *loader) checkTests(s source, img *Image) {
	t := &img.Tests
	for i, f := range t.Structure {
		p := path.Join(l.dir, f)
		if !fs.ValidPath(p) || path.IsAbs(f) {
			l.fail(s.at("tests", "structure", strconv.Itoa(i)), "%s is outside the %s", f, l.what).Remedy = "keep it beside the image's file"
			continue
		}
		if _, err := fs.Stat(l.fsys, p); err != nil {
			l.fail(s.at("tests", "structure", strconv.Itoa(i)), "there is no file %s", path.Join(l.name, p)).Remedy = "create it, or name another, relative to this file"
		}
		img.StructurePaths = append(img.StructurePaths, p)
	}
	for i, w := range t.Writable {
		if !path.IsAbs(w) || path.Clean(w) == "/" {
			l.fail(s.at("tests", "writable", strconv.Itoa(i)), "%q is not an absolute directory", w).Remedy = "write for example /tmp"
		}
	}
	for i := range t.Services {
		at := func(keys ...string) string {
			return s.at(append([]string{"tests", "services", strconv.Itoa(i)}, keys...)...)
		}
		svc := &t.Services[i]
		if svc.Name == "" || slices.ContainsFunc(t.Services[:i], func(o Service) bool { return o.Name == svc.Name }) {
			l.fail(at("name"), "service check %q has no name of its own", svc.Name).Remedy = "give each service check a name"
		}
		l.checkService(svc, at)
	}
}

func (l *loader) checkService(svc *Service, at func(...string) string) {
	if (svc.HTTP == nil) == (svc.TCP == nil) {
		l.fail(at(), "service check %q has not exactly one of http and tcp", svc.Name).Remedy = "write http: or tcp:"
	}
	if svc.Timeout == 0 {
		svc.Timeout = defaultTimeout
	}
	if h := svc.HTTP; h != nil {
		l.checkPort(h.Port, at("http", "port"))
		if h.Path == "" {
			h.Path = "/"
		}
		if !strings.HasPrefix(h.Path, "/") {
			l.fail(at("http", "path"), "path %q does not begin with /", h.Path).Remedy = "write /" + h.Path
		}
		if h.Status == 0 {
			h.Status = 200
		}
		if h.Status < 100 || h.Status > 599 {
			l.fail(at("http", "status"), "%d is not an HTTP status", h.Status).Remedy = "write for example 200"
		}
	}
	if t := svc.TCP; t != nil {
		l.checkPort(t.Port, at("tcp", "port"))
		if _, err := regexp.Compile(t.Expect); err != nil {
			l.fail(at("tcp", "expect"), "%v", err).Remedy = "write a regular expression; a character that means something in one needs a backslash"
		}
	}
}

func (l *loader) checkPort(port int, place string) {
	if port < 1 || port > 65535 {
		l.fail(place, "%d is not a port", port).Remedy = "write the port the image listens on"
	}
}
