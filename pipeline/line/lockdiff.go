package line

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"drydock/modules/mirror/lockfile"
)

// Change is one package a new lock has in another version than the old one.
type Change struct {
	Type    string   `json:"type"` // deb, golang, npm, …
	Package string   `json:"package"`
	Old     []string `json:"old"` // versions, none when it is new
	New     []string `json:"new"` // versions, none when it is gone
}

// String is a line for people.
func (c Change) String() string {
	list := func(v []string, none string) string {
		if len(v) == 0 {
			return none
		}
		return strings.Join(v, ", ")
	}
	return c.Type + " " + c.Package + " " + list(c.Old, "(new)") + " -> " + list(c.New, "(gone)")
}

// Changes lists the packages that differ between two locks; either may be nil.
func Changes(old, now *lockfile.Lock) []Change {
	return changesOf(packagesOf(old), packagesOf(now))
}

// changesOf compares versions by type and name.
func changesOf(before, after map[[2]string][]string) []Change {
	out := []Change{}
	add := func(key [2]string) {
		o, n := before[key], after[key]
		if !slices.Equal(o, n) {
			out = append(out, Change{Type: key[0], Package: key[1], Old: append([]string{}, o...), New: append([]string{}, n...)})
		}
	}
	for key := range after {
		add(key)
	}
	for key := range before {
		if _, both := after[key]; !both {
			add(key)
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Package, b.Package))
	})
	return out
}

// packagesOf are the versions of a lock's packages by type and name.
func packagesOf(l *lockfile.Lock) map[[2]string][]string {
	out := map[[2]string][]string{}
	if l == nil {
		return out
	}
	for _, m := range l.Materials {
		kind, name, version, ok := splitPURL(m.PURL)
		if !ok || strings.HasSuffix(m.Path, ".mod") {
			continue // a go.mod file is read for many versions nobody builds with
		}
		key := [2]string{kind, name}
		if !slices.Contains(out[key], version) {
			out[key] = append(out[key], version)
		}
	}
	for _, v := range out {
		slices.Sort(v)
	}
	return out
}

// splitPURL reads "pkg:type/name@version?qualifiers" (package-url/purl-spec).
func splitPURL(purl string) (kind, name, version string, ok bool) {
	rest, isPURL := strings.CutPrefix(purl, "pkg:")
	rest, _, _ = strings.Cut(rest, "?")
	at := strings.LastIndex(rest, "@")
	slash := strings.Index(rest, "/")
	if !isPURL || at < 0 || slash < 0 || slash > at {
		return "", "", "", false
	}
	kind, name, version = rest[:slash], rest[slash+1:at], rest[at+1:]
	if kind == "deb" {
		_, name, _ = strings.Cut(name, "/")
	}
	if n, err := url.PathUnescape(name); err == nil {
		name = n
	}
	if v, err := url.PathUnescape(version); err == nil {
		version = v
	}
	return kind, name, version, true
}
