package base

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
	"drydock/modules/base/layout"
)

// readJSON reads a blob of a layout.
func readJSON(t *testing.T, dir string, d artifact.Digest, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", d.Hex()))
	check(t, err)
	check(t, json.Unmarshal(data, into))
}

// files is what the layers of one platform hold, by path.
func files(t *testing.T, r *Result, platform string) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	var m v1.Manifest
	readJSON(t, r.Layout, r.Platforms[platform], &m)
	headers, bodies := map[string]*tar.Header{}, map[string]string{}
	for _, l := range m.Layers {
		f, err := os.Open(filepath.Join(r.Layout, "blobs", "sha256", artifact.Digest(l.Digest).Hex()))
		check(t, err)
		z, err := gzip.NewReader(f)
		check(t, err)
		tr := tar.NewReader(z)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			check(t, err)
			body, err := io.ReadAll(tr)
			check(t, err)
			name := strings.TrimSuffix(h.Name, "/")
			headers[name], bodies[name] = h, string(body)
		}
		check(t, f.Close())
	}
	return headers, bodies
}

func TestMinimal(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	ctx := context.Background()
	r, err := a.builder().Build(ctx, minimalSpec(), nil)
	check(t, err)
	if r.Lock.Digest != r.Digest || len(r.Platforms) != 2 || r.Lock.Epoch != a.date.Unix() || len(r.Changed) != 1 {
		t.Fatalf("got %+v, lock %+v", r, r.Lock)
	}
	if len(r.Materials) != 12 || r.Materials[0].PURL == "" || r.Materials[0].Digest == "" {
		t.Errorf("materials: %+v", r.Materials)
	}
	headers, bodies := files(t, r, "linux/arm64")
	for name, want := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "etc/os-release": "../usr/lib/os-release", "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
	} {
		if h := headers[name]; h == nil || h.Linkname != want {
			t.Errorf("%s: %+v, want a link to %s", name, h, want)
		}
	}
	if bodies["usr/lib/libc.so.6"] != "libc arm64" || headers["lib64"] != nil {
		t.Errorf("libc of the wrong platform, or lib64 on arm64")
	}
	if !strings.Contains(bodies[bundlePath], "BEGIN CERTIFICATE") {
		t.Error("no certificate bundle")
	}
	if headers["usr/bin/mount-like"].Mode&0o6000 != 0 || headers["usr/bin/twin"].Linkname != "usr/bin/mount-like" {
		t.Error("a file kept its set-user-id bit, or a hard link was lost")
	}
	for _, gone := range []string{"usr/bin/ldd", "usr/share/doc/tzdata/changelog.gz", "bin/sh", "var/lib/dpkg/info/base-files.postinst"} {
		if headers[gone] != nil {
			t.Errorf("%s is there", gone)
		}
	}
	if headers["tmp"].Mode != 0o1777 || headers["var/mail"].Mode != 0o2775 || headers["usr/share/doc/tzdata/copyright"] == nil {
		t.Error("folder modes or the copyright file were lost")
	}
	for name, h := range headers {
		if h.ModTime.Unix() != a.date.Unix() || h.Uname != "" {
			t.Errorf("%s: time %v, owner %q", name, h.ModTime, h.Uname)
		}
	}
	statusOK(t, bodies)
}

// statusOK reads the dpkg database as scanners do.
func statusOK(t *testing.T, bodies map[string]string) {
	t.Helper()
	stanzas := strings.Split(strings.TrimSpace(bodies["var/lib/dpkg/status"]), "\n\n")
	if len(stanzas) != 6 {
		t.Fatalf("%d packages in the status file", len(stanzas))
	}
	for _, s := range stanzas {
		if !strings.HasPrefix(s, "Package: ") || !strings.Contains(s, "\nStatus: install ok installed\n") || !strings.Contains(s, "\nVersion: 1.0\n") {
			t.Errorf("stanza %q", s)
		}
	}
	if !strings.Contains(stanzas[0], "\nConffiles:\n /etc/debian_version ") {
		t.Errorf("no conffile in %q", stanzas[0])
	}
	if !strings.Contains(bodies["var/lib/dpkg/info/libc6:arm64.list"], "/lib/libc.so.6\n") {
		t.Error("no list of files of libc6")
	}
}

