package scan

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/modules/image"
	"drydock/modules/mirror"
	"drydock/modules/sbom"
	"drydock/modules/steprun/steptest"
	"drydock/modules/steprun/wire"
)

func TestMain(m *testing.M) { os.Exit(steptest.Main(m)) }

// status is a dpkg database with two old packages of one source and one of
// another.
const status = `Package: libexpat1
Status: install ok installed
Architecture: amd64
Source: expat
Version: 2.5.0-1

Package: libexpat1-dev
Status: install ok installed
Architecture: amd64
Source: expat
Version: 2.5.0-1

Package: gzip
Status: install ok installed
Architecture: amd64
Version: 1.12-1
`

const osRelease = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"

// inventory builds an image of those packages and catalogues it.
func inventory(t *testing.T, e *engine.Engine, step string) *sbom.Documents {
	t.Helper()
	dir := t.TempDir()
	for name, body := range map[string]string{"status": status, "os-release": osRelease} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := image.Build(t.Context(), e.Client, step, image.Source{
		Name: "scan-test", ContextDir: dir, Epoch: 1763600000,
		Dockerfile: []byte("FROM scratch\nCOPY status /var/lib/dpkg/status\nCOPY os-release /etc/os-release\n"),
		Platform:   artifact.Platform{OS: "linux", Architecture: runtime.GOARCH},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := sbom.Generate(t.Context(), e.Client, step, b.Tar, sbom.Options{Name: "scan-test", Epoch: 1763600000})
	if err != nil {
		t.Fatal(err)
	}
	if d.Packages["deb"] != 3 || d.Distro != "debian 12" || len(d.Sources) != 2 || len(d.Sources[0].Others) != 1 {
		t.Fatalf("catalogued %+v %q %+v", d.Packages, d.Distro, d.Sources)
	}
	for name, doc := range map[string][]byte{"SPDX": d.SPDX, "CycloneDX": d.CycloneDX} {
		if !bytes.Contains(doc, []byte("libexpat1-dev")) || !bytes.Contains(doc, []byte("2025-11-20T00:53:20Z")) {
			t.Errorf("%s lacks a package or the epoch", name)
		}
	}
	return d
}

// sample is the sample database, or a skip.
func sample(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("DRYDOCK_TEST_VULNDB"), filepath.Join("..", "..", "..", "shared", "vulndb"), filepath.Join("..", "..", "..", "..", "shared", "vulndb")} {
		if _, err := os.Stat(filepath.Join(dir, "latest.json")); dir != "" && err == nil {
			return dir
		}
	}
	t.Skip("no sample vulnerability database: DRYDOCK_TEST_VULNDB names none")
	return ""
}

// TestSampleDatabase uses a database of thousands of entries, as a mirror
// would serve it; TestMirroredDatabase makes a small one of its own.
func TestSampleDatabase(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	mirrored(t, steptest.Engine(t), steptest.Binary(t), dir)
}

func TestMirroredDatabase(t *testing.T) {
	t.Parallel()
	step := steptest.Binary(t)
	e := steptest.Engine(t)
	docs := inventory(t, e, step)
	m := &debian{files: map[string]string{"libexpat1": deb(t, "libexpat1", expatLog)}}
	db, err := Resolver{CacheDir: t.TempDir(), Debian: m, Client: e.Client, StepBin: step}.Resolve(t.Context(), docs.Distro, docs.Sources)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(db.Dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const name = "vulnerability-db_v6.1.10_2026-11-21T00:00:00Z_1.tar.gz"
	archive := pack(t, map[string]string{databaseName: string(raw)})
	sum := sha256.Sum256(archive)
	latest := fmt.Sprintf(`{"status":"active","schemaVersion":"v6.1.10","path":%q,"checksum":"sha256:%x"}`, name, sum)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, name), archive, 0o644), os.WriteFile(filepath.Join(dir, "latest.json"), []byte(latest), 0o644)); err != nil {
		t.Fatal(err)
	}
	mirrored(t, e, step, dir)
}

