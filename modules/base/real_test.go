package base

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/base/layout"
	"drydock/modules/engine"
	"drydock/modules/mirror"
	"drydock/modules/steprun/steptest"
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
func realBuilder(t *testing.T, store string) *Builder {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what needs this machine's mirrors")
	}
	set, err := mirror.Discover(context.Background(), mirror.Config{}, mirror.Host{Environ: os.Environ()}, store)
	check(t, err)
	if _, err := set.Endpoint(mirror.Debian); err != nil {
		t.Skipf("this machine has no Debian mirror: %v", err)
	}
	dir := t.TempDir()
	var client *dagger.Client
	return &Builder{
		Mirrors: set, CacheDir: filepath.Join(dir, "bases"), Log: func(l string) { t.Log(l) },
		Engine: func(ctx context.Context) (*dagger.Client, error) {
			if client != nil {
				return client, nil
			}
			// not TempDir: without root, what steps made belongs to subordinate ids
			state, err := os.MkdirTemp("", "drydock-base-*")
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { check(t, errors.Join(steptest.RemoveState(state), os.RemoveAll(state))) })
			e, err := engine.Connect(ctx, engine.Config{
				Kind: engine.KindEmbedded, CacheDir: state, Environ: os.Environ(), Gateway: gateway(t, set, dir),
			})
			if err != nil {
				return nil, err
			}
			t.Logf("engine %s, tier %s", e.Kind, e.Tier)
			t.Cleanup(func() { check(t, e.Close()) })
			client = e.Client
			return client, nil
		},
	}
}

// gateway serves the mirrors to steps and gives its socket.
func gateway(t *testing.T, set *mirror.Set, dir string) string {
	t.Helper()
	short, err := os.MkdirTemp("", "gw") // socket paths are short
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(short)) })
	socket := filepath.Join(short, "s")
	l, err := net.Listen("unix", socket)
	check(t, err)
	g := mirror.NewGateway(set, mirror.GatewayOptions{CacheDir: dir})
	go func() { _ = g.Serve(l) }() // ends when the gateway closes
	t.Cleanup(func() { check(t, g.Close()) })
	return socket
}

// needEngine skips where no step can run.
func needEngine(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what builds in the engine")
	}
	report, err := engine.Probe(context.Background(), t.TempDir(), os.Environ())
	if err != nil || report.Tier == "" {
		t.Skipf("this machine cannot run the embedded engine: %v %+v", err, report)
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
	b := realBuilder(t, store)
	first, err := b.Update(ctx, spec, nil)
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
// and installs a package in it through the gateway.
func TestRealFull(t *testing.T) {
	needEngine(t)
	store := t.TempDir()
	ctx := realContext(t)
	spec := Spec{
		Name: "whole", Kind: KindDebian, Variant: VariantFull,
		Platforms: []artifact.Platform{{OS: "linux", Architecture: "amd64"}},
	}
	b := realBuilder(t, store)
	first, err := b.Update(ctx, spec, nil)
	check(t, err)
	// That it is the same bytes from an empty state, and for an ordinary user,
	// the end-to-end tests hold for every shipped base.
	second, err := b.Build(ctx, spec, first.Lock)
	check(t, err)
	if first.Digest != second.Digest || !second.Cached {
		t.Errorf("first %s, second %s, cached %v", first.Digest, second.Digest, second.Cached)
	}
	headers, bodies := files(t, second, "linux/amd64")
	for name := range headers {
		if strings.HasPrefix(name, "dev/") || strings.HasPrefix(name, workDir) || strings.HasPrefix(name, "var/lib/apt/lists/") && name != "var/lib/apt/lists/partial" {
			t.Errorf("%s is left in the base", name)
		}
	}
	if !strings.Contains(bodies["etc/apt/sources.list.d/debian.sources"], "http://mirror.drydock.internal/debian/") {
		t.Error("apt in the base does not know the gateway")
	}
	for _, dir := range manDirs() {
		if headers[dir] == nil {
			t.Errorf("no %s, where packages' scripts make links", dir)
		}
	}
	installInside(ctx, t, b, second)
}

// editSources is what Dockerfiles do before they ask for what is not free, and for
// sources.
const editSources = `set -e; sed -i 's/^Types: deb$/Types: deb deb-src/; s/^Components: main$/Components: main contrib/' /etc/apt/sources.list.d/debian.sources
`

// installInside uses apt in the base as a Dockerfile would.
func installInside(ctx context.Context, t *testing.T, b *Builder, r *Result) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "base.tar")
	check(t, layout.Archive(r.Layout, image))
	client, err := b.Engine(ctx)
	check(t, err)
	out, err := client.Container(dagger.ContainerOpts{Platform: "linux/amd64"}).Import(client.Host().File(image)).
		WithExec([]string{"sh", "-c", editSources + "apt-get update && apt-get install -y hello && hello"}).Stdout(ctx)
	check(t, err)
	if !strings.HasSuffix(strings.TrimSpace(out), "Hello, world!") {
		t.Errorf("apt and the program said:\n%s", out)
	}
}
