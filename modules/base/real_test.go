package base

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/modules/mirror"
)

// TestMain lets the engine re-execute this test as its child.
func TestMain(m *testing.M) {
	if handled, code := engine.Child(os.Args); handled {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// realBuilder builds with this machine's mirrors and engine, in a directory of
// its own. The mirror's files may be shared between builders: what they serve
// is verified by digest.
func realBuilder(t *testing.T, files string) *Builder {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what needs this machine's mirrors")
	}
	set, err := mirror.Discover(context.Background(), mirror.Config{}, mirror.Host{Environ: os.Environ()}, files)
	check(t, err)
	if _, err := set.Endpoint(mirror.Debian); err != nil {
		t.Skipf("this machine has no Debian mirror: %v", err)
	}
	dir := t.TempDir()
	return &Builder{
		Mirrors: set, CacheDir: filepath.Join(dir, "bases"), Log: func(l string) { t.Log(l) },
		Engine: func(ctx context.Context) (*dagger.Client, error) {
			e, err := engine.Connect(ctx, engine.Config{Kind: "embedded", CacheDir: filepath.Join(dir, "cache"), Environ: os.Environ()})
			if err != nil {
				return nil, err
			}
			t.Logf("engine %s, tier %s", e.Kind, e.Tier)
			t.Cleanup(func() { check(t, e.Close()) })
			return e.Client, nil
		},
	}
}

func realContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestRealMinimal makes a minimal base of this machine's mirrors twice.
func TestRealMinimal(t *testing.T) {
	store := t.TempDir()
	ctx := realContext(t)
	spec := minimalSpec()
	first, err := realBuilder(t, store).Update(ctx, spec, nil)
	check(t, err)
	second, err := realBuilder(t, store).Build(ctx, spec, first.Lock)
	check(t, err)
	if first.Digest != second.Digest || second.Cached {
		t.Errorf("first %s, second %s", first.Digest, second.Digest)
	}
	headers, bodies := files(t, first, "linux/arm64")
	if headers["usr/lib/ld-linux-aarch64.so.1"] == nil || strings.Count(bodies[bundlePath], "BEGIN CERTIFICATE") < 50 {
		t.Error("no loader, or hardly any certificates")
	}
}

// TestRealFull configures a full base in the engine twice, from empty state,
// and a Go toolchain on top.
func TestRealFull(t *testing.T) {
	store := t.TempDir()
	ctx := realContext(t)
	spec := Spec{
		Name: "whole", Kind: KindDebian, Variant: VariantFull,
		Platforms: []artifact.Platform{{OS: "linux", Architecture: "amd64"}},
	}
	b := realBuilder(t, store)
	first, err := b.Update(ctx, spec, nil)
	check(t, err)
	second, err := realBuilder(t, store).Build(ctx, spec, first.Lock)
	check(t, err)
	if first.Digest != second.Digest || second.Cached {
		t.Errorf("first %s, second %s", first.Digest, second.Digest)
	}
}
