package normalize

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/imagetest"
	"drydock/pipeline/step/internal/ociarchive"
)

var epoch = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

func normalizeImage(t *testing.T, img imagetest.Image, o Options) (*wire.Image, string, error) {
	t.Helper()
	in, _ := imagetest.Write(t, img)
	o.In, o.Out, o.Epoch = in, filepath.Join(t.TempDir(), "out.tar"), epoch
	r, err := Run(o)
	return r, o.Out, err
}

// list is the names and contents of a layer of an archive, in order.
func list(t *testing.T, archive string, layer int) (names []string, bodies map[string]string, headers map[string]*tar.Header) {
	t.Helper()
	a, err := ociarchive.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	_, m, err := a.Image()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := a.Blob(m.Layers[layer])
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := ociarchive.Decompress(blob, &ociarchive.Budget{Left: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	bodies, headers = map[string]string{}, map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names, bodies, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		names, bodies[h.Name], headers[h.Name] = append(names, h.Name), string(raw), h
	}
}

func files() []imagetest.File {
	now := time.Date(2026, 11, 22, 1, 2, 3, 456, time.UTC)
	return []imagetest.File{
		{Name: "etc/", Dir: true, Time: now},
		{Name: "etc/motd", Body: "hello", Time: now, Owner: "root"},
		{Name: "usr/", Dir: true, Time: now},
		{Name: "usr/bin/", Dir: true, Time: now},
		{Name: "usr/bin/perl", Body: "#!perl", Mode: 0o755, Time: now},
		{Name: "usr/bin/perl5.36", Hard: "usr/bin/perl", Time: now},
		{Name: "usr/bin/ping", Body: "ping", Mode: 0o755, Time: now, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02"}},
		{Name: "usr/lib", Link: "/lib", Time: now},
		{Name: "var/", Dir: true, Time: now},
		{Name: "var/data", Body: "x", UID: 101, GID: 102, Mode: 0o600, Time: now},
	}
}

func TestSameContentSameDigest(t *testing.T) {
	t.Parallel()
	base := imagetest.Image{Layers: []imagetest.Layer{{Files: files(), Compression: "gzip"}}, Config: map[string]any{"User": "1000"}}
	want, _, err := normalizeImage(t, base, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*imagetest.Image){
		"again":      func(*imagetest.Image) {},
		"zstd":       func(i *imagetest.Image) { i.Layers[0].Compression = "zstd" },
		"plain":      func(i *imagetest.Image) { i.Layers[0].Compression = "" },
		"other time": func(i *imagetest.Image) { setTimes(i.Layers[0].Files, time.Unix(1000, 5)) },
		"shuffled":   func(i *imagetest.Image) { shuffle(i.Layers[0].Files) },
		"other link": func(i *imagetest.Image) {
			f := i.Layers[0].Files
			f[4] = imagetest.File{Name: "usr/bin/perl5.36", Body: "#!perl", Mode: 0o755}
			f[5] = imagetest.File{Name: "usr/bin/perl", Hard: "usr/bin/perl5.36"}
		},
		"dot names": func(i *imagetest.Image) {
			for j := range i.Layers[0].Files {
				i.Layers[0].Files[j].Name = "./" + i.Layers[0].Files[j].Name
			}
		},
		"drift": func(i *imagetest.Image) {
			i.Layers[0].Files = append(i.Layers[0].Files,
				imagetest.File{Name: "var/log/dpkg.log", Body: time.Now().String()},
				imagetest.File{Name: "var/log/apt/history.log", Body: time.Now().String()},
				imagetest.File{Name: "var/cache/ldconfig/aux-cache", Body: "inode"},
				imagetest.File{Name: "var/lib/dpkg/status-old", Body: "x"},
				imagetest.File{Name: "var/cache/apt/pkgcache.bin", Body: "x"},
				imagetest.File{Name: "var/lib/apt/lists/x_InRelease", Body: "x"},
				imagetest.File{Name: "root/.npm/_logs/2026-11-22T00_00_00-debug-0.log", Body: "x"},
				imagetest.File{Name: "var/log/aptitude", Body: time.Now().String()},
				imagetest.File{Name: "root/.npm/_cacache", Dir: true},
				imagetest.File{Name: "root/.npm/_cacache/index-v5/04", Dir: true},
				imagetest.File{Name: "root/.npm/_cacache/index-v5/04/b1", Body: "x"},
				imagetest.File{Name: "tmp/npm/_cacache/content-v2/sha512/1", Body: "x"},
				imagetest.File{Name: "home/app/.cache/pip/http/e/f", Body: "x"},
				imagetest.File{Name: "root/.cache/pip/http-v2/e/f.body", Body: "x"},
				imagetest.File{Name: "root/.cache/pip/selfcheck/a", Body: "x"},
				imagetest.File{Name: "root/.cache/pnpm/dlx/22aetmj/1a2062cd5e3-43/node_modules/x", Body: "x"},
				imagetest.File{Name: "root/.cache/go-build", Dir: true},
				imagetest.File{Name: "root/.cache/go-build/trim.txt", Body: "1795389783"},
				imagetest.File{Name: "root/.cache/go-build/00/00eff0be-a", Body: "v1 x"},
				imagetest.File{Name: "root/.local/pipx/logs/cmd_2026-11-23_02.08.52.log", Body: "x"},
				imagetest.File{Name: "root/.config/go/telemetry/local/go@go1.26.8-go1.26.8-linux-amd64-2026-11-22.v1.count", Body: "x"},
				imagetest.File{Name: "tmp/node-compile-cache/v22.23.3-x64-9ac5647c-0/00bf0630", Body: "x"},
				imagetest.File{Name: "tmp/v8-compile-cache-0/12.4.254.21-node.57/zSoptzSyarn.js.BLOB", Body: "x"},
				imagetest.File{Name: "tmp/yarn--1795389783895-0.6286611720429403", Dir: true},
				imagetest.File{Name: "tmp/yarn--1795389783895-0.6286611720429403/node", Body: "x"},
				imagetest.File{Name: "home/app/.npm/_update-notifier-last-checked", Body: ""})
		},
		"host's label": func(i *imagetest.Image) {
			i.Layers[0].Files[1].Xattrs = map[string]string{"security.selinux": "system_u:object_r:x:s0"}
		},
		"builder's traces": func(i *imagetest.Image) {
			i.Extra = map[string]any{"moby.buildkit.buildinfo.v1": "e30=", "container": "abc"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := imagetest.Image{Layers: []imagetest.Layer{{Files: files(), Compression: "gzip"}}, Config: base.Config}
			change(&img)
			got, _, err := normalizeImage(t, img, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Manifest != want.Manifest {
				t.Errorf("manifest %s, want %s", got.Manifest, want.Manifest)
			}
		})
	}
}

func setTimes(f []imagetest.File, at time.Time) {
	for i := range f {
		f[i].Time = at
	}
}

// shuffle keeps a hard link after its target, which tar requires.
func shuffle(f []imagetest.File) {
	rand.New(rand.NewSource(1)).Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
	for i := range f {
		for j := range f {
			if f[i].Hard != "" && f[i].Hard == f[j].Name && j > i {
				f[i], f[j] = f[j], f[i]
			}
		}
	}
}

func TestArchiveBytesAreStable(t *testing.T) {
	t.Parallel()
	img := imagetest.Image{Layers: []imagetest.Layer{{Files: files()}}}
	_, a, err := normalizeImage(t, img, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := normalizeImage(t, img, Options{})
	if err != nil {
		t.Fatal(err)
	}
	x, _ := os.ReadFile(a)
	y, _ := os.ReadFile(b)
	if !bytes.Equal(x, y) || len(x) == 0 {
		t.Error("two runs wrote different archives")
	}
}

func TestNormalizedLayer(t *testing.T) {
	t.Parallel()
	_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: files(), Compression: "gzip"}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	names, bodies, headers := list(t, out, 0)
	want := "etc/ etc/motd usr/ usr/bin/ usr/bin/perl usr/bin/perl5.36 usr/bin/ping usr/lib var/ var/data"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("order %s\nwant  %s", got, want)
	}
	if bodies["usr/bin/perl"] != "#!perl" || headers["usr/bin/perl5.36"].Linkname != "usr/bin/perl" {
		t.Errorf("hard link lost: %q %q", bodies["usr/bin/perl"], headers["usr/bin/perl5.36"].Linkname)
	}
	if headers["usr/bin/ping"].PAXRecords["SCHILY.xattr.security.capability"] == "" {
		t.Error("file capability lost")
	}
	h := headers["var/data"]
	if h.Uid != 101 || h.Gid != 102 || h.Mode != 0o600 || h.Uname != "" || !h.ModTime.Equal(epoch) || !h.AccessTime.IsZero() {
		t.Errorf("header %+v", h)
	}
}

func TestBaseLayersAreKept(t *testing.T) {
	t.Parallel()
	baseFiles := []imagetest.File{{Name: "etc/", Dir: true}, {Name: "z", Body: "1"}, {Name: "a", Body: "2"}}
	top := []imagetest.File{{Name: "etc/", Dir: true, Time: time.Now()}, {Name: "etc/new", Body: "n"}}
	img := imagetest.Image{Layers: []imagetest.Layer{{Files: baseFiles, Compression: "gzip"}, {Files: top, Compression: "gzip"}}}
	in, diffIDs := imagetest.Write(t, img)
	out := filepath.Join(t.TempDir(), "out.tar")
	r, err := Run(Options{In: in, Out: out, Epoch: epoch, BaseLayers: diffIDs[:1]})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Layers[0].Base || r.Layers[0].DiffID != diffIDs[0] || r.Layers[1].Base {
		t.Errorf("layers %s", imagetest.JSON(r.Layers))
	}
	names, _, _ := list(t, out, 0)
	if got := strings.Join(names, " "); got != "etc/ z a" {
		t.Errorf("base layer rewritten: %s", got)
	}
	// etc/ is as the base has it: whether a layer repeats it is the engine's whim.
	if names, _, _ := list(t, out, 1); strings.Join(names, " ") != "etc/new" {
		t.Errorf("top layer %v", names)
	}
}

func TestUnchangedDirectories(t *testing.T) {
	t.Parallel()
	base := imagetest.Layer{Files: []imagetest.File{{Name: "a/", Dir: true}, {Name: "a/b/", Dir: true}, {Name: "a/b/c/", Dir: true}}}
	for name, c := range map[string]struct {
		files []imagetest.File
		want  string
	}{
		"same":          {[]imagetest.File{{Name: "a/", Dir: true}, {Name: "a/b/", Dir: true}, {Name: "a/b/f"}}, "a/b/f"},
		"mode":          {[]imagetest.File{{Name: "a/", Dir: true, Mode: 0o700}}, "a/"},
		"owner":         {[]imagetest.File{{Name: "a/", Dir: true, UID: 5}}, "a/"},
		"opaque parent": {[]imagetest.File{{Name: "a/", Dir: true}, {Name: "a/.wh..wh..opq"}, {Name: "a/b/", Dir: true}}, "a/.wh..wh..opq a/b/"},
		"replaced":      {[]imagetest.File{{Name: "a/.wh.b"}, {Name: "a/b/", Dir: true}, {Name: "a/b/c/", Dir: true}}, "a/.wh.b a/b/ a/b/c/"},
		"removed":       {[]imagetest.File{{Name: "a/.wh.b"}}, "a/.wh.b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{base, {Files: c.files}}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			names, _, _ := list(t, out, 1)
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("layer holds %q, want %q", got, c.want)
			}
		})
	}
}