func TestConfiguration(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	spec := minimalSpec()
	spec.Env = map[string]string{"LANG": "C.UTF-8"}
	r, err := a.builder().Build(context.Background(), spec, nil)
	check(t, err)
	var index v1.Index
	readJSON(t, r.Layout, r.Digest, &index)
	if len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Fatalf("index %+v", index)
	}
	var m v1.Manifest
	readJSON(t, r.Layout, r.Platforms["linux/amd64"], &m)
	var c v1.Image
	readJSON(t, r.Layout, artifact.Digest(m.Config.Digest), &c)
	env := strings.Join(c.Config.Env, " ")
	if c.Config.User != "65532:65532" || !strings.Contains(env, "LANG=C.UTF-8") || !strings.Contains(env, "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt") {
		t.Errorf("configuration %+v", c.Config)
	}
	if c.Created.Unix() != a.date.Unix() || c.Config.Labels["org.opencontainers.image.title"] != "tiny" {
		t.Errorf("created %v, labels %v", c.Created, c.Config.Labels)
	}
}

// Same lock, two machines: the same digest. And once built, nothing is asked.
func TestSameDigestTwice(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	ctx := context.Background()
	first, err := a.builder().Build(ctx, minimalSpec(), nil)
	check(t, err)
	data, err := first.Lock.Marshal()
	check(t, err)
	lock, err := ParseLock(data, "tiny.json")
	check(t, err)
	other := a.builder()
	other.Locked = true
	second, err := other.Build(ctx, minimalSpec(), lock)
	check(t, err)
	if second.Digest != first.Digest || len(second.Changed) != 0 || second.Cached {
		t.Fatalf("first %s, second %s, changed %v", first.Digest, second.Digest, second.Changed)
	}
	before := a.requests()
	other.Mirrors = nil
	third, err := other.Build(ctx, minimalSpec(), lock)
	check(t, err)
	if !third.Cached || third.Digest != first.Digest || len(third.Materials) != 12 || a.requests() != before {
		t.Errorf("got %+v after %d more requests", third, a.requests()-before)
	}
}

// kindOf asserts that an error has a kind and its remedy.
func kindOf(t *testing.T, err error, kind artifact.Kind, parts ...string) {
	t.Helper()
	var e *artifact.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got %v, want an error of kind %d", err, kind)
	}
	text := err.Error() + "\n" + strings.Join(artifact.Remedies(err), "\n")
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not say %q", text, p)
		}
	}
}

func TestDrift(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	ctx := context.Background()
	old, err := a.builder().Build(ctx, minimalSpec(), nil)
	check(t, err)
	a.drop("tzdata")
	a.date = a.date.Add(time.Minute)
	a.add(testDeb{name: "tzdata", version: "2.0", arch: "all", entries: []tar.Header{regular("./usr/share/zoneinfo/Etc/UTC")}})
	a.publish()

	strict := a.builder()
	strict.Locked = true
	_, err = strict.Build(ctx, minimalSpec(), old.Lock)
	kindOf(t, err, artifact.KindFault, "drydock base update tiny", "tzdata 1.0")

	r, err := a.builder().Build(ctx, minimalSpec(), old.Lock)
	check(t, err)
	changed := strings.Join(r.Changed, "\n")
	if r.Digest == old.Digest || !strings.Contains(changed, "linux/amd64: tzdata 1.0 -> 2.0") || !strings.Contains(changed, "no longer serves") {
		t.Errorf("changed:\n%s", changed)
	}
	if r.Lock.Digest != r.Digest || old.Lock.Digest != old.Digest {
		t.Error("the new lock lacks its digest, or the old one was written to")
	}
}

