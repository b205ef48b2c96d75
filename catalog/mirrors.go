package catalog

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

var (
	gitHostPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*(:\d+)?(/[A-Za-z0-9._~-]+)*$`)
	hexPattern     = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

// UnmarshalYAML reads one URL or a list.
func (u *URLs) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*u = URLs{n.Value}
		return nil
	}
	return n.Decode((*[]string)(u))
}

func (l *loader) loadMirrors() {
	m := &l.cat.Mirrors
	s, ok := l.read("mirrors.yaml", m)
	if !ok {
		return
	}
	m.Place = s.place
	settings := [...]*Setting{&m.Debian, &m.Go, &m.Npm, &m.OCI, &m.PyPI}
	for i, key := range [...]string{"debian", "go", "npm", "oci", "pypi"} {
		set := settings[i]
		set.Auto = len(set.URLs) == 0
		for _, u := range set.URLs {
			if problem := checkURL(u); problem != "" {
				l.fail(s.at(key), "%s: %s", userinfo.ReplaceAllString(u, "//…@"), problem).Remedy = "write auto, or the mirror's http or https URL without credentials (those belong in netrc, apt's auth.conf or npmrc)"
			}
		}
	}
	l.checkGit(s, m.Git)
	l.checkFiles(s, m.Files)
	l.checkStandIns(s, m.StandsFor)
	if problem := checkSnapshot(m.Snapshot); m.Snapshot != "" && problem != "" {
		l.fail(s.at("snapshot"), "%s: %s", userinfo.ReplaceAllString(m.Snapshot, "//…@"), problem).Remedy = "write the address of a Debian mirror that keeps snapshots, as http://snapshot.example/archive/{archive}/{timestamp}"
	}
	if m.VulnDB == "" {
		m.VulnDB = "auto"
	}
}

// checkSnapshot says what is wrong with a template of snapshots' addresses.
func checkSnapshot(template string) string {
	filled := strings.NewReplacer("{archive}", "debian", "{timestamp}", "20060102T150405Z", "{date}", "20060102").Replace(template)
	switch {
	case strings.ContainsAny(filled, "{}"):
		return "it has another part in braces than {archive}, {timestamp} and {date}"
	case !strings.Contains(template, "{timestamp}") && !strings.Contains(template, "{date}"):
		return "it does not say where the time goes"
	}
	return checkURL(filled)
}

// checkGit checks where git repositories are mirrored.
func (l *loader) checkGit(s source, git map[string]URLs) {
	for _, host := range slices.Sorted(maps.Keys(git)) {
		if !gitHostPattern.MatchString(host) {
			l.fail(s.at("git", host), "%q is not a host", host).Remedy = "write the host Dockerfiles name, or host/path, without a scheme"
		}
		l.checkURLs(s.at("git", host), git[host])
	}
}

var (
	standInPlace  = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[A-Za-z0-9._~-]+)*/$`)
	standInAnswer = regexp.MustCompile(`^(npm|go|go/sumdb/[a-z0-9.-]+|pypi/simple|pypi/files|pypi/json|debian|debian-security)$`)
)

// checkStandIns checks the places that mirrors answer for.
func (l *loader) checkStandIns(s source, places map[string]string) {
	for _, place := range slices.Sorted(maps.Keys(places)) {
		if !standInPlace.MatchString(place) {
			l.fail(s.at("standsFor", place), "%q is not a place", userinfo.ReplaceAllString(place, "//…@")).Remedy = "write host/ or host/path/ as lockfiles name it, without a scheme, in lower case, with a slash at its end"
		}
		if !standInAnswer.MatchString(places[place]) {
			l.fail(s.at("standsFor", place), "%q is no mirror that could answer", places[place]).Remedy = "write npm, go, go/sumdb/NAME, pypi/simple, pypi/files, pypi/json, debian or debian-security"
		}
	}
}

func (l *loader) checkURLs(place string, urls URLs) {
	if len(urls) == 0 {
		l.fail(place, "no URL").Remedy = "write the mirror's http or https URL"
	}
	for _, u := range urls {
		if problem := checkURL(u); problem != "" {
			l.fail(place, "%s: %s", userinfo.ReplaceAllString(u, "//…@"), problem).Remedy = "write the mirror's http or https URL without credentials (those belong in netrc)"
		}
	}
}

// checkFiles checks prefixes and checksums, and fills in where files come from.
func (l *loader) checkFiles(s source, files []Files) {
	for i := range files {
		f, n := &files[i], strconv.Itoa(i)
		if problem := checkURL(f.Prefix); problem != "" || !strings.HasSuffix(f.Prefix, "/") || strings.ContainsAny(f.Prefix, "?#") {
			l.fail(s.at("files", n, "prefix"), "%q is not a prefix of URLs", userinfo.ReplaceAllString(f.Prefix, "//…@")).Remedy = "write it as https://host/path/, with a slash at its end"
			continue
		}
		if f.From == nil {
			f.From = URLs{f.Prefix}
		}
		l.checkURLs(s.at("files", n, "from"), f.From)
		for _, path := range slices.Sorted(maps.Keys(f.SHA256)) {
			if !hexPattern.MatchString(f.SHA256[path]) {
				l.fail(s.at("files", n, "sha256", path), "%q is not a sha256", f.SHA256[path]).Remedy = "write 64 lower-case hex digits"
			}
		}
	}
}
