package onboard

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"drydock/catalog"
)

// program is what upstream has images of and Debian packages of.
type program struct {
	images   []string            // the last part of their names
	versions map[string][]string // by release of Debian
	runtime  string              // a package that a base to run on has, "" for none; VERSION is put in
	packages func(n need, version string) []string
	env      func(version string) string
	caution  string // what is not as in upstream's image
}

// programs are those init knows, beside Go and Node.js.
var programs = []program{
	{
		images:   []string{"python"},
		versions: map[string][]string{"bullseye": {"3.9"}, "bookworm": {"3.11"}, "trixie": {"3.13"}},
		runtime:  "python3", packages: pythonPackages,
		env:     func(string) string { return "{LANG: C.UTF-8, PIP_BREAK_SYSTEM_PACKAGES: \"1\"}" },
		caution: "Debian's: pip installs to dist-packages",
	},
	{
		images:   []string{"nginx", "nginx-unprivileged"},
		versions: map[string][]string{"bullseye": {"1.18"}, "bookworm": {"1.22"}, "trixie": {"1.26"}},
		runtime:  "nginx", packages: func(need, string) []string { return []string{"nginx"} },
		caution: "Debian's: as www-data, its site is /var/www/html at port 80; bring a configuration",
	},
	{
		images:   []string{"openjdk", "eclipse-temurin", "amazoncorretto", "temurin"},
		versions: map[string][]string{"bullseye": {"11", "17"}, "bookworm": {"17"}, "trixie": {"21", "25"}},
		runtime:  "openjdk-VERSION-jre-headless",
		packages: func(_ need, v string) []string {
			return []string{"ca-certificates-java", "openjdk-" + v + "-jdk-headless"}
		},
		env:     func(v string) string { return "{JAVA_HOME: /usr/lib/jvm/java-" + v + "-openjdk-amd64, LANG: C.UTF-8}" },
		caution: "Debian's OpenJDK",
	},
}

// pythonPackages are what an image of python brings: one that is not slim also
// what extensions are built with.
func pythonPackages(n need, _ string) []string {
	out := []string{"python-is-python3", "python3-pip", "python3-venv"}
	if !n.small() {
		out = append(out, "g++", "git", "libc6-dev", "libffi-dev", "libssl-dev", "make", "pkg-config", "python3-dev")
	}
	return out
}

// program is what an image is of; nil for others.
func (n need) program() *program {
	if strings.Contains(n.name, "distroless/") {
		return nil
	}
	for i, p := range programs {
		if slices.Contains(p.images, path.Base(n.name)) {
			return &programs[i]
		}
	}
	return nil
}

var leadingVersion = regexp.MustCompile(`^\d+(\.\d+)*`)

// version is which of Debian's versions an image may be replaced by; "" none. A
// tag without a version takes the newest.
func (p *program) version(n need, release string) string {
	wanted := leadingVersion.FindString(n.tag)
	have := p.versions[release]
	if wanted == "" && len(have) > 0 {
		return have[len(have)-1]
	}
	for _, v := range have {
		if wanted == v || strings.HasPrefix(wanted, v+".") || strings.HasPrefix(v, wanted+".") {
			return v
		}
	}
	return ""
}

// suiteOf is the release of Debian that a catalog's bases are of; "" when nothing
// says it.
func suiteOf(c *catalog.Catalog) string {
	for _, b := range c.Bases {
		if b.Kind != "debian" {
			continue
		}
		if b.Suite != "" {
			return b.Suite
		}
		for _, ref := range b.StandsFor {
			if is := newNeed(ref); is.name == "debian" && is.suite() != "" && !strings.Contains(is.tag, "*") {
				return is.suite()
			}
		}
	}
	return ""
}

// proposeProgram is a base with what Debian has of a program: one to run on that
// the catalog has where no commands run, else one with a shell and apt.
func proposeProgram(c *catalog.Catalog, n need) (file, text string, ok bool) {
	p, release := n.program(), suiteOf(c)
	i := slices.IndexFunc(c.Bases, plainDebian)
	if p == nil || n.apk || i < 0 || p.version(n, release) == "" {
		return "", "", false
	}
	version := p.version(n, release)
	caution := "   # " + p.caution
	if leadingVersion.FindString(n.tag) == "" {
		caution += "; " + n.tag + " names no version, this is " + version
	}
	packages := slices.Clone(c.Bases[i].Packages)
	for _, one := range append(p.packages(n, version), n.lacks(c.Bases[i])...) {
		if !slices.Contains(packages, one) {
			packages = append(packages, one)
		}
	}
	if file := n.standing(c, release, strings.ReplaceAll(p.runtime, "VERSION", version), packages); file != "" {
		return file, fmt.Sprintf("standsFor: [%q]%s\n", n.want, caution), true
	}
	name := p.images[0] + "-" + version
	if n.small() {
		name += "-slim"
	}
	if _, taken := c.Base(name); taken {
		name += "-full" // the catalog has one to run on
	}
	more := ""
	if suite := c.Bases[i].Suite; suite != "" {
		more = fmt.Sprintf("suite: %s\n", suite)
	}
	more += fmt.Sprintf("platforms: [linux/amd64]\npackages: [%s]\n", strings.Join(packages, ", "))
	if p.env != nil {
		more += fmt.Sprintf("env: %s\n", p.env(version))
	}
	return "bases/" + name + ".yaml", fmt.Sprintf(
		"version: 1\nname: %s\nkind: debian\nvariant: full\n%sstandsFor: [%q]%s\nstate: active\n", name, more, n.want, caution), true
}

// standing is the file of a base that has a program: to run on, or all packages.
func (n need) standing(c *catalog.Catalog, release, runtime string, packages []string) string {
	for _, b := range c.Bases {
		lacks := func(one string) bool { return !slices.Contains(b.Packages, one) }
		toRun := !n.runs && b.Variant == "minimal" && !lacks(runtime)
		toBuild := b.Variant == "full" && b.Go == "" && b.Node == "" && !slices.ContainsFunc(packages, lacks)
		if b.Kind == "debian" && (toRun || toBuild) && ofSuite(b, release) {
			return b.File
		}
	}
	return ""
}

// small says whether a tag is of an image without what code is built with.
func (n need) small() bool {
	return strings.Contains(n.tag, "slim") || strings.Contains(n.tag, "alpine")
}

// why says in words what keeps Debian from standing in for an image.
func (n need) why(c *catalog.Catalog) string {
	p, release := n.program(), suiteOf(c)
	switch {
	case n.apk:
		return "its RUN calls apk, which no Debian base has"
	case p != nil && release != "":
		return fmt.Sprintf("Debian %s has %s %s, not %s", release, p.images[0], strings.Join(p.versions[release], " and "), n.tag)
	case strings.Contains(n.want, "/windows/") || strings.HasPrefix(path.Base(n.name), "nanoserver"):
		return "it is for Windows"
	}
	return ""
}