func TestUpdate(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	ctx := context.Background()
	b := a.builder()
	first, err := b.Update(ctx, minimalSpec(), nil)
	check(t, err)
	// A release signed anew, with the same packages, makes no new base.
	a.date = a.date.Add(time.Minute)
	a.publish()
	again, err := a.builder().Update(ctx, minimalSpec(), first.Lock)
	check(t, err)
	if again.Digest != first.Digest || len(again.Changed) != 0 || again.Lock.Epoch != first.Lock.Epoch {
		t.Errorf("got %s, changed %v", again.Digest, again.Changed)
	}
	a.add(testDeb{name: "netbase", version: "1.1", arch: "all"})
	a.publish()
	next, err := a.builder().Update(ctx, minimalSpec(), first.Lock)
	check(t, err)
	if got := strings.Join(next.Changed, "\n"); !strings.Contains(got, "linux/arm64: netbase 1.0 -> 1.1") {
		t.Errorf("changed %q", got)
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name  string
		spoil func(*archive, *Spec)
		kind  artifact.Kind
		says  []string
	}{
		{"poisoned package", func(a *archive, _ *Spec) { a.poison("libc6") }, artifact.KindFault, []string{"libc6"}},
		{"missing file", func(a *archive, _ *Spec) { a.drop("netbase") }, artifact.KindFault, []string{"netbase 1.0"}},
		{"unknown package", func(_ *archive, s *Spec) { s.Packages = []string{"nosuch"} }, artifact.KindUsage, []string{"tiny: needs nosuch", "tiny.yaml:1"}},
		{"unmet dependency", func(a *archive, s *Spec) {
			a.add(testDeb{name: "app", version: "1", arch: "all", fields: "Depends: libfoo (>= 2)\n"}, testDeb{name: "libfoo", version: "1", arch: "all"})
			a.publish()
			s.Packages = []string{"app"}
		}, artifact.KindUsage, []string{"tiny -> app: needs libfoo (>= 2), the mirror has 1"}},
		{"other suite", func(_ *archive, s *Spec) { s.Suite = "sid" }, artifact.KindUsage, []string{"no suite sid"}},
		{"architecture without packages", func(_ *archive, s *Spec) {
			s.Platforms = []artifact.Platform{{OS: "linux", Architecture: "riscv64"}}
		}, artifact.KindUsage, []string{"riscv64"}},
		{"platform Debian does not have", func(_ *archive, s *Spec) {
			s.Platforms = []artifact.Platform{{OS: "linux", Architecture: "pdp11"}}
		}, artifact.KindUsage, []string{"no such architecture"}},
		{"full without engine", func(a *archive, s *Spec) {
			a.add(testDeb{name: "apt", version: "1", arch: "all"}, testDeb{name: "awk", version: "1", arch: "all"},
				testDeb{name: "openssl", version: "1", arch: "all"}, testDeb{name: "debconf", version: "1", arch: "all"},
				testDeb{name: "debian-archive-keyring", version: "1", arch: "all"})
			a.publish()
			s.Variant = VariantFull
		}, artifact.KindInternal, []string{"engine"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newArchive(t)
			a.add(core(t, "1.0")...)
			a.publish()
			spec := minimalSpec()
			c.spoil(a, &spec)
			b := a.builder()
			_, err := b.Build(ctx, spec, nil)
			kindOf(t, err, c.kind, c.says...)
			left, err := filepath.Glob(filepath.Join(b.CacheDir, ".*"))
			check(t, err)
			done, err := filepath.Glob(filepath.Join(b.CacheDir, "*.json"))
			check(t, err)
			if len(left)+len(done) > 0 {
				t.Errorf("left behind: %v %v", left, done)
			}
		})
	}
}

// A package whose own control file contradicts the signed index, or whose
// paths climb out, is refused although its digest is right.
func TestLyingPackages(t *testing.T) {
	for name, d := range map[string]testDeb{
		"climbs out":        {entries: []tar.Header{regular("../../etc/passwd")}},
		"two own the file":  {entries: []tar.Header{regular("./etc/services")}},
		"link to nothing":   {entries: []tar.Header{{Typeflag: tar.TypeLink, Name: "./x", Linkname: "./y"}}},
		"bad certificate":   {entries: []tar.Header{regular("./usr/share/ca-certificates/mozilla/Bad.crt")}},
		"two control parts": {fields: "Evil: yes\n\nPackage: other\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d.name, d.version, d.arch = "evil", "1", "all"
			a := newArchive(t)
			a.add(core(t, "1.0")...)
			a.add(d)
			a.publish()
			if r, err := a.builder().Build(context.Background(), minimalSpec("evil"), nil); err == nil {
				t.Errorf("accepted: %+v", r.Lock)
			}
		})
	}
}

