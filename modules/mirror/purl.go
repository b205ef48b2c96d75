package mirror

import (
	"net/url"
	"path"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// purl names the package a mirror's file is, as package-url does; "" for files
// that are no package.
func purl(ecosystem, rel string) string {
	if e, ok := ecosystemOf(ecosystem); ok && e.purl != nil {
		return e.purl(rel)
	}
	return ""
}

// debianPURL reads name_version_arch.deb. The epoch is not in a file's name.
func debianPURL(rel string) string {
	base, ok := strings.CutSuffix(path.Base(rel), ".deb")
	f := strings.Split(base, "_")
	if !ok || len(f) != 3 {
		return ""
	}
	return "pkg:deb/debian/" + escape(strings.ToLower(f[0])) + "@" + escape(f[1]) + "?arch=" + url.QueryEscape(f[2])
}

func goPURL(rel string) string {
	mod, version, kind := splitGo(rel)
	if kind != ".zip" && kind != ".mod" {
		return ""
	}
	return "pkg:golang/" + escapeAll(mod) + "@" + escape(version)
}

// splitGo reads "<module>/@v/<version><kind>", unescaped; kind is "" for
// anything but a file of a canonical version.
func splitGo(rel string) (mod, version, kind string) {
	emod, file, ok := strings.Cut(rel, "/@v/")
	if !ok {
		return "", "", ""
	}
	kind = path.Ext(file)
	mod, err := module.UnescapePath(emod)
	if err != nil {
		return "", "", ""
	}
	version, err = module.UnescapeVersion(strings.TrimSuffix(file, kind))
	if err != nil || module.CanonicalVersion(version) != version || !semver.IsValid(version) {
		return "", "", ""
	}
	switch kind {
	case ".zip", ".mod", ".info":
		return mod, version, kind
	}
	return "", "", ""
}

// npmPURL reads "<name>/-/<file>-<version>.tgz".
func npmPURL(rel string) string {
	name, file, ok := strings.Cut(rel, "/-/")
	base := path.Base(name)
	version, isTar := strings.CutSuffix(file, ".tgz")
	version, named := strings.CutPrefix(version, base+"-")
	if !ok || !isTar || !named || strings.Contains(version, "/") {
		return ""
	}
	return "pkg:npm/" + escapeAll(name) + "@" + escape(version)
}

func ociPURL(rel string) string {
	name, digest, ok := strings.Cut(strings.TrimPrefix(rel, "v2/"), "/manifests/")
	if !ok || !strings.HasPrefix(digest, "sha256:") {
		return ""
	}
	return "pkg:oci/" + escape(path.Base(name)) + "@" + url.QueryEscape(digest)
}

// escapeAll escapes each element of a path.
func escapeAll(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	return strings.Join(parts, "/")
}

// escape is percent-encoding of everything but package-url's plain characters.
func escape(s string) string {
	var b strings.Builder
	const hexDigits = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', strings.IndexByte(".-_~:", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

// mutable says whether a mirror's file may change under its name.
func mutable(ecosystem, rel string) bool {
	e, ok := ecosystemOf(ecosystem)
	return !ok || e.mutable == nil || e.mutable(rel)
}

func debianMutable(rel string) bool {
	return !strings.HasPrefix(rel, "pool/") && !strings.Contains(rel, "/by-hash/")
}

func goMutable(rel string) bool {
	if strings.HasPrefix(rel, "sumdb/") {
		return !strings.Contains(rel, "/tile/") && !strings.Contains(rel, "/lookup/")
	}
	_, _, kind := splitGo(rel)
	return kind == ""
}

func npmMutable(rel string) bool { return !strings.HasSuffix(rel, ".tgz") }

func ociMutable(rel string) bool { return !strings.Contains(rel, "sha256:") }