// TestPnpm sets the times pnpm writes back to the epoch, and no others.
func TestPnpm(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ path, have, want string }{
		"modules":   {"app/node_modules/.modules.yaml", "packageManager: pnpm@10\nprunedAt: Sun, 22 Nov 2026 23:22:29 GMT\nskipped: []\n", "packageManager: pnpm@10\nprunedAt: Fri, 20 Nov 2026 00:00:00 GMT\nskipped: []\n"},
		"workspace": {"node_modules/.pnpm-workspace-state.json", "{\n  \"lastValidatedTimestamp\": 1795389749623,\n  \"x\": 1795389749623}", "{\n  \"lastValidatedTimestamp\": 1795132800000,\n  \"x\": 1795389749623}"},
		"store":     {"root/.local/share/pnpm/store/v10/index/e8/59-ms@2.1.3.json", `{"a":{"checkedAt":1795389749270,"size":1},"b":{"checkedAt":1795389749271}}`, `{"a":{"checkedAt":1795132800000,"size":1},"b":{"checkedAt":1795132800000}}`},
		"older":     {"pnpm/store/v3/files/3d/15851e-index.json", `{"files":{"a":{"checkedAt":1795389749270}}}`, `{"files":{"a":{"checkedAt":1795132800000}}}`},
		"itself":    {"root/.local/state/pnpm/pnpm-state.json", `{"lastUpdateCheck": "Sun, 22 Nov 2026 23:22:29 GMT"}`, `{"lastUpdateCheck": "Fri, 20 Nov 2026 00:00:00 GMT"}`},
		"metadata":  {"root/.cache/pnpm/metadata-v1.3/registry.test/ms.json", `{"cachedAt":1795389749329}`, `{"cachedAt":1795132800000}`},
		"earlier":   {"node_modules/.modules.yaml", "prunedAt: Sun, 22 Nov 2020 23:22:29 GMT\n", "prunedAt: Sun, 22 Nov 2020 23:22:29 GMT\n"},
		"not a day": {"node_modules/.modules.yaml", "prunedAt: Sun, 99 Nov 2026 23:22:29 GMT\n", "prunedAt: Sun, 99 Nov 2026 23:22:29 GMT\n"},
		"another's": {"app/modules.yaml", "prunedAt: Sun, 22 Nov 2026 23:22:29 GMT\n", "prunedAt: Sun, 22 Nov 2026 23:22:29 GMT\n"},
	} {
		for _, keep := range []bool{false, true} {
			_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: c.path, Body: c.have}}}}}, Options{KeepTraces: keep})
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if keep {
				want = c.have
			}
			if _, bodies, _ := list(t, out, 0); bodies[c.path] != want {
				t.Errorf("%s, keep %v: %q, want %q", name, keep, bodies[c.path], want)
			}
		}
	}
}