func TestLockIsHeldAgainstResult(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	ctx := context.Background()
	r, err := a.builder().Build(ctx, minimalSpec(), nil)
	check(t, err)
	wrong := r.Lock.clone()
	wrong.Digest = artifact.Digest("sha256:" + strings.Repeat("0", 64))
	_, err = a.builder().Build(ctx, minimalSpec(), wrong)
	kindOf(t, err, artifact.KindInternal, string(wrong.Digest), string(r.Digest), "base update tiny")

	_, err = a.builder().Build(ctx, minimalSpec("extra"), r.Lock)
	kindOf(t, err, artifact.KindUsage, "packages", "base update tiny", "tiny.yaml:1")

	strict := a.builder()
	strict.Locked = true
	_, err = strict.Build(ctx, minimalSpec(), nil)
	kindOf(t, err, artifact.KindFault, "base update tiny")
}

// Layers that another version or another engine left under the same name are
// made anew, and do not stay.
func TestForeignLayers(t *testing.T) {
	a := newArchive(t)
	a.add(core(t, "1.0")...)
	a.publish()
	b := a.builder()
	good, err := b.Build(t.Context(), minimalSpec(), nil)
	check(t, err)
	fill := func() {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(b.CacheDir, "layers", "*.tar.gz"))
		if err != nil || len(found) == 0 {
			t.Fatalf("layers %q, %v", found, err)
		}
		for _, at := range found {
			other, err := layout.CompressLayer(at, func(w io.Writer) error {
				tw := tar.NewWriter(w)
				return errors.Join(tw.WriteHeader(&tar.Header{Name: "other", Mode: 0o644, Typeflag: tar.TypeReg}), tw.Close())
			})
			check(t, err)
			data, err := json.Marshal(other)
			check(t, err)
			check(t, os.WriteFile(recordOf(at), data, 0o644))
		}
		check(t, os.RemoveAll(good.Layout))
	}
	fill()
	again, err := b.Build(t.Context(), minimalSpec(), good.Lock)
	check(t, err)
	if again.Digest != good.Digest || again.Cached {
		t.Errorf("digest %s, not %s; cached %v", again.Digest, good.Digest, again.Cached)
	}
	fill()
	wrong := good.Lock.clone()
	wrong.Digest = artifact.Digest("sha256:" + strings.Repeat("0", 64))
	_, err = b.Build(t.Context(), minimalSpec(), wrong)
	kindOf(t, err, artifact.KindInternal, "the lock says")
	if left, _ := filepath.Glob(filepath.Join(b.CacheDir, "layers", "*.json")); len(left) > 0 {
		t.Errorf("layers that no lock agrees with stay: %q", left)
	}
}

func TestSweep(t *testing.T) {
	b := &Builder{CacheDir: t.TempDir()}
	old, fresh := filepath.Join(b.CacheDir, ".build-old"), filepath.Join(b.CacheDir, ".build-new")
	for _, dir := range []string{old, fresh} {
		check(t, os.MkdirAll(filepath.Join(dir, "layout"), 0o755))
	}
	check(t, os.Chtimes(old, time.Time{}, time.Now().Add(-2*abandoned)))
	b.sweep()
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("the fresh one: %v", err)
	}
}

func TestSpecRefusals(t *testing.T) {
	for name, spoil := range map[string]func(*Spec){
		"no name":          func(s *Spec) { s.Name = "" },
		"unknown kind":     func(s *Spec) { s.Kind = "alpine" },
		"unknown variant":  func(s *Spec) { s.Variant = "huge" },
		"image in debian":  func(s *Spec) { s.Image = "a@b" },
		"no platform":      func(s *Spec) { s.Platforms = nil },
		"platform twice":   func(s *Spec) { s.Platforms[1] = s.Platforms[0] },
		"other system":     func(s *Spec) { s.Platforms[0].OS = "windows" },
		"platform variant": func(s *Spec) { s.Platforms[0].Variant = "v7" },
	} {
		t.Run(name, func(t *testing.T) {
			spec := minimalSpec()
			spoil(&spec)
			_, err := (&Builder{}).Build(context.Background(), spec, nil)
			kindOf(t, err, artifact.KindUsage, "tiny.yaml:1")
		})
	}
}
