package mirror

import (
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What clients ask tells which kind of mirror they take a place for, so that a
// refusal can say what lets the mirror that is there answer for it.

var (
	npmFile    = regexp.MustCompile(`^/(.+/)?[^/]+/-/[^/]+\.tgz$`)                                    // a tarball as npm's registries have it
	npmAgent   = regexp.MustCompile(`^(npm|yarn|pnpm|corepack|bun)/`)                                 // npm's clients
	simplePage = regexp.MustCompile(`^(/(?:.+/)?)[^/]*simple/[^/]+/?$`)                               // PEP 503
	pythonFile = regexp.MustCompile(`^/(.*)[^/]+(\.whl|\.whl\.metadata|-[0-9][^/]*\.(tar\.gz|zip))$`) // PEP 427, PEP 625
	pypiInfo   = regexp.MustCompile(`^/pypi/([^/]+)(/[^/]+)?/json$`)
	pypiAgent  = regexp.MustCompile(`^(pip|uv|poetry|pdm|pipenv|twine)/`)
	goModule   = regexp.MustCompile(`^(/.*)?/@(v/[^/]+|latest)$`)                             // the GOPROXY protocol
	goSums     = regexp.MustCompile(`^/(supported|latest|lookup/[^/]+.*@.+|tile/[0-9]+/.+)$`) // a checksum database
	nodeGyp    = regexp.MustCompile(`/node-v[0-9][^/]*-headers\.tar\.gz$`)                    // what node-gyp asks for
	debianFile = regexp.MustCompile(`^(/(?:.*/)?)(dists/.+/(In)?Release(\.gpg)?|dists/.+/(Packages|Sources).*|pool/.+\.(deb|dsc))$`)
)

// remedyFor says what to do about a request for what is no mirror's.
func remedyFor(r *http.Request) string {
	u, agent := requested(r), r.UserAgent()
	m, sums := simplePage.FindStringIndex(u.Path), goSums.MatchString(u.Path) && strings.HasPrefix(agent, "Go-http-client/")
	switch apt := debianFile.FindStringSubmatch(u.Path); {
	case npmFile.MatchString(u.Path), npmAgent.MatchString(agent), strings.Contains(r.Header.Get("Accept"), npmShort):
		return standIn(u, "npm", "/", "npm")
	case r.URL.Query().Get("go-get") == "1":
		return "the go command asks a module's own host where GOPRIVATE, GONOPROXY or GOPROXY=direct says so: leave it to the Go mirror " +
			"(which may have private modules, too), or mirror its repositories, git: {" + u.Host + ": …} in mirrors.yaml, and name them as host/path.git"
	case goModule.MatchString(u.Path):
		return standIn(u, "Go", goRoot(u.Path), "go")
	case sums:
		return standIn(u, "Go", "/", "go/sumdb/"+u.Hostname())
	case apt != nil && strings.Contains(path.Base(apt[1]), "security"):
		return standIn(u, "Debian", apt[1], "debian-security")
	case apt != nil:
		return standIn(u, "Debian", apt[1], "debian") + " (of another distribution or vendor: bring its packages into the build context)"
	case pypiInfo.MatchString(u.Path):
		return "poetry reads this of PyPI itself: " + standIn(u, "PyPI", "/pypi/", "pypi/json")
	case nodeGyp.MatchString(u.Path):
		return "node-gyp fetches Node.js' headers, which the image of a Node.js has: say where with ENV npm_config_nodedir=/usr/local (or the folder whose include/node they are), " +
			"or list them under files: in mirrors.yaml"
	case m != nil:
		return standIn(u, "PyPI", path.Dir(strings.TrimSuffix(u.Path, "/"))+"/", "pypi/simple") + "; the same of the host of its files, as pypi/files"
	case pythonFile.MatchString(u.Path) && (pypiAgent.MatchString(agent) || strings.HasPrefix(u.Path, "/packages/")):
		return standIn(u, "PyPI", filesRoot(u.Path), "pypi/files")
	}
	return remedyMirrorOnly
}

// standIn is what lets a mirror answer for a place.
func standIn(u *url.URL, mirror, prefix, what string) string {
	return "let the " + mirror + " mirror answer for it, in mirrors.yaml: standsFor: {" + u.Host + prefix + ": " + what + "}"
}

// goRoot is where a proxy begins: before the first part of a path that looks as a
// host does, as all but the standard library's module paths begin.
func goRoot(p string) string {
	parts := strings.Split(strings.TrimPrefix(p, "/"), "/")
	i := slices.IndexFunc(parts, func(s string) bool { return strings.Contains(s, ".") })
	if i <= 0 {
		return "/"
	}
	return "/" + strings.Join(parts[:i], "/") + "/"
}

// filesRoot is the first folder of a path.
func filesRoot(p string) string {
	first, _, ok := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	if !ok {
		return "/"
	}
	return "/" + first + "/"
}