// TestTracesStay where the image asks for that.
func TestTracesStay(t *testing.T) {
	t.Parallel()
	traces := []imagetest.File{
		{Name: "etc/machine-id", Body: strings.Repeat("a", 32) + "\n"},
		{Name: "root/.npm/_logs/x.log", Body: "x"},
		{Name: "var/log/dpkg.log", Body: "x"},
	}
	for keep, want := range map[bool]string{false: "etc/machine-id=", true: "etc/machine-id=" + traces[0].Body + " root/.npm/_logs/x.log=x var/log/dpkg.log=x"} {
		_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: traces}}}, Options{KeepTraces: keep})
		if err != nil {
			t.Fatal(err)
		}
		names, bodies, _ := list(t, out, 0)
		var got []string
		for _, n := range names {
			got = append(got, n+"="+bodies[n])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("keep %v: %q, want %q", keep, got, want)
		}
	}
	// What is no machine's identity stays.
	_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "etc/machine-id", Body: "uninitialized\n"}}}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, bodies, _ := list(t, out, 0); bodies["etc/machine-id"] != "uninitialized\n" {
		t.Errorf("%q", bodies)
	}
}

// TestHistoryIsInTheOrderOfLayers: BuildKit puts what it makes up for a base's
// layers last.
func TestHistoryIsInTheOrderOfLayers(t *testing.T) {
	t.Parallel()
	_, out, err := normalizeImage(t, imagetest.Image{
		Layers:  []imagetest.Layer{{Files: files()}, {Files: files()[:2]}},
		History: []map[string]any{{"created_by": "RUN x", "comment": "buildkit.dockerfile.v0"}, {"created_by": "pulled", "comment": exporterComment}},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := ociarchive.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	_, m, err := a.Image()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := a.Document(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	base, run := strings.Index(string(raw), baseLayer), strings.Index(string(raw), "RUN x")
	if base < 0 || run < base {
		t.Errorf("%s", raw)
	}
}

// TestHistoryOfBases: what the engine's cache happens to remember of a base's
// layer must not show in the digest.
func TestHistoryOfBases(t *testing.T) {
	t.Parallel()
	ids := map[artifact.Digest]bool{}
	for _, by := range []string{"created by buildkit", "pulled from base.example/minimal@sha256:00", "imported sha256:00"} {
		r, _, err := normalizeImage(t, imagetest.Image{
			Layers:  []imagetest.Layer{{Files: files()}},
			History: []map[string]any{{"created": "2026-11-22T00:00:00Z", "created_by": by, "comment": exporterComment}},
		}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		ids[r.ConfigID] = true
	}
	if len(ids) != 1 {
		t.Errorf("%d digests, want one", len(ids))
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	img := imagetest.Image{
		Layers: []imagetest.Layer{{Files: files()}},
		Config: map[string]any{"User": "app", "Env": []string{"A=b"}, "Healthcheck": map[string]any{"Test": []string{"CMD", "true"}},
			"ExposedPorts": map[string]any{"80/tcp": map[string]any{}}, "Image": "sha256:builder", "Hostname": "x", "ArgsEscaped": true},
		Extra:   map[string]any{"moby.buildkit.cache.v0": "x"},
		History: []map[string]any{{"created": "2026-11-22T00:00:00Z", "created_by": "[stage-1 2/2] RUN x # buildkit", "comment": "buildkit.dockerfile.v0"}},
	}
	r, out, err := normalizeImage(t, img, Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := ociarchive.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	_, m, err := a.Image()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := a.Document(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.Digest != r.ConfigID {
		t.Errorf("config digest %s, reported %s", m.Config.Digest, r.ConfigID)
	}
	for _, bad := range []string{"moby.buildkit", "stage-1", "builder", "Hostname", "ArgsEscaped", "buildkit.dockerfile", "2026-01-02", "2026-11-22"} {
		if strings.Contains(string(raw), bad) {
			t.Errorf("configuration still has %q: %s", bad, raw)
		}
	}
	var c map[string]any
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	if c["created"] != "2026-11-20T00:00:00Z" || c["config"].(map[string]any)["Healthcheck"] == nil {
		t.Errorf("configuration %s", raw)
	}
	if r.Config.User != "app" || len(r.Config.Ports) != 1 {
		t.Errorf("reported %+v", r.Config)
	}
}

// An engine that tells no history is told it; what it made otherwise has none.
func TestHistoryIsTold(t *testing.T) {
	t.Parallel()
	one := imagetest.Layer{Files: files()}
	img := imagetest.Image{
		Layers: []imagetest.Layer{one, {Files: []imagetest.File{{Name: "etc/more", Body: "x"}}}},
		Config: map[string]any{"WorkingDir": "/"},
		History: []map[string]any{
			{"created_by": "x", "comment": "buildkit.exporter.image.v0"}, {"created_by": "x", "comment": "buildkit.exporter.image.v0"},
		},
	}
	told := []wire.History{{CreatedBy: "COPY x", Comment: "buildkit.dockerfile.v0"}, {CreatedBy: "CMD y", EmptyLayer: true}}
	in, diffIDs := imagetest.Write(t, img)
	base := []artifact.Digest{diffIDs[0], artifact.Digest("sha256:" + strings.Repeat("1", 64))} // one is of another stage
	for name, c := range map[string]struct {
		told []wire.History
		want string
	}{
		"the base says nothing": {told, "layer of the base image|COPY x|CMD y"},
		"all of it is told":     {append([]wire.History{{CreatedBy: "RUN base"}}, told...), "RUN base|COPY x|CMD y"},
		"other layers":          {append([]wire.History{{CreatedBy: "a"}, {CreatedBy: "b"}}, told...), ""},
		"nothing is told":       {nil, "layer of the base image|layer of the base image"},
	} {
		out := filepath.Join(t.TempDir(), "out.tar")
		if _, err := Run(Options{In: in, Out: out, Epoch: epoch, History: c.told, BaseLayers: base}); err != nil {
			t.Fatal(err)
		}
		a, err := ociarchive.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		_, m, err := a.Image()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := a.Document(m.Config)
		_ = a.Close()
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := parseConfig(raw)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, h := range cfg.History {
			got = append(got, h.CreatedBy)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%s: %q", name, got)
		}
		if has := cfg.Config["WorkingDir"] != nil; has != (c.told == nil) {
			t.Errorf("%s: WorkingDir is there: %v", name, has)
		}
	}
}

func TestShadowIsSteady(t *testing.T) {
	t.Parallel()
	body := "root:*:20777:0:99999:7:::\nold:!:19000:0:99999:7:::\nnever:!::0:99999:7:::\n"
	_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "etc/shadow", Body: body, Mode: 0o640, GID: 42}, {Name: "etc/shadow-", Body: "x"}}}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	names, bodies, _ := list(t, out, 0)
	if len(names) != 1 || bodies["etc/shadow"] != "root:*:20777:0:99999:7:::\nold:!:19000:0:99999:7:::\nnever:!::0:99999:7:::\n" {
		t.Errorf("day of the epoch is 20777: %v %q", names, bodies["etc/shadow"])
	}
	body = strings.Replace(body, "20777", "20779", 1)
	_, out, err = normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "etc/shadow", Body: body}}}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, bodies, _ := list(t, out, 0); !strings.HasPrefix(bodies["etc/shadow"], "root:*:20777:") {
		t.Errorf("shadow %q", bodies["etc/shadow"])
	}
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	zeros := string(make([]byte, 1<<20))
	layer := func(f ...imagetest.File) imagetest.Image {
		return imagetest.Image{Layers: []imagetest.Layer{{Files: f, Compression: "gzip"}}}
	}
	for name, c := range map[string]struct {
		img  imagetest.Image
		opt  Options
		want string
	}{
		"name leads out":      {img: layer(imagetest.File{Name: "../../etc/passwd", Body: "x"}), want: "leads out"},
		"hard link leads out": {img: layer(imagetest.File{Name: "a", Hard: "../../etc/shadow"}), want: "leads out"},
		"through a symlink":   {img: layer(imagetest.File{Name: "a", Link: "/etc"}, imagetest.File{Name: "a/passwd", Body: "x"}), want: "not a directory"},
		"hard link circle":    {img: layer(imagetest.File{Name: "a", Hard: "b"}, imagetest.File{Name: "b", Hard: "a"}), want: "circle"},
		"bomb":                {img: layer(imagetest.File{Name: "a", Body: zeros}), opt: Options{MaxBytes: 1 << 19}, want: "decompression bomb"},
		"zstd bomb": {img: imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "a", Body: zeros}}, Compression: "zstd"}}},
			opt: Options{MaxBytes: 1 << 19}, want: "layer 0"},
		"many files":    {img: layer(imagetest.File{Name: "a"}, imagetest.File{Name: "b"}, imagetest.File{Name: "c"}), opt: Options{MaxEntries: 2}, want: "more than 2 files"},
		"not a tar":     {img: imagetest.Image{Layers: []imagetest.Layer{{Raw: []byte(strings.Repeat("garbage!", 200))}}}, want: "layer 0"},
		"wrong diff id": {img: imagetest.Image{Layers: []imagetest.Layer{{Files: files()}}, Extra: map[string]any{"rootfs": map[string]any{"diff_ids": []string{"sha256:" + strings.Repeat("0", 64)}}}}, want: "configuration says"},
		"layer count":   {img: imagetest.Image{Layers: []imagetest.Layer{{Files: files()}}, Extra: map[string]any{"rootfs": map[string]any{"diff_ids": []string{}}}}, want: "names 0 layers"},
		"missing blob": {img: imagetest.Image{Layers: []imagetest.Layer{{Files: files()}}, Tamper: func(m *ociarchive.Manifest) {
			m.Layers[0].Digest = artifact.Digest("sha256:" + strings.Repeat("1", 64))
		}}, want: "has no blobs/"},
		"wrong size": {img: imagetest.Image{Layers: []imagetest.Layer{{Files: files()}}, Tamper: func(m *ociarchive.Manifest) { m.Layers[0].Size++ }}, want: "descriptor says"},
		"platform":   {img: layer(files()...), opt: Options{Platform: &artifact.Platform{OS: "linux", Architecture: "arm64"}}, want: "want linux/arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, out, err := normalizeImage(t, c.img, c.opt)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want it to say %q", err, c.want)
			}
			if artifact.ExitCode(err) != artifact.ExitFault || len(artifact.Remedies(err)) == 0 {
				t.Errorf("exit %d, remedies %v", artifact.ExitCode(err), artifact.Remedies(err))
			}
			left, _ := os.ReadDir(filepath.Dir(out))
			if len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestLateEntryWins(t *testing.T) {
	t.Parallel()
	_, out, err := normalizeImage(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "a", Body: "1"}, {Name: "a", Body: "22"}}}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if names, bodies, _ := list(t, out, 0); len(names) != 1 || bodies["a"] != "22" {
		t.Errorf("%v %v", names, bodies)
	}
}

