package mirror

import (
	"context"
	"net/url"
	"path"
	"strings"
)

// StandIn is a place that lockfiles, sources and flags of clients name whatever
// a company's mirror is, as the default registries of clients are in theirs.
// What is asked for there is answered by the mirror of an ecosystem, as the
// gateway's own addresses are; nothing of it leaves for that place.
type StandIn struct {
	Prefix string // host/path/, as it is named, whatever the scheme
	Path   string // npm, go, go/sumdb/NAME, pypi/simple, pypi/files, pypi/json, debian or debian-security
}

// of is the ecosystem, and the path below it that the place is.
func (k StandIn) of() (ecosystem, rel string) {
	if k.Path == "debian-security" {
		return Debian, "security"
	}
	ecosystem, rel, _ = strings.Cut(k.Path, "/")
	if rel != "" {
		rel += "/"
	}
	return ecosystem, rel
}

// standInRoute is what of a mirror an address stands for.
func (g *Gateway) standInRoute(ctx context.Context, u *url.URL) (route, bool) {
	if portOf(u) != "" {
		return route{}, false
	}
	hostPath := strings.ToLower(u.Hostname()) + u.Path
	for _, k := range g.set.cfg.StandsFor {
		rest, ok := strings.CutPrefix(hostPath, k.Prefix)
		if !ok || rest == "" || !g.answersFor(ctx, k) {
			continue
		}
		rest = u.Path[len(u.Path)-len(rest):] // as it was written
		ecosystem, rel := k.of()
		switch {
		case ecosystem == Debian:
			return route{Debian, g.standIn(ctx, rel) + "/" + rest}, true
		case ecosystem == PyPI && rel == "files/":
			rest = pypiProject(path.Base(rest)) + "/" + path.Base(rest)
		}
		return route{ecosystem, rel + rest}, true
	}
	return route{}, false
}

// isStoodInFor says whether a host has places that a mirror answers for.
func (g *Gateway) isStoodInFor(ctx context.Context, host string) bool {
	for _, k := range g.set.cfg.StandsFor {
		if known, _, _ := strings.Cut(k.Prefix, "/"); strings.EqualFold(known, host) && g.answersFor(ctx, k) {
			return true
		}
	}
	return false
}

// answersFor says whether a mirror is configured that can answer for a place.
func (g *Gateway) answersFor(ctx context.Context, k StandIn) bool {
	ecosystem, rel := k.of()
	if ecosystem == Debian {
		return g.standIn(ctx, rel) != ""
	}
	ups, err := g.set.upstreams(ctx, ecosystem)
	return err == nil && len(ups) > 0
}

// standIn names the archive that has Debian's releases, or with kind "security"
// their security updates; "" when none does.
func (g *Gateway) standIn(ctx context.Context, kind string) string {
	sources, err := g.set.Debian(ctx)
	for _, a := range g.set.archives {
		if err == nil && !isVerified(sources, a) {
			continue
		}
		for _, suite := range a.suites {
			if _, is := splitSuite(suite); is == kind {
				return a.name
			}
		}
	}
	return ""
}

// pypiProject is the project a file is of, by its name: a wheel's begins with it
// (PEP 427), an sdist's version is what follows the last dash (PEP 625).
func pypiProject(file string) string {
	of := strings.TrimSuffix(file, ".metadata")
	name, _, _ := strings.Cut(of, "-")
	if i := strings.LastIndexByte(of, '-'); i > 0 && !strings.HasSuffix(of, ".whl") {
		name = of[:i]
	}
	return pypiName(name)
}
