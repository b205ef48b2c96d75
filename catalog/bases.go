package catalog

import (
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"

	"drydock/modules/artifact"
)

func (l *loader) loadBases() {
	for _, file := range l.files("bases") {
		var b Base
		s, ok := l.read(file, &b)
		if !ok || !l.goodName(s, b.Name, namePattern) {
			continue
		}
		if have, twice := l.cat.Base(b.Name); twice {
			l.fail(s.at("name"), "base %s is there twice, also in %s", b.Name, have.Place).Remedy = "rename or remove one of them"
			continue
		}
		b.Place, b.File = s.at("name"), file
		l.checkBase(s, &b)
		l.cat.Bases = append(l.cat.Bases, b)
	}
}

func (l *loader) checkBase(s source, b *Base) {
	switch b.Kind {
	case "debian":
		l.checkDebian(s, b)
	case "oci":
		if !ociPattern.MatchString(b.Image) {
			l.fail(s.at("image"), "%q is not path@sha256:…", b.Image).Remedy = "write image: and path@sha256: with 64 hex digits, as the oci mirror has it; a tag can move"
		}
		if b.Variant != "" || len(b.Packages) > 0 || b.Go != "" || b.Node != "" || b.Suite != "" {
			l.fail(s.at("kind"), "a base of kind oci has variant, suite, packages, go or node").Remedy = "leave them out: it is what its image is"
		}
	default:
		l.fail(s.at("kind"), "%q is not a kind of base", b.Kind).Remedy = "write kind: debian or kind: oci"
	}
	if b.State == "" {
		b.State = "active"
	}
	if !slices.Contains([]string{"active", "deprecated", "eol"}, b.State) {
		l.fail(s.at("state"), "%q is not a state", b.State).Remedy = "write active, deprecated or eol"
	}
	l.checkPlatforms(s, b.Platforms)
	l.checkStandsFor(s, b)
	l.checkVerify(s, b)
	l.checkLock(s, b)
}

func (l *loader) checkDebian(s source, b *Base) {
	if !slices.Contains([]string{"static", "minimal", "full"}, b.Variant) {
		l.fail(s.at("variant"), "%q is not a variant", b.Variant).Remedy = "write variant: static, minimal or full"
	}
	for i, p := range b.Packages {
		if slices.Contains(b.Packages[:i], p) || p == "" {
			l.fail(s.at("packages", strconv.Itoa(i)), "package %q is there twice or empty", p).Remedy = "remove the line"
		}
	}
	if b.Image != "" {
		l.fail(s.at("image"), "a base of kind debian has an image").Remedy = "leave image out, or write kind: oci"
	}
	if b.Go != "" && !goPattern.MatchString(b.Go) {
		l.fail(s.at("go"), "%q is not a version of Go", b.Go).Remedy = "write for example go: 1.26.8"
	}
	if b.Node != "" && !nodePattern.MatchString(b.Node) {
		l.fail(s.at("node"), "%q is not a version of Node.js", b.Node).Remedy = "write for example node: \"22\" or node: 22.12.0"
	}
	if b.Node != "" && b.Variant != "full" {
		l.fail(s.at("node"), "Node.js in a %s base", b.Variant).Remedy = "write variant: full"
	}
	if b.Go != "" && b.Variant != "full" {
		l.fail(s.at("go"), "a toolchain in a %s base", b.Variant).Remedy = "write variant: full"
	}
}

// checkLock finds the lock; one that is not named may not be there yet.
func (l *loader) checkLock(s source, b *Base) {
	named := b.Lock != ""
	if !named {
		b.Lock = "locks/" + b.Name + ".json"
	}
	b.LockPath = path.Join("bases", b.Lock)
	if !fs.ValidPath(b.LockPath) || path.IsAbs(b.Lock) {
		l.fail(s.at("lock"), "%s is outside the catalog", b.Lock).Remedy = "keep the lock in the catalog, for example " + "locks/" + b.Name + ".json"
		return
	}
	if _, err := fs.Stat(l.fsys, b.LockPath); err != nil && named {
		l.fail(s.at("lock"), "there is no file %s", path.Join(l.name, b.LockPath)).Remedy = "make it with drydock base update " + b.Name
	}
}

// checkPlatforms wants at least one platform, each once, all linux.
func (l *loader) checkPlatforms(s source, ps []artifact.Platform) {
	if len(ps) == 0 {
		l.fail(s.at("platforms"), "no platforms").Remedy = "write for example platforms: [linux/amd64]"
	}
	for i, p := range ps {
		at := s.at("platforms", strconv.Itoa(i))
		if slices.Contains(ps[:i], p) {
			l.fail(at, "platform %s is there twice", p).Remedy = "remove one of them"
		}
		if p.OS != "linux" {
			l.fail(at, "platform %s is not built", p).Remedy = "only linux platforms are"
		}
	}
}

// userinfo is where a URL, even one that cannot be parsed, carries credentials:
// errors end up in logs.
var userinfo = regexp.MustCompile(`//[^/]*@`)

// checkURL says what is wrong with a mirror's URL.
func checkURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "not a URL"
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return "not an http or https URL"
	case u.User != nil:
		return "credentials in the catalog"
	}
	return ""
}
