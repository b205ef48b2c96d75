package line

import (
	"runtime"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

func TestEmulation(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the catalog's emulators are for linux/amd64")
	}
	l := shipped(t, nil)
	e, err := l.emulation.get()
	if err != nil || e.problem != nil || e.locked.Of("arm64") == nil {
		t.Fatalf("the shipped emulators: %+v, %v", e, err)
	}
	to := e.forEngine(l.builder())["arm64"]
	if to.SHA256 != e.locked.Of("arm64").SHA256 || !strings.HasSuffix(to.Path, to.SHA256) {
		t.Errorf("the engine is told %+v", to)
	}
	// what runs nothing foreign fetches nothing
	img, _ := l.cfg.Catalog.Image("crane")
	m, err := l.emulators(&engine.Engine{Kind: engine.KindEmbedded}, img, &img.Variants[0], artifact.Platform{OS: "linux", Architecture: "arm64"})
	if err != nil || len(m) != 0 {
		t.Errorf("crane, which is cross-compiled: %+v, %v", m, err)
	}

	// a lock that is not of what is asked for
	l = shipped(t, nil)
	want := *l.cfg.Catalog.Emulators
	want.Package = "qemu-user"
	l.cfg.Catalog.Emulators = &want
	_, err = l.emulator(artifact.Platform{OS: "linux", Architecture: "arm64"})
	if err == nil || !strings.Contains(err.Error(), "of package qemu-user-static") || len(artifact.Remedies(err)) == 0 {
		t.Errorf("got %v", err)
	}

	// none at all: the engine refuses
	l = shipped(t, nil)
	l.cfg.Catalog.Emulators = nil
	if m, err := l.emulator(artifact.Platform{OS: "linux", Architecture: "arm64"}); err != nil || m != nil {
		t.Errorf("got %+v, %v", m, err)
	}
	if e, err := l.emulation.get(); err != nil || e.forEngine(l.builder()) != nil {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestStaticOnly(t *testing.T) {
	arm := artifact.Platform{OS: "linux", Architecture: "arm64"}
	l := shipped(t, nil)
	embedded, dagger := &engine.Engine{Kind: engine.KindEmbedded}, &engine.Engine{Kind: engine.KindDagger}
	for _, c := range []struct {
		e      *engine.Engine
		native string
		want   string
	}{
		{embedded, "linux/arm64", ""},
		{embedded, "linux/amd64", "tests: true in emulators.yaml"},
		{dagger, "linux/amd64", "cannot execute linux/arm64"},
	} {
		got, err := l.staticOnly(c.e, c.native, arm)
		if err != nil || (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s on %s: %q, %v", c.e.Kind, c.native, got, err)
		}
	}
}
