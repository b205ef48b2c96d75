package base

import (
	"archive/zip"
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"drydock/modules/artifact"
	"drydock/modules/base/rootfs"
	"drydock/modules/mirror"
)

// upstream serves an index of three platforms and an attestation, as real
// images have them, and gives its address and digest.
func upstream(t *testing.T) (url string, d artifact.Digest, images map[string]v1.Hash) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	index := v1.ImageIndex(empty.Index)
	images = map[string]v1.Hash{}
	for _, p := range []v1.Platform{
		{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"},
		{OS: "linux", Architecture: "s390x"}, {OS: "unknown", Architecture: "unknown"},
	} {
		img, err := random.Image(512, 2)
		check(t, err)
		cfg, err := img.ConfigFile()
		check(t, err)
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
		img, err = mutate.ConfigFile(img, cfg)
		check(t, err)
		images[p.Architecture], err = img.Digest()
		check(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/library/thing:1")
	check(t, err)
	check(t, remote.WriteIndex(ref, index))
	h, err := index.Digest()
	check(t, err)
	return srv.URL, artifact.Digest(h.String()), images
}

func imageBuilder(t *testing.T, url string) *Builder {
	t.Helper()
	dir := t.TempDir()
	set, err := mirror.Discover(context.Background(), mirror.Config{OCI: mirror.Setting{URLs: []string{url}}},
		mirror.Host{Environ: []string{"HOME=" + dir}, Home: dir, EtcApt: dir}, filepath.Join(dir, "mirror"))
	check(t, err)
	return &Builder{Mirrors: set, CacheDir: filepath.Join(dir, "bases")}
}

func TestUpstreamImage(t *testing.T) {
	url, d, images := upstream(t)
	ctx := context.Background()
	for _, c := range []struct {
		name  string
		image artifact.Digest
		want  []artifact.Platform
		have  []string // platforms of the result
		root  artifact.Digest
	}{
		{"two of the index", d, []artifact.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}, []string{"linux/amd64", "linux/arm64"}, ""},
		{"all of the index", d, nil, []string{"linux/amd64", "linux/arm64", "linux/s390x"}, ""},
		{"one of the index", d, []artifact.Platform{{OS: "linux", Architecture: "s390x"}}, []string{"linux/s390x"}, artifact.Digest(images["s390x"].String())},
		{"a manifest", artifact.Digest(images["amd64"].String()), nil, []string{"linux/amd64"}, artifact.Digest(images["amd64"].String())},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := Spec{Name: "thing", Kind: KindOCI, Image: "library/thing@" + string(c.image), Platforms: c.want}
			r, err := imageBuilder(t, url).Build(ctx, spec, nil)
			check(t, err)
			if len(r.Platforms) != len(c.have) || c.root != "" && r.Digest != c.root {
				t.Errorf("got %s with %v", r.Digest, r.Platforms)
			}
			for _, p := range c.have {
				if r.Platforms[p] == "" {
					t.Errorf("no %s in %v", p, r.Platforms)
				}
			}
			if r.Platforms["linux/amd64"] != "" && r.Platforms["linux/amd64"].Hex() != images["amd64"].Hex {
				t.Error("the manifest is not the one upstream has")
			}
			again, err := imageBuilder(t, url).Build(ctx, spec, r.Lock)
			check(t, err)
			if again.Digest != r.Digest || len(again.Materials) < 4 || len(again.Changed) > 0 {
				t.Errorf("again: %+v", again)
			}
		})
	}
}

func TestUpstreamRefusals(t *testing.T) {
	url, d, _ := upstream(t)
	for name, spec := range map[string]Spec{
		"tag":              {Image: "library/thing:1"},
		"registry in it":   {Image: "registry.example:5000/library/thing@" + string(d)},
		"climbing":         {Image: "../thing@" + string(d)},
		"unknown digest":   {Image: "library/thing@sha256:" + strings.Repeat("0", 64)},
		"missing platform": {Image: "library/thing@" + string(d), Platforms: []artifact.Platform{{OS: "linux", Architecture: "riscv64"}}},
		"with packages":    {Image: "library/thing@" + string(d), Packages: []string{"curl"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec.Name, spec.Kind = "thing", KindOCI
			if r, err := imageBuilder(t, url).Build(context.Background(), spec, nil); err == nil {
				t.Errorf("accepted as %s", r.Digest)
			}
		})
	}
}

func TestNewestPatch(t *testing.T) {
	list := strings.Fields("v0.0.1-go1.25.9.linux-amd64 v0.0.1-go1.25.10.linux-amd64 v0.0.1-go1.25rc2.linux-amd64 " +
		"v0.0.1-go1.25.11.linux-arm64 v0.0.1-go1.2.99.linux-amd64 v0.0.1-go1.25.1-custom.linux-amd64 v0.0.1-go1.26rc1.linux-amd64")
	for language, want := range map[string]string{"1.25": "v0.0.1-go1.25.10.linux-amd64", "1.26": "", "1.2": "v0.0.1-go1.2.99.linux-amd64"} {
		if got := newestPatch(list, language, ".linux-amd64"); got != want {
			t.Errorf("%s: got %q, want %q", language, got, want)
		}
	}
}

func zipOf(t *testing.T, files map[string]string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "toolchain.zip")
	f, err := os.Create(p)
	check(t, err)
	z := zip.NewWriter(f)
	for name, body := range files {
		w, err := z.Create(name)
		check(t, err)
		_, err = w.Write([]byte(body))
		check(t, err)
	}
	check(t, z.Close())
	check(t, f.Close())
	return p
}

func TestAddToolchain(t *testing.T) {
	locked := &LockedToolchain{Module: toolchainModule, Version: "v0.0.1-go1.25.1.linux-amd64"}
	root := locked.Module + "@" + locked.Version + "/"
	for name, c := range map[string]struct {
		files map[string]string
		says  string
	}{
		"good":  {map[string]string{root + "bin/go": "go", root + "pkg/tool/linux_amd64/compile": "c", root + "src/_go.mod": "module std", root + "lib/wasm/go_js_wasm_exec": "x", root + "README.md": "r"}, ""},
		"stray": {map[string]string{root + "bin/go": "go", "elsewhere": ""}, "stray file"},
		"climb": {map[string]string{root + "bin/go": "go", root + "../../../etc/passwd": ""}, ""}, // Clean keeps it below
		"no go": {map[string]string{root + "README.md": ""}, "no bin/go"},
	} {
		t.Run(name, func(t *testing.T) {
			tree, err := rootfs.New(t.TempDir())
			check(t, err)
			defer tree.Close()
			err = addToolchain(tree, zipOf(t, c.files), locked)
			if c.says != "" || err != nil {
				if c.says == "" || err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("got %v, want %q", err, c.says)
				}
				return
			}
			if name != "good" {
				return
			}
			for p, mode := range map[string]int64{"bin/go": 0o755, "pkg/tool/linux_amd64/compile": 0o755, "lib/wasm/go_js_wasm_exec": 0o755, "README.md": 0o644, "src/go.mod": 0o644} {
				if n := tree.Get(goRoot + "/" + p); n == nil || n.Mode != mode {
					t.Errorf("%s: %+v", p, n)
				}
			}
		})
	}
}
