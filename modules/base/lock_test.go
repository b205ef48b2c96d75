package base

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

func sampleLock() *Lock {
	sum := strings.Repeat("a", 64)
	return &Lock{
		Version: 1, Name: "tiny", Kind: KindDebian, Variant: VariantMinimal, Suite: "test", Epoch: 1700000000,
		Digest:   artifact.Digest("sha256:" + sum),
		Archives: []LockedArchive{{Archive: "debian", Suites: []string{"test"}, Components: []string{"main"}}},
		Platforms: []LockedTarget{{
			Platform: artifact.Platform{OS: "linux", Architecture: "arm64"}, Digest: artifact.Digest("sha256:" + sum),
			Toolchain: &LockedToolchain{Module: toolchainModule, Version: "v0.0.1-go1.25.1.linux-arm64", Sum: "h1:x", SHA256: sum, Size: 1},
			Packages: []LockedPackage{
				{Name: "zlib1g", Version: "1:1.2", Architecture: "arm64", Archive: "debian", Path: "pool/main/z/zlib1g_1.2_arm64.deb", SHA256: sum, Size: 7},
				{Name: "base-files", Version: "12", Architecture: "all", Archive: "debian", Path: "pool/b.deb", SHA256: sum, Size: 7, Bootstrap: true},
			},
		}, {Platform: artifact.Platform{OS: "linux", Architecture: "amd64"}}},
	}
}

func TestLockRoundTrip(t *testing.T) {
	first, err := sampleLock().Marshal()
	check(t, err)
	path := filepath.Join(t.TempDir(), "tiny.json")
	check(t, os.WriteFile(path, first, 0o600))
	l, err := LoadLock(path)
	check(t, err)
	second, err := l.Marshal()
	check(t, err)
	if !bytes.Equal(first, second) {
		t.Errorf("got\n%s\nwant\n%s", second, first)
	}
	if l.Platforms[0].Platform.Architecture != "amd64" || l.Platforms[1].Packages[0].Name != "base-files" {
		t.Error("platforms or packages are not sorted")
	}
	if c := Changes(l, sampleLock()); len(c) != 0 {
		t.Errorf("changes %v", c)
	}
}

func TestLockRefusals(t *testing.T) {
	good, err := sampleLock().Marshal()
	check(t, err)
	for _, c := range []struct{ name, old, next, says string }{
		{"newer version", `"version": 1`, `"version": 4`, "use a newer drydock"},
		{"no version", `"version": 1`, `"version": 0`, "no version"},
		{"unknown field", `"name": "tiny"`, `"name": "tiny", "colour": "red"`, "colour"},
		{"not JSON", `{`, `[`, "base update tiny"},
		{"something after it", "\n}\n", "\n}\n{}", "after top-level value"},
		{"climbing path", "pool/b.deb", "pool/../../b.deb", "not a path"},
		{"absolute path", "pool/b.deb", "/pool/b.deb", "not a path"},
		{"address for a path", "pool/b.deb", "http://mirror/b.deb", "not a path"},
		{"archive with a path", `"archive": "debian",` + "\n          \"path\": \"pool/b.deb\"", `"archive": "a/b", "path": "pool/b.deb"`, "not a path"},
		{"short digest", `"sha256:` + strings.Repeat("a", 64), `"sha256:aa`, "sha256"},
		{"bad sum", strings.Repeat("a", 64), strings.Repeat("z", 64), "sha256"},
		{"before 1970", "1700000000", "-1", "before 1970"},
		{"no platform", "", "", "no platform"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := strings.Replace(string(good), c.old, c.next, 1)
			if c.name == "no platform" {
				data = `{"version":1,"name":"tiny","kind":"debian","epoch":1,"request":{},"platforms":[]}`
			}
			_, err := ParseLock([]byte(data), "tiny.json")
			kindOf(t, err, artifact.KindUsage, c.says, "tiny.json")
		})
	}
	_, err = LoadLock(filepath.Join(t.TempDir(), "gone.json"))
	kindOf(t, err, artifact.KindUsage, "drydock base update gone")
}

func TestChanges(t *testing.T) {
	next := sampleLock()
	next.sort()
	p := next.Platforms[1].Packages
	p[0].Version = "13"
	p[1].Name = "zlib2"
	next.Platforms[1].Toolchain.Version = "v0.0.1-go1.25.2.linux-arm64"
	next.Platforms[0].Platform.Architecture = "s390x"
	got := strings.Join(Changes(sampleLock(), next), "\n")
	want := `linux/s390x: new platform
linux/arm64: base-files 12 -> 13
linux/arm64: zlib2 added 1:1.2
linux/arm64: zlib1g dropped (was 1:1.2)
linux/arm64: go toolchain v0.0.1-go1.25.1.linux-arm64 -> v0.0.1-go1.25.2.linux-arm64
linux/amd64: platform dropped`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzParseLock(f *testing.F) {
	good, err := sampleLock().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock(data, "fuzz.json")
		if err != nil {
			return
		}
		once, err := l.Marshal()
		check(t, err)
		again, err := ParseLock(once, "fuzz.json")
		check(t, err)
		twice, err := again.Marshal()
		check(t, err)
		if !bytes.Equal(once, twice) {
			t.Errorf("%s\n%s", once, twice)
		}
	})
}
