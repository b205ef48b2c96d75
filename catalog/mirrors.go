package catalog

import "strings"

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
