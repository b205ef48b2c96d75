package vuln

import (
	"archive/tar"
	"bytes"
	"compress/gzip"

	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/bom"
	"drydock/pipeline/step/internal/changelog"
	"drydock/pipeline/step/internal/imagetest"
)

// database is a small one, built and not yet indexed.
func database(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	found := []affected{
		{"expat", changelog.Fix{CVE: "CVE-2024-45490", Version: "2.5.0-1+deb12u1", Date: time.Unix(1.7e9, 0)}},
		{"python3.11", changelog.Fix{CVE: "CVE-2024-45490", Version: "3.11.2-6+deb12u4"}},
	}
	if err := writeDatabase(Build{Out: dir, Built: time.Unix(1763600000, 0)}, "12", found); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "vulnerability.db")
}

func write(t *testing.T, name string, raw []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func tarOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for n, b := range files {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(b))}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(b)
	}
	_ = w.Close()
	return buf.Bytes()
}

func TestImport(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(database(t))
	if err != nil {
		t.Fatal(err)
	}
	plain := tarOf(t, map[string][]byte{"./vulnerability.db": raw, "../../../etc/passwd": []byte("x"), "provider-metadata.json": []byte("{}")})
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(plain)
	_ = z.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var want artifact.Digest
	for name, in := range map[string][]byte{"file": raw, "tar": plain, "tar.gz": gz.Bytes(), "tar.zst": enc.EncodeAll(plain, nil)} {
		out := t.TempDir()
		d, err := Import(write(t, "in", in), "", out, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want == "" {
			want = d.Digest
		}
		if d.Digest != want || d.Schema != "v6.1.10" || d.Built.Unix() != 1763600000 || strings.Join(d.Files, " ") != "vulnerability.db import.json" {
			t.Errorf("%s: %+v", name, d)
		}
		if left, _ := os.ReadDir(out); len(left) != 2 {
			t.Errorf("%s left %v", name, left)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(database(t))
	if err != nil {
		t.Fatal(err)
	}
	many := map[string][]byte{}
	for i := range maxMembers + 2 {
		many[strings.Repeat("x", i+1)] = nil
	}
	for name, c := range map[string]struct {
		in    []byte
		want  artifact.Digest
		limit int64
		say   string
		exit  int
	}{
		"garbage":          {[]byte(strings.Repeat("garbage ", 500)), "", 0, "neither a database nor an archive", artifact.ExitUsage},
		"empty":            {nil, "", 0, "no vulnerability.db", artifact.ExitUsage},
		"wrong checksum":   {raw, artifact.Digest("sha256:" + strings.Repeat("0", 64)), 0, "its mirror says", artifact.ExitFault},
		"no database":      {tarOf(t, map[string][]byte{"other": []byte("x")}), "", 0, "no vulnerability.db", artifact.ExitUsage},
		"bomb":             {tarOf(t, map[string][]byte{"vulnerability.db": make([]byte, 4096)}), "", 1000, "unpacks to more than 1000", artifact.ExitUsage},
		"many files":       {tarOf(t, many), "", 0, "more than", artifact.ExitUsage},
		"not a database":   {tarOf(t, map[string][]byte{"vulnerability.db": []byte("x")}), "", 0, "vulnerability database", artifact.ExitUsage},
		"another database": {append(append([]byte{}, sqliteMagic...), make([]byte, 4096)...), "", 0, "vulnerability database", artifact.ExitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Import(write(t, "in", c.in), c.want, t.TempDir(), c.limit)
			if err == nil || !strings.Contains(err.Error(), c.say) || artifact.ExitCode(err) != c.exit || len(artifact.Remedies(err)) == 0 {
				t.Errorf("exit %d: %v", artifact.ExitCode(err), err)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	for _, distro := range []string{"", "alpine 3.20", "debian"} {
		if _, err := FromChangelogs(Build{Distro: distro, Debs: t.TempDir(), Out: t.TempDir()}); artifact.ExitCode(err) != artifact.ExitUsage {
			t.Errorf("%q: %v", distro, err)
		}
	}
	debs := t.TempDir()
	if err := os.WriteFile(filepath.Join(debs, "a_b.deb"), []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FromChangelogs(Build{Distro: "debian 12", Debs: debs, Out: t.TempDir()}); artifact.ExitCode(err) != artifact.ExitFault {
		t.Errorf("broken package: %v", err)
	}
}

func TestScanRefuses(t *testing.T) {
	t.Parallel()
	db := filepath.Dir(database(t))
	for name, o := range map[string]Options{
		"no bill of materials": {SBOM: "/nowhere", DB: db},
		"not one":              {SBOM: write(t, "sbom", []byte("{}")), DB: db},
	} {
		if _, err := Scan(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	empty := emptySBOM(t)
	_, err := Scan(t.Context(), Options{SBOM: empty, DB: t.TempDir()})
	if artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("no database: %v", err)
	}
	r, err := Scan(t.Context(), Options{SBOM: empty, DB: db})
	if err != nil || r.Findings == nil || len(r.Database.Knowledge) != 0 || r.Database.Digest == "" {
		t.Errorf("nothing to scan: %+v, %v", r, err)
	}
}

// emptySBOM is the bill of materials of an image with nothing in it.
func emptySBOM(t *testing.T) string {
	t.Helper()
	path, _ := imagetest.Write(t, imagetest.Image{Layers: []imagetest.Layer{{Files: []imagetest.File{{Name: "hello"}}}}})
	d, err := bom.Generate(t.Context(), bom.Options{Archive: path, Name: "empty"})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "sbom.json", d.Syft)
}
