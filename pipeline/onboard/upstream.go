package onboard

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/dockerfile"
)

// What init knows of images many Dockerfiles build on.

var nodeVersion = regexp.MustCompile(`^\d+`)

// nodeLTS is proposed where a tag names no version: the newest with long support
// when this was written.
const nodeLTS = "24"

// nodeRelease is the major version a node image has, "" for other images.
func (n need) nodeRelease() string {
	if n.name != "node" && !strings.HasSuffix(n.name, "/library/node") {
		return ""
	}
	if v := nodeVersion.FindString(n.tag); v != "" {
		return v
	}
	if first, _, _ := strings.Cut(n.tag, "-"); slices.Contains([]string{"latest", "lts", "current", "alpine", "bookworm", "slim"}, first) {
		return nodeLTS
	}
	return ""
}

// nodeBuilds are the programs that packages with native code and those in git are
// built and fetched with, which an image of node has unless it is a slim one.
func (n need) nodeBuilds(f *dockerfile.File, line int) (out []string) {
	if n.nodeRelease() == "" || strings.Contains(n.tag, "slim") || strings.Contains(n.tag, "alpine") {
		return nil
	}
	if called, _ := f.Calls(line, []string{"npm", "npx", "yarn", "pnpm", "corepack"}); len(called) == 0 {
		return nil
	}
	for _, program := range []string{"g++", "git", "make", "python3"} {
		if !slices.Contains(n.programs, program) {
			out = append(out, program)
		}
	}
	return out
}

// proposeNode is a base with Node.js and the packages RUN needs besides.
func proposeNode(c *catalog.Catalog, n need) (file, text string, ok bool) {
	release := n.nodeRelease()
	i := slices.IndexFunc(c.Bases, func(b catalog.Base) bool {
		return b.Kind == "debian" && b.Variant == "full" && b.Go == "" && b.Node == ""
	})
	if i < 0 || release == "" || n.apk {
		return "", "", false
	}
	why := n.caution(c)
	if nodeVersion.FindString(n.tag) == "" {
		why = "   # " + n.tag + " names no version: say which you mean"
	}
	name := "node-" + release
	if strings.Contains(n.tag, "slim") || strings.Contains(n.tag, "alpine") {
		name += "-slim" // another may want what packages with native code are built with
	}
	if _, taken := c.Base(name); taken {
		name += "-full" // the catalog has one to run on, without npm
	}
	packages, env := append(slices.Clone(c.Bases[i].Packages), n.lacks(c.Bases[i])...), ""
	if slices.Contains(packages, "g++") {
		env = "env: {npm_config_build_from_source: \"true\"}   # prebuilt binaries lie where no mirror is\n"
	}
	return "bases/" + name + ".yaml", fmt.Sprintf(
		"version: 1\nname: %s\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\npackages: [%s]\nnode: %q\n%sstandsFor: [%q]%s\nstate: active\n",
		name, strings.Join(packages, ", "), release, env, n.want, why), true
}

var (
	debianRelease = map[string]string{"13": "trixie", "12": "bookworm", "11": "bullseye", "10": "buster"}
	debianTag     = regexp.MustCompile(`^(\d+|[a-z]+)(\.\d+)?(-\d{8})?(-slim)?$`)
	debianSuite   = regexp.MustCompile(`-(trixie|bookworm|bullseye|buster)\b`)
)

// suite is the Debian release an image of debian is, or another's tag names; ""
// when it does not say, or says stable or latest.
func (n need) suite() string {
	if n.name != "debian" {
		if m := debianSuite.FindStringSubmatch("-" + n.tag); m != nil {
			return m[1]
		}
		return ""
	}
	m := debianTag.FindStringSubmatch(n.tag)
	switch {
	case m == nil:
		return n.tag
	case debianRelease[m[1]] != "":
		return debianRelease[m[1]]
	case slices.Contains([]string{"latest", "stable"}, m[1]):
		return ""
	}
	return m[1]
}

// ofSuite says whether a base may stand for a Debian of that release: it is of it,
// or of the mirrors' and stands for it already, or none is known to be of it.
func ofSuite(b catalog.Base, suite string) bool {
	if suite == "" || b.Suite == suite {
		return true
	}
	said := b.Suite != ""
	for _, ref := range b.StandsFor {
		if is := newNeed(ref); is.name == "debian" && is.suite() != "" {
			if is.suite() == suite {
				return true
			}
			said = true
		}
	}
	return !said
}

// proposeDebian is a base like the catalog's, of another release of Debian.
func proposeDebian(c *catalog.Catalog, n need) (file, text string, ok bool) {
	suite := n.suite()
	i := slices.IndexFunc(c.Bases, func(b catalog.Base) bool { return plainDebian(b) })
	if n.name != "debian" || suite == "" || i < 0 || nameOf(suite) != suite {
		return "", "", false
	}
	name := "debian-" + suite
	return "bases/" + name + ".yaml", fmt.Sprintf(
		"version: 1\nname: %s\nkind: debian\nvariant: full\nsuite: %s   # the mirrors of mirrors.yaml have to serve it\nplatforms: [linux/amd64]\npackages: [%s]\nstandsFor: [%q]\nstate: active\n",
		name, suite, strings.Join(c.Bases[i].Packages, ", "), n.want), true
}

func plainDebian(b catalog.Base) bool {
	return b.Kind == "debian" && b.Go == "" && b.Node == "" && b.Variant == "full" && len(b.Packages) < 8
}

// fitsDistroless says which bases are as a distroless image is: static ones have
// no C library, the others have OpenSSL.
func (n need) fitsDistroless(c *catalog.Catalog) func(catalog.Base) bool {
	kind := "base"
	if strings.HasPrefix(path.Base(n.name), "static") {
		kind = "static"
	}
	like := func(b catalog.Base) bool {
		return slices.ContainsFunc(b.StandsFor, func(ref string) bool {
			is := newNeed(ref)
			return is.distroless() && strings.HasPrefix(path.Base(is.name), kind)
		})
	}
	variant := func(v string) func(catalog.Base) bool {
		return func(b catalog.Base) bool { return b.Go == "" && b.Node == "" && b.Variant == v }
	}
	switch {
	case kind == "static" && slices.ContainsFunc(c.Bases, variant("static")):
		return variant("static")
	case slices.ContainsFunc(c.Bases, like):
		return like
	}
	return variant("minimal")
}