// mirrored serves a directory as a mirror would and scans with what it serves.
func mirrored(t *testing.T, e *engine.Engine, step, dir string) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.StripPrefix("/v6/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	})))
	defer server.Close()
	r := Resolver{Setting: server.URL + "/v6/latest.json", Place: "mirrors.yaml:3", CacheDir: t.TempDir(), HTTP: server.Client(), Client: e.Client, StepBin: step}
	docs := inventory(t, e, step)
	db, err := r.Resolve(t.Context(), docs.Distro, docs.Sources)
	if err != nil {
		t.Fatal(err)
	}
	if db.Database.Source != SourceMirror || db.Database.Schema != "v6.1.10" || db.Database.Built.IsZero() {
		t.Errorf("database %+v", db.Database)
	}
	report, err := Run(t.Context(), e.Client, step, docs.Syft, db)
	if err != nil {
		t.Fatal(err)
	}
	k := report.Database.Knowledge["deb"]
	if !k.Covered || k.Unfixed || k.Severities || report.Database.Digest != db.Database.Digest {
		t.Errorf("report on the database %+v", report.Database)
	}
	if len(report.Findings) == 0 || report.Packages["deb"] != 3 || !strings.HasPrefix(report.Scanner, "grype v") {
		t.Errorf("report %+v", report)
	}
	for _, f := range report.Findings {
		if f.FixState != "fixed" || len(f.FixedIn) == 0 || f.Type != "deb" || !strings.Contains(f.Namespace, "debian:12") {
			t.Errorf("finding %+v", f)
		}
	}
	asked.Store(0)
	again, err := r.Resolve(t.Context(), docs.Distro, docs.Sources)
	if err != nil || again.Dir != db.Dir || asked.Load() != 1 {
		t.Errorf("second time: %v, %v, asked %d times, want latest.json only", again, err, asked.Load())
	}
	t.Run("from a file", func(t *testing.T) {
		r := r
		r.Setting = filepath.Join(dir, "latest.json")
		db, err := r.Resolve(t.Context(), docs.Distro, docs.Sources)
		if err != nil || db.Database.Source != SourceFile || db.Dir != again.Dir {
			t.Errorf("%+v, %v", db, err)
		}
	})
	t.Run("grype's own", func(t *testing.T) {
		cache := t.TempDir()
		if err := os.MkdirAll(filepath.Join(cache, "6"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := copyFile(filepath.Join(cache, "6", databaseName), filepath.Join(db.Dir, databaseName)); err != nil {
			t.Fatal(err)
		}
		r := Resolver{Setting: "auto", CacheDir: t.TempDir(), GrypeCache: cache}
		own, err := r.Resolve(t.Context(), "", nil)
		if err != nil || own.Database.Source != SourceCache || own.Database.Digest == "" {
			t.Fatalf("%+v, %v", own, err)
		}
		report, err := Run(t.Context(), e.Client, step, docs.Syft, own)
		if err != nil || len(report.Findings) == 0 || report.Database.Built.IsZero() {
			t.Errorf("%v, %v", report, err)
		}
	})
}

// pack is a compressed tar.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for n, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte(body))
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// deb is a binary package with a changelog, or without.
func deb(t *testing.T, name, changelog string) string {
	t.Helper()
	data := map[string]string{"./usr/share/doc/" + name + "/copyright": "free"}
	if changelog != "" {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		_, _ = z.Write([]byte(changelog))
		_ = z.Close()
		data["./usr/share/doc/"+name+"/changelog.Debian.gz"] = buf.String()
	}
	out := bytes.NewBufferString("!<arch>\n")
	for _, m := range []struct {
		name string
		body []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", pack(t, map[string]string{"./control": "Package: " + name + "\n"})}, {"data.tar.gz", pack(t, data)}} {
		_, _ = fmt.Fprintf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.body))
		out.Write(m.body)
		if len(m.body)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	path := filepath.Join(t.TempDir(), name+".deb")
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// debian is a mirror of packages.
type debian struct {
	files map[string]string
	asked atomic.Int32
}

func (d *debian) Package(_ context.Context, p wire.SourcePackage) (string, artifact.Digest, error) {
	d.asked.Add(1)
	f, ok := d.files[p.Binary]
	if !ok {
		return "", "", &artifact.Error{Kind: artifact.KindFault, Err: mirror.ErrNotFound}
	}
	raw, err := os.ReadFile(f)
	sum := sha256.Sum256(raw)
	return f, artifact.Digest("sha256:" + hex.EncodeToString(sum[:])), err
}

const expatLog = `expat (2.5.0-1+deb12u2) bookworm-security; urgency=high

  * Fix CVE-2024-45490 and CVE-2024-45491.

 -- A Maintainer <a@example.org>  Fri, 06 Sep 2024 10:00:00 +0200

expat (2.5.0-1) unstable; urgency=medium

  * New upstream release, fixes CVE-2022-43680.

 -- A Maintainer <a@example.org>  Wed, 26 Oct 2022 10:00:00 +0200
`

func TestDatabaseFromChangelogs(t *testing.T) {
	t.Parallel()
	step := steptest.Binary(t)
	e := steptest.Engine(t)
	docs := inventory(t, e, step)
	// libexpat1 links to the documentation of libexpat1-dev.
	m := &debian{files: map[string]string{"libexpat1": deb(t, "libexpat1", ""), "libexpat1-dev": deb(t, "libexpat1-dev", expatLog)}}
	now := func() time.Time { return time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC) }
	r := Resolver{CacheDir: t.TempDir(), Debian: m, Client: e.Client, StepBin: step, Now: now}
	db, err := r.Resolve(t.Context(), docs.Distro, docs.Sources)
	if err != nil {
		t.Fatal(err)
	}
	if db.Database.Source != SourceBuilt || !db.Database.Built.Equal(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("database %+v", db.Database)
	}
	report, err := Run(t.Context(), e.Client, step, docs.Syft, db)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range report.Findings {
		got = append(got, fmt.Sprint(f.ID, " ", f.Package, " ", f.FixedIn, " ", f.Severity))
	}
	want := "CVE-2024-45490 libexpat1 [2.5.0-1+deb12u2] unknown\nCVE-2024-45490 libexpat1-dev [2.5.0-1+deb12u2] unknown\n" +
		"CVE-2024-45491 libexpat1 [2.5.0-1+deb12u2] unknown\nCVE-2024-45491 libexpat1-dev [2.5.0-1+deb12u2] unknown"
	slices.Sort(got)
	if strings.Join(got, "\n") != want {
		t.Errorf("findings\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	// The mirror has no gzip: the database does not know all of the image.
	if k := report.Database.Knowledge["deb"]; k.Covered || k.Unfixed || k.Severities {
		t.Errorf("knowledge %+v", k)
	}
	m.files["gzip"] = deb(t, "gzip", strings.ReplaceAll(expatLog, "expat", "gzip"))
	full, err := r.Resolve(t.Context(), docs.Distro, docs.Sources)
	if err != nil {
		t.Fatal(err)
	}
	if report, err = Run(t.Context(), e.Client, step, docs.Syft, full); err != nil {
		t.Fatal(err)
	}
	if k := report.Database.Knowledge["deb"]; !k.Covered || k.Unfixed || k.Severities {
		t.Errorf("knowledge %+v", k)
	}
	if full.Dir == db.Dir {
		t.Error("other packages made the same database")
	}
}

func TestBrokenDatabases(t *testing.T) {
	t.Parallel()
	step := steptest.Binary(t)
	e := steptest.Engine(t)
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte("no database at all"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := Resolver{Setting: garbage, Place: "mirrors.yaml:3", CacheDir: t.TempDir(), Client: e.Client, StepBin: step}
	_, err := r.Resolve(t.Context(), "", nil)
	if artifact.ExitCode(err) != artifact.ExitUsage || len(artifact.Remedies(err)) == 0 {
		t.Errorf("exit %d: %v", artifact.ExitCode(err), err)
	}
	if left := store(t, r); len(left) != 0 {
		t.Errorf("left behind %v", left)
	}
}
