package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

// notices are what a run was told.
type notices struct {
	mu  sync.Mutex
	all []string
}

func (n *notices) add(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, text)
}

func (n *notices) have(word string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.all, func(s string) bool { return strings.Contains(s, word) })
}

// records stands for what a gateway knows of steps.
type records struct{ out, in []string }

func (r *records) ExportSteps(steps []string) ([]byte, error) {
	r.out = steps
	return []byte(strings.Join(steps, " ")), nil
}

func (r *records) ImportSteps(b []byte) error {
	r.in = strings.Fields(string(b))
	return nil
}

// buildWith builds the Dockerfile of dir with an empty cache and gives its
// stamp, which no second build repeats, and the steps that ran.
func buildWith(t *testing.T, dir string, cfg Config) (stamp string, steps []string, said *notices) {
	t.Helper()
	g, said := startGateway(t), &notices{}
	cfg.Kind, cfg.Gateway, cfg.Environ, cfg.Notice = KindEmbedded, g.path, os.Environ(), said.add
	if cfg.CacheDir == "" {
		cfg.CacheDir = engineCache(t)
	}
	e, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stamp, err = e.Client.Host().Directory(dir).DockerBuild().File("/stamp").Contents(t.Context())
	if err := errors.Join(err, e.ExportCache(t.Context()), e.Close()); err != nil {
		t.Fatal(err)
	}
	return stamp, g.steps("step"), said
}

func loopbackRegistry(t *testing.T) (addr string, client *registry.Client) {
	t.Helper()
	server := httptest.NewServer(olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}}))
	t.Cleanup(server.Close)
	client, err := registry.NewClient(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(server.URL, "http://"), client
}

// A machine with an empty cache that imports what another exported runs nothing.
func TestWarmStart(t *testing.T) {
	needEngine(t)
	addr, client := loopbackRegistry(t)
	for name, c := range map[string]Cache{
		"directory": {Dir: filepath.Join(t.TempDir(), "shared", "trusted")},
		"registry":  {Registry: addr + "/team/cache:main"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, known := box(t), &records{}
			cfg := Config{CacheFrom: []Cache{c}, CacheTo: []Cache{c}, Registries: client, Steps: known}
			first, ran, said := buildWith(t, dir, cfg)
			if len(ran) != 2 || !said.have("there is no cache yet") || !said.have("was written to") {
				t.Fatalf("cold: ran %q, said %q", ran, said.all)
			}
			if strings.Join(known.out, " ") != strings.Join(slices.Sorted(slices.Values(ran)), " ") {
				t.Errorf("steps %q went along, %q ran", known.out, ran)
			}
			cfg.CacheTo = nil
			second, again, said := buildWith(t, dir, cfg)
			if second != first || len(again) != 0 {
				t.Errorf("warm: stamp %q, not %q; ran %q, said %q", second, first, again, said.all)
			}
			if strings.Join(known.in, " ") != strings.Join(known.out, " ") {
				t.Errorf("steps %q were imported, %q exported", known.in, known.out)
			}
			if len(said.all) != 0 {
				t.Errorf("said %q", said.all)
			}
		})
	}
}

// A cache of thousands of steps has a large configuration, and is read.
func TestLargeCache(t *testing.T) {
	needEngine(t)
	dir, shared := box(t), filepath.Join(t.TempDir(), "trusted")
	first, _, _ := buildWith(t, dir, Config{CacheTo: []Cache{{Dir: shared}}})
	padCache(t, shared, 3<<20)
	second, ran, said := buildWith(t, dir, Config{CacheFrom: []Cache{{Dir: shared}}})
	if second != first || len(ran) != 0 || len(said.all) != 0 {
		t.Errorf("stamp %q, not %q; ran %q, said %q", second, first, ran, said.all)
	}
}