// What the base says of itself is not said of the image; what the Dockerfile
// says stays; what it stands on is told whatever the Dockerfile says.
func TestLabels(t *testing.T) {
	t.Parallel()
	const title, version, base = "org.opencontainers.image.title", "org.opencontainers.image.version", "org.opencontainers.image.base.name"
	for name, c := range map[string]struct {
		have  map[string]string
		title any
	}{
		"inherited": {map[string]string{title: "minimal", version: "1", base: "forged", "mine": "a"}, "web"},
		"own title": {map[string]string{title: "The Web", version: "1", base: "forged", "mine": "a"}, "The Web"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := imagetest.Image{Layers: []imagetest.Layer{{Files: files()}}, Config: map[string]any{"Labels": c.have}}
			_, out, err := normalizeImage(t, img, Options{
				Labels:    map[string]string{title: "web", base: "base.invalid/minimal"},
				Inherited: map[string]string{title: "minimal", version: "1"},
			})
			if err != nil {
				t.Fatal(err)
			}
			a, err := ociarchive.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = a.Close() }()
			_, m, err := a.Image()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := a.Document(m.Config)
			if err != nil {
				t.Fatal(err)
			}
			var cfg struct {
				Config struct{ Labels map[string]any }
			}
			if err := json.Unmarshal(raw, &cfg); err != nil {
				t.Fatal(err)
			}
			l := cfg.Config.Labels
			if l[title] != c.title || l[version] != nil || l[base] != "base.invalid/minimal" || l["mine"] != "a" {
				t.Errorf("labels %v", l)
			}
			if m.Annotations[title] != c.title || m.Annotations[base] != "base.invalid/minimal" || len(m.Annotations) != 2 {
				t.Errorf("annotations %v", m.Annotations)
			}
		})
	}
}
