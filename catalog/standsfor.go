package catalog

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"drydock/modules/artifact"
)

// A base may stand for references of images elsewhere, so that a Dockerfile
// that builds on golang:1.26-bookworm needs no edit: it gets the base, and the
// provenance says so.

var standsForPattern = regexp.MustCompile(`^[a-z0-9*][A-Za-z0-9._/*-]*(:\d+/[A-Za-z0-9._/*-]+)?(:[A-Za-z0-9_*][A-Za-z0-9._*-]*)?$`)

func (l *loader) checkStandsFor(s source, b *Base) {
	for i, p := range b.StandsFor {
		if !standsForPattern.MatchString(p) {
			l.fail(s.at("standsFor", strconv.Itoa(i)), "%q is not a reference", p).Remedy = "write for example golang:1.26.*-bookworm; * is any text without / and -, and a digest is left out"
		}
	}
}

// Familiar is a reference as standsFor names it: without the registry and the
// folder that are left out as a rule, and without a digest where there is a
// tag. No tag is :latest.
func Familiar(ref string) string {
	for _, prefix := range []string{"index.", "docker.io/", "library/"} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok && (prefix != "index." || strings.HasPrefix(rest, "docker.io/")) {
			ref = rest
		}
	}
	name, digest, pinned := strings.Cut(ref, "@")
	if strings.LastIndex(name, ":") > strings.LastIndex(name, "/") {
		return name
	}
	if pinned {
		return name + "@" + digest // of which version nobody can tell
	}
	return name + ":latest"
}

// standIn finds the base that stands for a reference: of several the one whose
// pattern leaves the least open.
func (c *Catalog) standIn(ref string) (string, error) {
	want := Familiar(ref)
	best, how, open := "", "", 0
	for _, b := range c.Bases {
		for _, p := range b.StandsFor {
			if !standsFor(p, want) {
				continue
			}
			switch stars := strings.Count(p, "*")*1000 - len(p); {
			case best == "" || stars < open:
				best, how, open = b.Name, p, stars
			case stars == open && best != b.Name:
				return "", &artifact.Error{
					Kind: artifact.KindUsage, Message: fmt.Sprintf("bases %s (%s) and %s (%s) both stand for %s", best, how, b.Name, p, want),
					Remedy: "make the standsFor: of one of them narrower",
				}
			}
		}
	}
	if best == "" {
		return "", &artifact.Error{
			Kind: artifact.KindUsage, Message: fmt.Sprintf("%q is not in the catalog", ref),
			Remedy: "build on a base of the catalog" + nearest(ref, c.buildable()) + ", or let one stand for it: standsFor: [" + want + "]",
		}
	}
	return best, nil
}

func standsFor(pattern, ref string) bool {
	expr := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[^/-]*`)
	if strings.LastIndex(pattern, ":") <= strings.LastIndex(pattern, "/") {
		expr += ":latest"
	}
	ok, err := regexp.MatchString("^"+expr+"$", ref)
	return ok && err == nil
}