// padCache makes the configuration of a cache larger, which stays what it was.
func padCache(t *testing.T, dir string, by int) {
	t.Helper()
	s, err := openCache(t.Context(), Cache{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	results, _ := s.index.find(cacheResults)
	raw, err := os.ReadFile(blobPath(dir, results.Digest))
	if err != nil {
		t.Fatal(err)
	}
	var manifest map[string]any
	var m struct{ Config descriptor }
	if err := errors.Join(json.Unmarshal(raw, &manifest), json.Unmarshal(raw, &m)); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(blobPath(dir, m.Config.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if manifest["config"], err = putBlob(dir, append(config, bytes.Repeat([]byte(" "), by)...), m.Config.MediaType); err != nil {
		t.Fatal(err)
	}
	if raw, err = json.Marshal(manifest); err != nil {
		t.Fatal(err)
	}
	padded, err := putBlob(dir, raw, results.MediaType)
	if err == nil {
		_, err = finishLayout(dir, padded, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A cache that nobody could import is not left anywhere, and that is said.
func TestUselessCache(t *testing.T) {
	dir := hostileCache(t, `{"records":[{}`+strings.Repeat(`,{}`, maxCacheRecords)+`]}`, nil)
	if err := importable(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "nobody could import it: it has results of") {
		t.Errorf("error %v", err)
	}
	if err := importable(t.Context(), hostileCache(t, `{}`, nil)); err != nil {
		t.Error(err)
	}
}

// A flipped byte anywhere in a cache is noticed, said and ignored: the build
// goes on and is right.
func TestDamagedCache(t *testing.T) {
	needEngine(t)
	dir, shared := box(t), filepath.Join(t.TempDir(), "trusted")
	buildWith(t, dir, Config{CacheTo: []Cache{{Dir: shared}}})
	whole, _, _ := buildWith(t, dir, Config{CacheFrom: []Cache{{Dir: shared}}})
	blobs, err := filepath.Glob(filepath.Join(shared, "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 4 {
		t.Fatalf("%d blobs: %v", len(blobs), err)
	}
	noticed := 0
	for _, path := range blobs {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := slices.Clone(good)
		bad[len(bad)/2] ^= 1
		overwrite(t, path, bad)
		stamp, ran, said := buildWith(t, dir, Config{CacheFrom: []Cache{{Dir: shared}}})
		if said.have("is damaged") {
			noticed++
			if !said.have(filepath.Base(path)) {
				t.Errorf("it said %q of %s", said.all, filepath.Base(path))
			}
		} else if stamp != whole || len(ran) > 0 {
			t.Errorf("%s: nothing was said, yet it ran %q", filepath.Base(path), ran)
		}
		if strings.TrimSpace(stamp) == "" {
			t.Errorf("%s: the build is wrong: %q", filepath.Base(path), stamp)
		}
		overwrite(t, path, good)
	}
	if noticed < 3 { // manifest, configuration, layers
		t.Errorf("damage was noticed in %d of %d blobs", noticed, len(blobs))
	}
	for _, text := range []string{"", "{", `{"manifests":[{"digest":"sha256:../../x"}]}`} {
		overwrite(t, filepath.Join(shared, "index.json"), []byte(text))
		if stamp, ran, said := buildWith(t, dir, Config{CacheFrom: []Cache{{Dir: shared}}}); len(ran) != 2 || stamp == "" || !said.have("is ignored") {
			t.Errorf("index %q: ran %q, said %q", text, ran, said.all)
		}
	}
}

// overwrite replaces a file, which may be a link to one of the same export.
func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// Replacing a cache that was interrupted between its two renames.
func TestReplaceCache(t *testing.T) {
	from, dir := t.TempDir(), filepath.Join(t.TempDir(), "x", "trusted")
	for _, content := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(from, "index.json"), []byte(`{"manifests":[{"digest":"sha256:`+strings.Repeat("a", 64)+
			`","annotations":{"internal.drydock.cache":"results"}}],"c":"`+content+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := replaceCache(from, dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(from, "index.json")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "index.json")); err != nil || !strings.Contains(string(b), content) {
			t.Errorf("it holds %q, %v", b, err)
		}
	}
	if err := os.Rename(dir, oldCache(dir)); err != nil {
		t.Fatal(err)
	}
	s, err := openCache(t.Context(), Cache{Dir: dir}, nil)
	if err != nil || s.layout != oldCache(dir) {
		t.Errorf("got %+v, %v", s, err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestCacheRefused(t *testing.T) {
	_, err := Connect(t.Context(), Config{Kind: KindDagger, Environ: []string{"DAGGER_SESSION_PORT=1", "DAGGER_SESSION_TOKEN=t"}, CacheTo: []Cache{{Dir: "x"}}})
	if artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("a Dagger Engine: %v", err)
	}
	_, client := loopbackRegistry(t)
	_, err = Connect(t.Context(), Config{Kind: KindEmbedded, CacheDir: t.TempDir(), CacheFrom: []Cache{{Registry: "nothing"}}, Registries: client})
	if artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("no reference: %v", err)
	}
}
