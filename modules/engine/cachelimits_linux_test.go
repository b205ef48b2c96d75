package engine

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hostileCache writes a cache whose configuration and layers are as told.
func hostileCache(t *testing.T, config string, change func(manifest map[string]any, layout string)) string {
	t.Helper()
	dir := t.TempDir()
	put := func(b []byte, mediaType string) descriptor {
		d, err := putBlob(dir, b, mediaType)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": imageMediaType, "config": put([]byte(config), configMediaType), "layers": []descriptor{},
	}
	if change != nil {
		change(manifest, dir)
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := finishLayout(dir, put(raw, imageMediaType), nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A cache that would take much memory to read is refused in words, and so is one
// whose files are none; nobody waits for a pipe.
func TestHostileCache(t *testing.T) {
	long := `{"layers":[{"blob":"a","parent":-1}` + strings.Repeat(`,{"blob":"a"}`, 999) + `],"records":[{"digest":"b","layers":[`
	for i := range 999 {
		long = strings.Replace(long, `{"blob":"a"}`, fmt.Sprintf(`{"blob":"a","parent":%d}`, i), 1)
	}
	chains := long + strings.Repeat(`{"layer":999},`, 200) + `{"layer":999}]}]}`
	few := long + `{"layer":999}]}]}`
	size := func(field string, n int64) func(map[string]any, string) {
		return func(m map[string]any, _ string) {
			d, _ := m[field].(descriptor)
			d.Size = n
			m[field] = d
		}
	}
	for name, c := range map[string]struct {
		config string
		change func(map[string]any, string)
		want   string
	}{
		"it may be read":        {config: few},
		"no results":            {config: `{}`},
		"chains of layers":      {config: chains, want: "more than 200000 layers"},
		"a circle":              {config: `{"layers":[{"parent":1},{"parent":0}]}`, want: "in a circle"},
		"its own parent":        {config: `{"layers":[{"blob":"a"}]}`, want: "in a circle"},
		"no such parent":        {config: `{"layers":[{"parent":7}]}`, want: "layer 7 of 1"},
		"no such layer":         {config: `{"records":[{"layers":[{"layer":3}]}]}`, want: "layer 3 of 0"},
		"no configuration":      {config: `[`, want: "configuration is damaged"},
		"a large configuration": {config: `{}` + strings.Repeat(" ", maxCacheIndex), want: "more than 4194304 are not read"},
		"many commands":         {config: `{"records":[{}` + strings.Repeat(`,{}`, maxCacheRecords) + `]}`, want: "results of 50001 commands"},
		"it says it is large":   {config: `{}`, change: size("config", 1<<40), want: "has 1099511627776 bytes: more than"},
		"it says it is nothing": {config: `{}`, change: size("config", -1), want: "has -1 bytes"},
		"it says it is small":   {config: few, change: size("config", 2), want: "its cache says 2"},
		"an image": {config: `{}`, want: "not a cache's", change: func(m map[string]any, _ string) {
			d, _ := m["config"].(descriptor)
			d.MediaType = "application/vnd.oci.image.config.v1+json"
			m["config"] = d
		}},
		"a pipe": {config: `{}`, want: "is no file", change: func(m map[string]any, layout string) {
			d, _ := m["config"].(descriptor)
			path := blobPath(layout, d.Digest)
			if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			said := &notices{}
			s, err := serveCaches(t.Context(), Config{CacheFrom: []Cache{{Dir: hostileCache(t, c.config, c.change)}}, Notice: said.add})
			if err != nil {
				t.Fatal(err)
			}
			s.close()
			switch {
			case c.want == "" && (len(s.sources) != 1 || len(said.all) != 0):
				t.Errorf("it is not taken: %q", said.all)
			case c.want != "" && (len(s.sources) != 0 || !said.have("is ignored") || !said.have(c.want)):
				t.Errorf("said %q", said.all)
			}
		})
	}
}

// What a registry gives is not kept beyond its size, nor beyond what the disk has
// room for.
func TestCacheRoom(t *testing.T) {
	addr, client := loopbackRegistry(t)
	to := Cache{Registry: addr + "/team/cache:main"}
	layout := hostileCache(t, `{"records":[]}`, nil)
	var index cacheIndex
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err = errors.Join(err, json.Unmarshal(raw, &index)); err != nil {
		t.Fatal(err)
	}
	top, err := putBlob(layout, raw, indexMediaType)
	if err = errors.Join(err, writeCache(t.Context(), Config{Registries: client}, to, layout, top.Digest)); err != nil {
		t.Fatal(err)
	}
	open := func(free int64) (*cacheSource, error) {
		s, err := openCache(t.Context(), to, client)
		if err != nil {
			t.Fatal(err)
		}
		s.free = free
		return s, s.check(t.Context(), t.TempDir())
	}
	s, err := open(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(1 << 60); err == nil || !strings.Contains(err.Error(), "limit free-disk") {
		t.Errorf("a full disk: %v", err)
	}
	results, _ := s.index.find(cacheResults)
	for _, size := range []int64{results.Size - 1, results.Size + 1} {
		d, dir := results, t.TempDir()
		d.Size = size
		if _, err := s.blob(t.Context(), d, dir); err == nil || !strings.Contains(err.Error(), "its cache says") {
			t.Errorf("%d bytes: %v", size, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// A layer that is small until it is unpacked ends before it fills the disk; what
// it was for is built.
func TestCacheBomb(t *testing.T) {
	needEngine(t)
	if os.Getuid() != 0 {
		t.Skip("a disk of its own takes root")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=512m"); err != nil {
		t.Skipf("no disk of its own can be had here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir, shared := box(t), filepath.Join(t.TempDir(), "trusted")
	buildWith(t, dir, Config{CacheTo: []Cache{{Dir: shared}}})
	fillLayers(t, shared, 768<<20)
	stamp, ran, said := buildWith(t, dir, Config{CacheFrom: []Cache{{Dir: shared}}, CacheDir: filepath.Join(disk, "c"), Limits: Limits{FreeDisk: 192 << 20}})
	if strings.TrimSpace(stamp) == "" || len(ran) == 0 || !said.have("unpacked, it is larger than") {
		t.Errorf("stamp %q; ran %q, said %q", stamp, ran, said.all)
	}
}

// fillLayers makes every layer of a cache one that unpacks to a large file.
func fillLayers(t *testing.T, layout string, size int64) {
	t.Helper()
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Name: "large", Mode: 0o644, Size: size})
	_, cerr := io.CopyN(w, zeros{}, size)
	if err = errors.Join(err, cerr, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	layer, err := putBlob(layout, packed.Bytes(), "application/vnd.oci.image.layer.v1.tar+gzip")
	if err != nil {
		t.Fatal(err)
	}
	read := func(d descriptor) string {
		b, err := os.ReadFile(blobPath(layout, d.Digest))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var index cacheIndex
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err = errors.Join(err, json.Unmarshal(raw, &index)); err != nil {
		t.Fatal(err)
	}
	results, _ := index.find(cacheResults)
	var m struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal([]byte(read(results)), &m); err != nil {
		t.Fatal(err)
	}
	config := read(m.Config)
	last := m.Layers[len(m.Layers)-1]
	config = strings.ReplaceAll(config, string(last.Digest), string(layer.Digest))
	layer.Annotations = last.Annotations
	m.Layers[len(m.Layers)-1] = layer
	changed, err := putBlob(layout, []byte(config), configMediaType)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": imageMediaType, "config": changed, "layers": slices.Clone(m.Layers)})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := putBlob(layout, raw, imageMediaType)
	if err == nil {
		_, err = finishLayout(layout, manifest, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
