package onboard

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"drydock/catalog"
	"drydock/modules/dockerfile"
)

// usual are programs that upstream images of languages bring and Debian's bases
// do not, with the packages that have them.
var usual = []struct {
	program  string
	packages []string
}{
	{"make", []string{"make"}}, {"git", []string{"git"}}, {"curl", []string{"curl"}}, {"wget", []string{"wget"}},
	{"gcc", []string{"gcc", "libc6-dev"}}, {"cc", []string{"gcc", "libc6-dev"}}, {"g++", []string{"g++", "libc6-dev"}}, {"pkg-config", []string{"pkg-config"}},
	{"python3", []string{"python3"}},
}

// need is what a Dockerfile wants of one reference.
type need struct {
	ref  string // as written, arguments put in
	want string // as standsFor names it
	name string // of want, without the tag
	tag  string
	runs bool // commands run on it
	from bool // it is built on; else files are taken from it
	apk  bool // Alpine's package manager among them

	programs []string // of the usual ones, that they call
}

// wanted finds what a Dockerfile wants of a reference.
func wanted(f *dockerfile.File, r dockerfile.BaseRef) need {
	n := newNeed(r.Ref)
	if r.Instruction != "FROM" {
		return n // it is copied from
	}
	programs := []string{"apk"}
	for _, u := range usual {
		programs = append(programs, u.program)
	}
	n.from = true
	n.programs, n.runs = f.Calls(r.Line, programs)
	if i := slices.Index(n.programs, "apk"); i >= 0 {
		n.apk = true
		n.programs = slices.Delete(n.programs, i, i+1)
	}
	if path.Base(n.name) == "golang" && !strings.Contains(n.tag, "alpine") && !slices.Contains(n.programs, "gcc") && f.Sets(r.Line, "CGO_ENABLED", "1") {
		n.programs = append(n.programs, "gcc") // the go command calls it
	}
	n.programs = append(n.programs, n.nodeBuilds(f, r.Line)...)
	return n
}

func newNeed(ref string) need {
	n := need{ref: ref, want: catalog.Familiar(ref)}
	n.name, n.tag, _ = strings.Cut(n.want, ":")
	return n
}

