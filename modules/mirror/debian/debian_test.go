package debian

import (
	"os/exec"
	"strings"
	"testing"
)

const sampleRelease = `Origin: Debian
Label: Debian
Suite: oldstable
Version: 12.11
Codename: bookworm
Date: Sat, 17 May 2025 08:48:57 UTC
Valid-Until: Sat, 24 May 2025 08:48:57 UTC
Acquire-By-Hash: yes
Architectures: all amd64 arm64
Components: main contrib
Description: Debian 12.11
MD5Sum:
 0ed6d4c8891eb86358b94bb35d9e4da4  1484322 main/binary-amd64/Packages.xz
SHA256:
 2f87d06c5a4df4ffbd3a06bd0b6a5d1d3d2c38b9b4ca0e4a8ac5c7a0b0b0b0b0  1484322 main/binary-amd64/Packages.xz
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-all/Packages
`

const samplePackages = `Package: libc6
Source: glibc
Version: 2.36-9+deb12u10
Architecture: amd64
Multi-Arch: same
Priority: optional
Section: libs
Installed-Size: 12987
Depends: libgcc-s1
Recommends: libidn2-0 (>= 2.0.5~)
Description: GNU C Library: Shared libraries
 some words
 .
 more
Filename: pool/main/g/glibc/libc6_2.36-9+deb12u10_amd64.deb
Size: 2757000
SHA256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa

Package: bash
Essential: yes
Source: bash-src (5.2.15-2)
Version: 5.2.15-2+b8
Architecture: amd64
Pre-Depends: libc6 (>= 2.36), libtinfo6 (>= 6)
Filename: pool/main/b/bash/bash_5.2.15-2+b8_amd64.deb
Size: 1490000
SHA256: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
`

