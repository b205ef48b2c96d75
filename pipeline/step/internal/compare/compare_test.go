package compare

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/imagetest"
	"drydock/pipeline/step/internal/ociarchive"
)

var then = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

func files0() []imagetest.File {
	return []imagetest.File{
		{Name: "etc/", Dir: true, Time: then},
		{Name: "etc/motd", Body: "hello", Time: then},
		{Name: "etc/link", Link: "motd", Time: then},
		{Name: "usr/bin/ping", Body: "ping", Mode: 0o755, Time: then},
	}
}

func compareImages(t *testing.T, was, now imagetest.Image) *artifact.ImageDiff {
	t.Helper()
	a, _ := imagetest.Write(t, was)
	b, _ := imagetest.Write(t, now)
	d, err := Run(Options{Was: a, Now: b, Work: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func layers(files []imagetest.File) imagetest.Image {
	return imagetest.Image{
		Layers:  []imagetest.Layer{{Files: []imagetest.File{{Name: "base", Body: "b"}}, Compression: "gzip"}, {Files: files, Compression: "gzip"}},
		Config:  map[string]any{"User": "1000", "Env": []string{"A=1"}},
		History: []map[string]any{{"created_by": "base"}, {"created_by": "ENV A=1", "empty_layer": true}, {"created_by": "RUN make"}},
	}
}

// TestEveryKindOfDifference changes one thing at a time and finds that thing.
func TestEveryKindOfDifference(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func([]imagetest.File) []imagetest.File
		path   string
		want   []string
		hint   string
	}{
		"added":   {func(f []imagetest.File) []imagetest.File { return append(f, imagetest.File{Name: "new", Body: "x"}) }, "new", []string{"added"}, ""},
		"removed": {func(f []imagetest.File) []imagetest.File { return f[:3] }, "usr/bin/ping", []string{"removed"}, ""},
		"content": {func(f []imagetest.File) []imagetest.File { f[1].Body = "HELLO"; return f }, "etc/motd", []string{"content"}, ""},
		"mode":    {func(f []imagetest.File) []imagetest.File { f[3].Mode = 0o4755; return f }, "usr/bin/ping", []string{"mode"}, "umask"},
		"owner":   {func(f []imagetest.File) []imagetest.File { f[1].UID = 7; return f }, "etc/motd", []string{"owner"}, ""},
		"time":    {func(f []imagetest.File) []imagetest.File { f[1].Time = then.Add(time.Second); return f }, "etc/motd", []string{"time"}, "only its time"},
		"xattr":   {func(f []imagetest.File) []imagetest.File { f[3].Xattrs = map[string]string{"user.x": "y"}; return f }, "usr/bin/ping", []string{"xattr"}, ""},
		"link":    {func(f []imagetest.File) []imagetest.File { f[2].Link = "other"; return f }, "etc/link", []string{"link"}, ""},
		"type": {func(f []imagetest.File) []imagetest.File {
			f[2] = imagetest.File{Name: "etc/link", Body: "x", Mode: 0o777, Time: then}
			return f
		}, "etc/link", []string{"type"}, ""},
		"two": {func(f []imagetest.File) []imagetest.File { f[1].Body, f[1].GID = "x", 3; return f }, "etc/motd", []string{"content", "owner"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := compareImages(t, layers(files0()), layers(c.change(files0())))
			if len(d.Config) != 0 || len(d.Layers) != 1 || d.Layers[0].Index != 1 || d.Layers[0].Instruction != "RUN make" || len(d.Layers[0].Files) != 1 {
				t.Fatalf("%+v", d)
			}
			f := d.Layers[0].Files[0]
			if f.Path != c.path || !slices.Equal(f.Changes, c.want) || !strings.Contains(f.Hint, c.hint) || (f.Was == "" && f.Now == "") {
				t.Errorf("%+v, want %s %v %q", f, c.path, c.want, c.hint)
			}
		})
	}
}

func TestSameIsNothing(t *testing.T) {
	t.Parallel()
	d := compareImages(t, layers(files0()), layers(files0()))
	if len(d.Config)+len(d.Layers) != 0 {
		t.Errorf("%+v", d)
	}
	other := layers(files0())
	other.Layers[0].Compression = "zstd"
	if d := compareImages(t, layers(files0()), other); len(d.Layers) != 1 || !strings.Contains(d.Layers[0].Note, "compressed differently") {
		t.Errorf("%+v", d)
	}
}

func TestConfigurationByField(t *testing.T) {
	t.Parallel()
	now := layers(files0())
	now.Config = map[string]any{"User": "0", "Env": []string{"A=2"}, "Labels": map[string]string{"x": "y"}}
	now.History[2]["created_by"] = "RUN other"
	now.Layers = append(now.Layers, imagetest.Layer{Files: files0()[:1]})
	d := compareImages(t, layers(files0()), now)
	var got []string
	for _, f := range d.Config {
		got = append(got, f.Field+" "+f.Was+" "+f.Now)
	}
	want := []string{`config.Env[0] "A=1" "A=2"`, `config.Labels  {"x":"y"}`, `config.User "1000" "0"`, `history[2].created_by "RUN make" "RUN other"`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(d.Layers) != 1 || d.Layers[0].Was != "" || d.Layers[0].Note != "the layer is new" {
		t.Errorf("%+v", d.Layers)
	}
}

func packed(t *testing.T, text string, at time.Time) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.ModTime = at
	_, _ = z.Write([]byte(text))
	_ = z.Close()
	return b.String()
}

// TestHints names what each tool leaves behind.
func TestHints(t *testing.T) {
	t.Parallel()
	goProgram := "\x7fELF" + "\xff Go buildinf:"
	for name, c := range map[string]struct{ path, was, now, want string }{
		"gzip header":  {"srv/a.gz", packed(t, "x", then), packed(t, "x", then.Add(time.Hour)), "gzip -n"},
		"gzip content": {"srv/a.gz", packed(t, "x", then), packed(t, "y", then), "what is compressed"},
		"pyc":          {"usr/lib/x/__pycache__/a.cpython-311.pyc", "aaaa", "bbbb", "PYTHONDONTWRITEBYTECODE"},
		"machine id":   {"etc/machine-id", "a", "b", "/etc/machine-id"},
		"npm cache":    {"root/.npm/_cacache/index-v5/00/aa", "a", "b", "npm ci --cache"},
		"npm metadata": {"app/node_modules/.package-lock.json", "a", "b", "npm ci"},
		"pnpm":         {"app/node_modules/.modules.yaml", "a", "b", "pnpm writes when"},
		"pnpm store":   {"root/.local/share/pnpm/store/v10/index/45/x.json", "a", "b", "pnpm's store"},
		"pnpm state":   {"root/.local/state/pnpm/pnpm-state.json", "a", "b", "newer pnpm"},
		"Go program":   {"usr/local/bin/x", goProgram + "1", goProgram + "2", "-trimpath"},
		"C program":    {"usr/local/bin/x", "\x7fELF1", "\x7fELF2", "__DATE__"},
		"jar":          {"srv/x.jar", "PK\x03\x041", "PK\x03\x042", "SOURCE_DATE_EPOCH"},
		"log":          {"var/log/x/y.log", "a", "b", "a log"},
		"host key":     {"etc/ssh/ssh_host_rsa_key", "a", "b", "when the container starts"},
		"certificate":  {"etc/ssl/certs/ssl-cert-snakeoil.pem", "a", "b", "make-ssl-cert"},
		"database":     {"var/lib/postgresql/15/main/PG_VERSION", "a", "b", "pg_createcluster"},
		"TeX":          {"var/lib/texmf/web2c/pdftex/pdflatex.fmt", "a", "b", "FORCE_SOURCE_DATE"},
		"pip":          {"opt/v/lib/python3.11/site-packages/x-1.dist-info/RECORD", "a", "b", "pip lists"},
		"nothing":      {"srv/data", "a", "b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := compareImages(t, layers([]imagetest.File{{Name: c.path, Body: c.was}}), layers([]imagetest.File{{Name: c.path, Body: c.now}}))
			if len(d.Layers) != 1 || len(d.Layers[0].Files) != 1 {
				t.Fatalf("%+v", d)
			}
			if h := d.Layers[0].Files[0].Hint; (c.want == "") != (h == "") || !strings.Contains(h, c.want) {
				t.Errorf("hint %q, want %q", h, c.want)
			}
		})
	}
}

// TestMissingLayers: what is the same need not be there; what differs must.
func TestMissingLayers(t *testing.T) {
	t.Parallel()
	was, _ := imagetest.Write(t, layers(files0()))
	changed := files0()
	changed[1].Body = "other"
	now, _ := imagetest.Write(t, layers(changed))
	for layer, fails := range []bool{false, true} {
		file := without(t, was, layer)
		d, err := Run(Options{Was: file, Now: now, Work: t.TempDir()})
		if fails != (err != nil) {
			t.Fatalf("without layer %d: %v", layer, err)
		}
		if !fails && len(d.Layers) != 1 {
			t.Errorf("%+v", d)
		}
	}
}

// without is the archive without one layer's blob.
func without(t *testing.T, archive string, layer int) string {
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
	raw, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	name := []byte("blobs/sha256/" + m.Layers[layer].Digest.Hex())
	if !bytes.Contains(raw, name) {
		t.Fatal("the archive does not have its own layer")
	}
	// The checksum of the header has to stay: swap two characters of the name.
	gone := bytes.Clone(name)
	gone[0], gone[1] = gone[1], gone[0]
	out := filepath.Join(t.TempDir(), "partial.tar")
	if err := os.WriteFile(out, bytes.ReplaceAll(raw, name, gone), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBounds(t *testing.T) {
	t.Parallel()
	was, _ := imagetest.Write(t, layers(files0()))
	now, _ := imagetest.Write(t, layers(files0()[:2]))
	for name, o := range map[string]Options{"files": {MaxFiles: 1}, "bytes": {MaxBytes: 100}} {
		o.Was, o.Now, o.Work = was, now, t.TempDir()
		if _, err := Run(o); err == nil || artifact.ExitCode(err) != artifact.ExitFault {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := []imagetest.File{}
	for i := range artifact.MaxFileDiffs + 3 {
		many = append(many, imagetest.File{Name: "f" + strings.Repeat("x", i%90) + string(rune('a'+i%26)) + strings.Repeat("y", i/90), Body: "1"})
	}
	d := compareImages(t, layers(nil), layers(many))
	if len(d.Layers) != 1 || len(d.Layers[0].Files) != artifact.MaxFileDiffs || d.Layers[0].More == 0 {
		t.Errorf("%d files and %d more", len(d.Layers[0].Files), d.Layers[0].More)
	}
}
