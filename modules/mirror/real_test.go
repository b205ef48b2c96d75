package mirror

import (
	"context"
	"os"
	"testing"
	"time"

	"drydock/modules/artifact"
)

// realSet is the mirrors of the machine the tests run on.
func realSet(t *testing.T) *Set {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what needs this machine's mirrors")
	}
	s, err := Discover(context.Background(), Config{}, Host{Environ: os.Environ()}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func realContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestRealDebian goes from apt's configuration to a package by hash.
func TestRealDebian(t *testing.T) {
	s, ctx := realSet(t), realContext(t)
	if _, err := s.Endpoint(Debian); err != nil {
		t.Skipf("this machine has no Debian mirror: %v", err)
	}
	sources, err := s.Debian(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range sources {
		t.Logf("%s: suites %v, signed with %s, public %v", src.Archive, src.Suites, src.Keyring, src.Public)
		for _, suite := range src.Suites {
			ps, err := s.Packages(ctx, src, suite, src.Components[0], "amd64")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %s: %d packages", src.Archive, suite, len(ps))
		}
	}
	src := sources[0]
	ps, err := s.Packages(ctx, src, src.Suites[0], "main", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if p.Name != "tzdata" {
			continue
		}
		blob, err := s.Fetch(ctx, Request{Ecosystem: Debian, Path: src.Archive + "/" + p.Filename, SHA256: artifact.Digest("sha256:" + p.SHA256), Size: p.Size})
		if err != nil {
			t.Fatal(err)
		}
		if blob.Material.PURL == "" || blob.Material.Size != p.Size {
			t.Errorf("material %+v", blob.Material)
		}
		return
	}
	t.Error("no tzdata in the archive")
}

// TestRealGo fetches a module and has the checksum database confirm it.
func TestRealGo(t *testing.T) {
	s, ctx := realSet(t), realContext(t)
	if _, err := s.Endpoint(Go); err != nil {
		t.Skipf("this machine has no Go mirror: %v", err)
	}
	blob, err := s.FetchGoModule(ctx, "golang.org/x/sync", "v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if blob.Material.PURL != "pkg:golang/golang.org/x/sync@v0.1.0" {
		t.Errorf("purl %s", blob.Material.PURL)
	}
	if err := s.VerifyGo(ctx, "golang.org/x/sync", "v0.1.0", "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="); err == nil {
		t.Error("a wrong hash was confirmed")
	}
}

// TestRealNpm fetches a package's metadata.
func TestRealNpm(t *testing.T) {
	s, ctx := realSet(t), realContext(t)
	e, err := s.Endpoint(Npm)
	if err != nil {
		t.Skipf("this machine has no npm mirror: %v", err)
	}
	if _, err := s.Fetch(ctx, Request{Ecosystem: Npm, Path: "left-pad"}); err != nil {
		t.Fatal(err)
	}
	t.Logf("from %s, public %v", e.Source, e.Public)
}