func TestCompare(t *testing.T) {
	for _, c := range versionPairs {
		if got := sign(Compare(c.a, c.b)); got != c.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := sign(Compare(c.b, c.a)); got != -c.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

var versionPairs = []struct {
	a, b string
	want int
}{
	{"1.0", "1.0", 0}, {"1.0-0", "1.0", 0}, {"0:1.0", "1.0", 0}, {"1.00", "1.0", 0},
	{"1.0~rc1", "1.0", -1}, {"1.0~~", "1.0~", -1}, {"1.0~~a", "1.0~", -1}, {"1.0", "1.0a", -1},
	{"1.0a", "1.0+", -1}, {"1.0+b1", "1.0+b2", -1}, {"1:0.1", "9.9", 1}, {"1.2.10", "1.2.9", 1},
	{"2.36-9+deb12u10", "2.36-9+deb12u9", 1}, {"1.0-1", "1.0-1~bpo12+1", 1}, {"1.0-1", "1.0-1.1", -1},
	{"99999999999999999999999", "100000000000000000000000", -1}, {"a-b-1", "a-b-2", -1}, {"1.0-a", "1.0-1", 1},
	{"7.6p2-4", "7.6-0", 1}, {"1.0.3-3", "1.0-1", 1}, {"2.0.7pre1-4", "2.0.7r-1", -1}, {"", "0", 0},
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// TestCompareAsDpkg asks the reference about each pair.
func TestCompareAsDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("no dpkg on this host to compare with")
	}
	for _, c := range versionPairs {
		for op, want := range map[string]bool{"lt": c.want < 0, "eq": c.want == 0, "gt": c.want > 0} {
			if c.a == "" || strings.HasPrefix(c.a, "a-") {
				continue // dpkg refuses what policy forbids; the order is still total
			}
			got := exec.Command(dpkg, "--compare-versions", c.a, op, c.b).Run() == nil
			if got != want {
				t.Errorf("dpkg says %s %s %s is %v", c.a, op, c.b, got)
			}
		}
	}
}

func TestParseRelease(t *testing.T) {
	r, err := ParseRelease(strings.NewReader(sampleRelease))
	if err != nil {
		t.Fatal(err)
	}
	if r.Codename != "bookworm" || !r.AcquireByHash || len(r.Architectures) != 3 || len(r.Files) != 2 {
		t.Errorf("parsed %+v", r)
	}
	if r.ValidUntil.Sub(r.Date).Hours() != 7*24 {
		t.Errorf("valid until %s, dated %s", r.ValidUntil, r.Date)
	}
	if f := r.Files["main/binary-amd64/Packages.xz"]; f.Size != 1484322 || f.SHA256[:4] != "2f87" {
		t.Errorf("file %+v", f)
	}
	for name, bad := range map[string]string{
		"empty":        "",
		"no date":      "Origin: x\nSHA256:\n " + strings.Repeat("a", 64) + " 1 f\n",
		"no checksums": "Date: Sat, 17 May 2025 08:48:57 UTC\n",
		"short sum":    "Date: Sat, 17 May 2025 08:48:57 UTC\nSHA256:\n abc 1 f\n",
		"minus size":   "Date: Sat, 17 May 2025 08:48:57 UTC\nSHA256:\n " + strings.Repeat("a", 64) + " -1 f\n",
		"html":         "<html><body>login</body></html>",
	} {
		if _, err := ParseRelease(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParsePackages(t *testing.T) {
	ps, err := ParsePackages(strings.NewReader(samplePackages))
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) != 2 {
		t.Fatalf("%d packages", len(ps))
	}
	libc, bash := ps[0], ps[1]
	if libc.Source != "glibc" || libc.SourceVersion != libc.Version || libc.MultiArch != "same" || libc.InstalledSize != 12987 || libc.Essential {
		t.Errorf("libc6 %+v", libc)
	}
	if bash.Source != "bash-src" || bash.SourceVersion != "5.2.15-2" || !bash.Essential || bash.Size != 1490000 {
		t.Errorf("bash %+v", bash)
	}
	for name, change := range map[string][2]string{
		"path escapes": {"pool/main/g", "pool/../../etc"},
		"absolute":     {"pool/main/g", "/pool/main/g"},
		"no sum":       {"SHA256: aaa", "SHA256: xaa"},
		"no size":      {"Size: 2757000", "Size: many"},
	} {
		if _, err := ParsePackages(strings.NewReader(strings.Replace(samplePackages, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseDependencies(t *testing.T) {
	d, err := ParseDependencies("libc6 (>= 2.36), python3:any | perl (<< 5.40~), default-mta | mail-transport-agent,\n foo (= 1:2.0-1)")
	if err != nil {
		t.Fatal(err)
	}
	if want := "libc6 (>= 2.36), python3:any | perl (<< 5.40~), default-mta | mail-transport-agent, foo (= 1:2.0-1)"; d.String() != want {
		t.Errorf("got %s", d)
	}
	if r := d[0][0]; !r.Satisfies("2.36-9") || r.Satisfies("2.35") {
		t.Errorf("%s: satisfied wrongly", r)
	}
	if r := d[1][1]; !r.Satisfies("5.36") || r.Satisfies("5.40~") {
		t.Errorf("%s: satisfied wrongly", r)
	}
	for _, bad := range []string{"a b", "a (>= )", "a (~ 1)", "a (>= 1", "|", "a [amd64]", "a (>= 1) x", "(>= 1)"} {
		if _, err := ParseDependencies(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func FuzzCompare(f *testing.F) {
	for _, c := range versionPairs {
		f.Add(c.a, c.b)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if sign(Compare(a, b)) != -sign(Compare(b, a)) {
			t.Errorf("order of %q and %q is not antisymmetric", a, b)
		}
		if Compare(a, a) != 0 {
			t.Errorf("%q differs from itself", a)
		}
	})
}

func FuzzParseDependencies(f *testing.F) {
	f.Add("libc6 (>= 2.36), python3:any | perl (<< 5.40~)")
	f.Add("a (= 1), b | c")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDependencies(s)
		if err != nil {
			return
		}
		again, err := ParseDependencies(d.String())
		if err != nil || again.String() != d.String() {
			t.Errorf("%q does not survive a round trip: %q, %v", d, again, err)
		}
	})
}

func FuzzParsePackages(f *testing.F) {
	f.Add(samplePackages)
	f.Fuzz(func(t *testing.T, s string) {
		ps, err := ParsePackages(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, p := range ps {
			if strings.Contains("/"+p.Filename+"/", "/../") || len(p.SHA256) != 64 || p.Size <= 0 {
				t.Errorf("accepted %+v", p)
			}
		}
	})
}

func FuzzParseRelease(f *testing.F) {
	f.Add(sampleRelease)
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRelease(strings.NewReader(s)); err == nil && len(r.Files) == 0 {
			t.Error("a Release without checksums was accepted")
		}
	})
}
