package base

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

// program is an ELF file of no code; dynamic ones ask for an interpreter.
func program(dynamic bool, text string) string {
	h := make([]byte, 64, 64+56+len(text))
	copy(h, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(h[16:], 2)  // executable
	le.PutUint16(h[18:], 62) // amd64
	le.PutUint32(h[20:], 1)
	le.PutUint16(h[52:], 64)
	if dynamic {
		le.PutUint64(h[32:], 64) // program headers follow
		le.PutUint16(h[54:], 56)
		le.PutUint16(h[56:], 1)
		p := make([]byte, 56)
		p[0] = 3 // PT_INTERP
		h = append(h, p...)
	}
	return string(h) + text
}

func qemuDeb(version, arch string, bodies map[string]string) testDeb {
	d := testDeb{name: "qemu-user-static", version: version, arch: arch, bodies: bodies, compression: "xz"}
	for _, name := range []string{"usr/bin/qemu-aarch64", "usr/bin/qemu-aarch64-static", "usr/bin/qemu-s390x", "usr/bin/qemu-s390x-static", "usr/bin/qemu-x86_64-static"} {
		if _, ok := bodies[name]; ok {
			d.entries = append(d.entries, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755})
		}
	}
	return d
}

var (
	amd64 = artifact.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = artifact.Platform{OS: "linux", Architecture: "arm64"}
	s390x = artifact.Platform{OS: "linux", Architecture: "s390x"}
)

func emulatorSpec() EmulatorSpec {
	return EmulatorSpec{
		Package: "qemu-user-static", Platforms: []artifact.Platform{amd64, arm64},
		Emulate: []artifact.Platform{amd64, arm64, s390x}, Place: "cat/emulators.yaml",
	}
}

func qemuArchive(t *testing.T) *archive {
	t.Helper()
	a := newArchive(t)
	a.add(
		qemuDeb("7.2", "amd64", map[string]string{
			"usr/bin/qemu-aarch64":        program(true, "not static"),
			"usr/bin/qemu-aarch64-static": program(false, "aarch64 on amd64"),
			"usr/bin/qemu-s390x":          program(false, "s390x on amd64"),
		}),
		qemuDeb("7.2", "arm64", map[string]string{
			"usr/bin/qemu-s390x-static":  program(false, "s390x on arm64"),
			"usr/bin/qemu-x86_64-static": program(false, "amd64 on arm64"),
		}))
	a.publish()
	return a
}

func TestEmulators(t *testing.T) {
	a := qemuArchive(t)
	ctx := context.Background()
	b := a.builder()
	lock, err := b.ResolveEmulators(ctx, emulatorSpec())
	check(t, err)
	if why := lock.Fits(emulatorSpec()); why != "" {
		t.Error(why)
	}
	raw, err := lock.Marshal()
	check(t, err)
	lock, err = ParseEmulatorLock(raw, "emulators.lock.json")
	check(t, err)
	if on := lock.On("amd64"); on == nil || on.Of("amd64") != nil || on.Of("s390x").Path != "usr/bin/qemu-s390x" || lock.On("arm64").Of("amd64") == nil {
		t.Errorf("got %s", raw)
	}

	m, err := b.Emulator(ctx, lock.On("amd64"), "arm64")
	check(t, err)
	if m.PURL != "pkg:deb/debian/qemu-user-static@7.2?arch=amd64" || m.Digest.Hex() != lock.On("amd64").Package.SHA256 || m.URL == "" {
		t.Errorf("material %+v", m)
	}
	file := b.EmulatorFile(*lock.On("amd64").Of("arm64"))
	text, err := os.ReadFile(file)
	check(t, err)
	info, err := os.Stat(file)
	check(t, err)
	if string(text) != program(false, "aarch64 on amd64") || info.Mode().Perm() != 0o755 {
		t.Errorf("got %q, mode %v", text, info.Mode())
	}
	asked := a.requests()
	again, err := b.Emulator(ctx, lock.On("amd64"), "arm64")
	if check(t, err); again != m || a.requests() != asked {
		t.Errorf("the second time: %+v, %d requests", again, a.requests()-asked)
	}
	left, err := filepath.Glob(filepath.Join(b.CacheDir, "emulators", "*.new"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestEmulatorsThatCannotBeHad(t *testing.T) {
	a := qemuArchive(t)
	ctx := context.Background()
	b := a.builder()
	bad := func(change func(*EmulatorSpec), message string) {
		t.Helper()
		spec := emulatorSpec()
		change(&spec)
		_, err := b.ResolveEmulators(ctx, spec)
		var e *artifact.Error
		if !errors.As(err, &e) || e.Place != "cat/emulators.yaml" || !strings.Contains(err.Error(), message) || e.Remedy == "" {
			t.Errorf("got %v, want %s", err, message)
		}
	}
	bad(func(s *EmulatorSpec) { s.Package = "qemu-none" }, "has no package qemu-none")
	bad(func(s *EmulatorSpec) {
		s.Emulate = append(s.Emulate, artifact.Platform{OS: "linux", Architecture: "riscv64"})
	}, "no static emulator of riscv64")

	lock, err := b.ResolveEmulators(ctx, emulatorSpec())
	check(t, err)
	wrong := *lock.On("amd64")
	wrong.Emulators = []LockedEmulator{{Architecture: "arm64", Path: "usr/bin/qemu-aarch64-static", SHA256: strings.Repeat("0", 64), Size: 80}}
	if _, err := b.Emulator(ctx, &wrong, "arm64"); err == nil || !strings.Contains(err.Error(), "not the file that is locked") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(b.EmulatorFile(wrong.Emulators[0])); err == nil {
		t.Error("another file than the locked one was kept")
	}
	if _, err := b.Emulator(ctx, lock.On("amd64"), "riscv64"); err == nil {
		t.Error("an emulator that is not locked was found")
	}
	gone := *lock.On("amd64")
	gone.Package.SHA256, gone.Package.Path = strings.Repeat("1", 64), "pool/main/gone.deb"
	_, err = b.Emulator(ctx, &gone, "arm64")
	if remedies := artifact.Remedies(err); err == nil || len(remedies) == 0 || remedies[0] != updateEmulators {
		t.Errorf("got %v, %q", err, remedies)
	}
}

func TestEmulatorLockIsStrict(t *testing.T) {
	const pkg = `"package":{"name":"q","version":"1","architecture":"amd64","archive":"debian","path":"pool/q.deb","sha256":"%s","size":1}`
	good := `{"version":1,"package":"q","suite":"s","platforms":[{"platform":"linux/amd64",` +
		strings.Replace(pkg, "%s", strings.Repeat("a", 64), 1) + `,"emulators":[{"architecture":"arm64","path":"usr/bin/q","sha256":"` + strings.Repeat("b", 64) + `","size":5}]}]}`
	if _, err := ParseEmulatorLock([]byte(good), "x"); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		`"version":1,"package":"q"`: `"version":2,"package":"q"`, `"suite":"s"`: `"suite":"s","more":1`, `"pool/q.deb"`: `"../q.deb"`,
		`"usr/bin/q"`: `"/usr/bin/q"`, `"arm64","path"`: `"a/b","path"`, strings.Repeat("b", 64): "b", `"debian"`: `"a/b"`, `"size":5`: `"size":0`,
		`{"version":1`: `{"version":0`, `"suite"`: `suite`,
	} {
		_, err := ParseEmulatorLock([]byte(strings.Replace(good, from, to, 1)), "place")
		var e *artifact.Error
		if !errors.As(err, &e) || e.Place != "place" || e.Remedy == "" {
			t.Errorf("%s: got %v", to, err)
		}
	}
}