// lacks lists the packages a base would need more for the programs called.
func (n need) lacks(b catalog.Base) []string {
	var out []string
	if !n.language() {
		return nil // its upstream image has none of them either
	}
	for _, u := range usual {
		if !slices.Contains(n.programs, u.program) {
			continue
		}
		for _, p := range u.packages {
			if !slices.Contains(b.Packages, p) && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// language says whether it is an image of those that bring the usual programs.
func (n need) language() bool {
	p := n.program()
	return path.Base(n.name) == "golang" || n.nodeRelease() != "" || p != nil && p.env != nil
}

// lacking is what a base that stands for a language's image, which has make and its
// like, needs more for what RUN calls: the base's file and the packages.
func (n need) lacking(c *catalog.Catalog, name string) (file, text string) {
	b, ok := c.Base(name)
	if !ok || !n.language() {
		return "", ""
	}
	if more := n.lacks(*b); len(more) > 0 {
		return b.File, morePackages + strings.Join(more, ", ") + "]\n"
	}
	return "", ""
}

// morePackages begins a proposal to add packages to a base that is there.
const morePackages = "packages: [..., "

var goVersion = regexp.MustCompile(`^1\.\d+`)

// proposeBase says what the catalog could have for a reference: another name
// for a base it has, a base like one it has, or the upstream image itself,
// mirrored by digest.
func proposeBase(c *catalog.Catalog, n need) (file, text string) {
	if b, ok := alike(c, n); ok && !n.apk && len(n.lacks(b)) == 0 {
		return b.File, fmt.Sprintf("standsFor: [%q]%s\n", n.want, n.caution(c))
	}
	if file, text, ok := proposeGo(c, n); ok {
		return file, text
	}
	if file, text, ok := proposeNode(c, n); ok {
		return file, text
	}
	if file, text, ok := proposeDebian(c, n); ok {
		return file, text
	}
	if file, text, ok := proposeProgram(c, n); ok {
		return file, text
	}
	short := path.Base(n.name)
	repository := n.name
	if !strings.Contains(repository, "/") {
		repository = "library/" + repository
	} else if host, rest, _ := strings.Cut(repository, "/"); strings.ContainsAny(host, ".:") {
		repository = rest
	}
	digest := unknownDigest
	if _, d, ok := strings.Cut(n.ref, "@"); ok {
		digest = d
	}
	why := n.why(c)
	if why != "" {
		why = "# " + strings.ToUpper(why[:1]) + why[1:] + ": this is upstream's image, mirrored.\n"
	}
	return "bases/" + nameOf(short+"-"+n.tag) + ".yaml", why + fmt.Sprintf(
		"version: 1\nname: %s\nkind: oci\nimage: %s@%s   # its digest at the OCI mirror of mirrors.yaml\nplatforms: [linux/amd64]\nstandsFor: [%q]\nstate: active\n",
		nameOf(short+"-"+n.tag), repository, digest, n.want)
}

// unknownDigest stands where only somebody who may ask upstream knows more.
const unknownDigest = "sha256:…"

// proposeGo is a base with a toolchain and the packages RUN needs besides.
func proposeGo(c *catalog.Catalog, n need) (file, text string, ok bool) {
	release := goRelease(c, n)
	i := slices.IndexFunc(c.Bases, func(b catalog.Base) bool { return b.Go != "" })
	if i < 0 || path.Base(n.name) != "golang" || release == "" || n.apk {
		return "", "", false
	}
	name := strings.ReplaceAll(strings.Join(append([]string{"golang-" + release}, n.programs...), "-"), "+", "x")
	packages := append(slices.Clone(c.Bases[i].Packages), n.lacks(c.Bases[i])...)
	return "bases/" + name + ".yaml", fmt.Sprintf(
		"version: 1\nname: %s\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\npackages: [%s]\ngo: %q\nenv: {GOTOOLCHAIN: local}\nstandsFor: [%q]%s\nstate: active\n",
		name, strings.Join(packages, ", "), release, n.want, n.caution(c)), true
}

// goRelease is the 1.N a golang image has; of one that names none the newest of
// the catalog's.
func goRelease(c *catalog.Catalog, n need) string {
	if release := goVersion.FindString(n.tag); release != "" || path.Base(n.name) != "golang" {
		return release
	}
	best := ""
	if first, _, _ := strings.Cut(n.tag, "-"); slices.Contains([]string{"latest", "1", "alpine", "bookworm", "stable"}, first) {
		for _, b := range c.Bases {
			if r := goVersion.FindString(b.Go); minor(r) > minor(best) {
				best = r
			}
		}
	}
	return best
}

func minor(release string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(release, "1."))
	if err != nil {
		return -1
	}
	return n
}

// caution says what is not as in the image a base is to stand for.
func (n need) caution(c *catalog.Catalog) string {
	switch {
	case n.tiny():
		return "   # Debian in its place, without a shell, as an ordinary user"
	case strings.Contains(n.tag, "alpine"):
		return "   # Debian in place of Alpine: apk in RUN will not work"
	case n.distroless() && n.debian() != "" && suiteOf(c) != "" && n.debian() != suiteOf(c):
		return "   # Debian " + suiteOf(c) + " in place of " + n.debian()
	case n.name == "debian" && n.suite() == "":
		return "   # " + n.tag + " moves: this is the release the catalog has"
	}
	return ""
}

// alike finds a base of the kind of an upstream image.
func alike(c *catalog.Catalog, n need) (catalog.Base, bool) {
	if i := slices.IndexFunc(c.Bases, n.fits(c)); i >= 0 {
		return c.Bases[i], true
	}
	return catalog.Base{}, false
}

// fits says which bases are of the kind.
func (n need) fits(c *catalog.Catalog) func(catalog.Base) bool {
	short := path.Base(n.name)
	switch release := goRelease(c, n); {
	case n.nodeRelease() != "":
		return func(b catalog.Base) bool { return b.Node != "" && nodeVersion.FindString(b.Node) == n.nodeRelease() }
	case short == "golang":
		return func(b catalog.Base) bool { return release != "" && goVersion.FindString(b.Go) == release }
	case n.name == "debian":
		return func(b catalog.Base) bool { return plainDebian(b) && ofSuite(b, n.suite()) }
	case n.distroless():
		return n.fitsDistroless(c)
	case n.tiny() && n.from && !n.runs:
		// What is put onto it finds a libc and authorities, as there.
		return func(b catalog.Base) bool {
			return b.Go == "" && b.Variant == "minimal" && slices.Contains(b.Packages, "ca-certificates") && slices.Contains(b.Packages, "libc6")
		}
	}
	return func(catalog.Base) bool { return false }
}

// tiny says whether it is an image with little more than a shell: alpine, busybox
// or one of others' that is named after it.
func (n need) tiny() bool {
	short := path.Base(n.name)
	return n.name == "alpine" || short == "busybox" || strings.HasPrefix(short, "busybox-")
}

func (n need) distroless() bool {
	short := path.Base(n.name)
	return strings.Contains(n.name, "distroless/") && !strings.Contains(n.tag, "debug") &&
		(strings.HasPrefix(short, "base") || strings.HasPrefix(short, "static") || strings.HasPrefix(short, "cc"))
}

var distrolessRelease = regexp.MustCompile(`-debian(\d+)$`)

// debian is the release a distroless image is of; "" when it does not say.
func (n need) debian() string {
	if m := distrolessRelease.FindStringSubmatch(path.Base(n.name)); m != nil {
		return debianRelease[m[1]]
	}
	return ""
}
