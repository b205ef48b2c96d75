package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

var (
	amd64 = artifact.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = artifact.Platform{OS: "linux", Architecture: "arm64"}
)

func subject(repo string, b byte) artifact.Subject {
	return artifact.Subject{
		Repository: repo, Digest: artifact.Digest("sha256:" + strings.Repeat(fmt.Sprintf("%02x", b), 32)),
	}
}

func full() Summary {
	return Summary{
		Trigger: "branch", Engine: Engine{Kind: "embedded", Tier: "T1"}, Exit: 1,
		Images: []Image{
			{
				Image: "age", Platforms: []artifact.Platform{amd64, arm64}, Subject: subject("staging.drydock.local/age", 0xab),
				Verdict: artifact.Pass, Stage: "staging", Packages: 14, Tests: Tests{Passed: 6, Skipped: 2}, Cached: true, Seconds: 0.0304,
			},
			{
				Image: "app", Variant: "go1.26", Platforms: []artifact.Platform{amd64}, Subject: subject("quarantine.drydock.local/app", 0x01),
				Verdict: artifact.Fail, Stage: "quarantine", Packages: 102, Findings: artifact.Counts{Critical: 1, Low: 4, Unknown: 2},
				Tests: Tests{Passed: 3, Failed: 1}, Seconds: 61.5,
				Reasons: []artifact.Reason{
					{
						Rule: "vulnerabilities/critical", Place: "openssl 3.0.1", Reason: "CVE-2026-0001 is critical and fixed in 3.0.2, and this sentence is long enough to be wrapped onto the next line",
						Remedy: "drydock base update",
					},
					{Rule: "tests/failed", Place: "catalog/images/app/tests.yaml:12", Reason: "GET / answered 500"},
				},
			},
			{
				Image: "nginx", Platforms: []artifact.Platform{amd64}, Seconds: 2,
				Error: NewError(&artifact.Error{
					Kind: artifact.KindUsage, Op: "reading", Place: "catalog/images/nginx/Dockerfile.nginx:3",
					Message: "no base \"debian-13\" in the catalog", Remedy: "add it under catalog/bases or use debian-12",
				}),
			},
		},
		Mirrors: []Mirror{
			{Ecosystem: "debian", URL: "http://mirror.example/debian", Public: true},
			{Ecosystem: "go", URL: "http://proxy.corp.example", Public: false},
		},
		StaticOnly: []StaticOnly{{Image: "age", Platforms: []artifact.Platform{arm64}}},
		Notes:      []string{"base debian-12: the mirror no longer serves 1 locked file, resolved to the newest"},
	}
}

func TestSummaryJSON(t *testing.T) {
	for name, s := range map[string]Summary{"summary.json": full(), "summary-empty.json": {Trigger: "local"}} {
		b, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, string(b))
		for _, list := range []string{"images", "platforms", "reasons", "remedies"} {
			if strings.Contains(string(b), `"`+list+`": null`) {
				t.Errorf("%s: list %s is null", name, list)
			}
		}
	}
	if v := (Image{}).Verdict; v != "" {
		t.Error("zero image changed")
	}
}

// The field names are a contract with jobs that read the file: exactly the
// documented ones, in an image and at the top.
func TestSummaryHasExactlyTheDocumentedFields(t *testing.T) {
	b, err := Summary{Images: []Image{{}}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]json.RawMessage
	var images []map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(b, &top), json.Unmarshal(top["images"], &images)); err != nil {
		t.Fatal(err)
	}
	hasExactly(t, top, "version trigger engine images exit")
	hasExactly(t, images[0], "image variant platforms subject verdict reasons stage packages findings tests cached seconds error")
	if string(images[0]["error"]) != "null" || string(images[0]["verdict"]) != `"unknown"` {
		t.Errorf("error %s, verdict %s", images[0]["error"], images[0]["verdict"])
	}
}

func hasExactly(t *testing.T, m map[string]json.RawMessage, names string) {
	t.Helper()
	want := strings.Fields(names)
	for _, n := range want {
		if _, ok := m[n]; !ok {
			t.Errorf("no field %s", n)
		}
	}
	if len(m) != len(want) {
		t.Errorf("%d fields, want %d", len(m), len(want))
	}
}

func TestTable(t *testing.T) {
	for name, c := range map[string]struct {
		s     Summary
		width int
	}{"table.txt": {full(), 0}, "table-narrow.txt": {full(), 20}, "table-empty.txt": {Summary{}, 0}} {
		var b bytes.Buffer
		if err := PrintTable(&b, c.s, c.width); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
}

func TestErrors(t *testing.T) {
	inner := &artifact.Error{
		Kind: artifact.KindFault, Op: "fetching", Place: "http://mirror.example/x.deb",
		Message: "answered 503", Remedy: "set debian: in catalog/mirrors.yaml",
	}
	outer := fmt.Errorf("building nginx: %w", &artifact.Error{Kind: artifact.KindFault, Op: "resolving", Place: "bases/debian.yaml:4", Err: inner, Remedy: "try again\nlater"})
	var text, js bytes.Buffer
	if err := errors.Join(PrintError(&text, outer), PrintErrorJSON(&js, outer)); err != nil {
		t.Fatal(err)
	}
	golden(t, "error.txt", text.String())
	golden(t, "error.json", js.String())

	js.Reset()
	if err := PrintErrorJSON(&js, fmt.Errorf("stopping: %w", artifact.ErrInterrupted)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(js.String(), `"exit": 130`) || !strings.Contains(js.String(), `"remedies": []`) {
		t.Error(js.String())
	}
	text.Reset()
	if err := PrintError(&text, nil); err != nil || text.Len() > 0 || NewError(nil) != nil {
		t.Error("no error, but something is printed")
	}
	joined := errors.Join(errors.New("one"), errors.New("two"))
	if err := PrintError(&text, joined); err != nil || text.String() != "drydock: error: one\n  two\n" {
		t.Errorf("%q", text.String())
	}
}

func TestWriteAndReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "summary.json")
	if err := full().WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if err := full().WriteFile(path); err != nil { // over the old one
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if subjects := got.Subjects(); len(subjects) != 2 || subjects[0] != subject("staging.drydock.local/age", 0xab) {
		t.Errorf("%v", subjects)
	}
	if got.Images[2].Error == nil || got.Images[2].Error.Exit != artifact.ExitUsage {
		t.Errorf("%+v", got.Images[2].Error)
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := full().WriteFile(filepath.Join(blocked, "summary.json"))
	if artifact.ExitCode(err) != artifact.ExitFault || len(artifact.Remedies(err)) == 0 {
		t.Errorf("error %v", err)
	}
	folder := filepath.Join(dir, "summary.json") // a folder where the file should go
	if err := os.MkdirAll(filepath.Join(folder, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := full().WriteFile(folder); err == nil {
		t.Error("wrote over a folder")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("a temporary file is left: %v, %v", left, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"newer": `{"version":2}`, "none": `{}`, "cut": `{"version":1,"images":[`, "tag": `{"version":1,"images":[{"subject":"r.example/x:latest"}]}`,
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := ReadFile(path)
		if artifact.ExitCode(err) != artifact.ExitUsage || len(artifact.Remedies(err)) == 0 || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "none")); artifact.ExitCode(err) != artifact.ExitUsage {
		t.Errorf("missing file: %v", err)
	}
}
