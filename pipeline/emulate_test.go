//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

// armProgram says what it runs on, from a RUN into a file of the image.
const armProgram = `package main

import (
	"os"
	"runtime"
)

func main() {
	if len(os.Args) > 1 {
		if err := os.WriteFile(os.Args[1], []byte(runtime.GOARCH), 0o644); err != nil {
			panic(err)
		}
	}
	os.Stdout.WriteString("hello from " + runtime.GOARCH + "\n")
}
`

// armCatalog is a catalog with one image, whose RUN is arm64's code.
func armCatalog(t *testing.T, dir string) {
	t.Helper()
	if err := copyCatalog(filepath.Join(dir, "catalog"), false); err != nil {
		t.Fatal(err)
	}
	emulators, err := os.ReadFile(filepath.Join("..", "catalog", "emulators.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"catalog/emulators.yaml":            string(emulators) + "tests: true\n",
		"catalog/images/arm.yaml":           "version: 1\nname: arm\nplatforms: [linux/arm64]\ntests:\n  structure: [arm/structure.yaml]\n",
		"catalog/images/arm/Dockerfile":     "FROM minimal\nCOPY program /program\nUSER 0\nRUN [\"/program\", \"/made\"]\nUSER 65532:65532\n",
		"catalog/images/arm/structure.yaml": "schemaVersion: 2.0.0\ncommandTests:\n  - {name: runs, command: /program, expectedOutput: [hello from arm64]}\nfileContentTests:\n  - {name: made, path: /made, expectedContents: [arm64]}\n",
		"program.go":                        armProgram,
		"catalog/images/arm/.dockerignore":  "structure.yaml\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "catalog/images/arm/program"), filepath.Join(dir, "program.go"))
	cmd.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestForeignArchitecture runs arm64's code in a RUN and in the tests of an
// image, with the emulator of the catalog, and is refused in words without.
func TestForeignArchitecture(t *testing.T) {
	d := openDock(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the catalog's emulators are for linux/amd64")
	}
	report, err := engine.Probe(t.Context(), t.TempDir(), os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		if f.Name == engine.FindingForeign && !f.OK {
			t.Skip("this host gives a user namespace no binfmt_misc of its own: " + f.Detail)
		}
	}
	dir := t.TempDir()
	armCatalog(t, dir)
	// the newest: an older one may be gone from the mirror
	if j := d.start(t, dir, "base", "update", "--emulators"); j.exit(t) != 0 {
		t.Fatalf("%s\n%s", j.stdout, j.stderr)
	}
	if j := d.start(t, dir, "test", "--out", "out"); j.exit(t) != 0 {
		t.Fatalf("%s\n%s", j.stdout, j.stderr)
	}
	files, err := filepath.Glob(filepath.Join(dir, "out", "arm", "*", "tests.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("reports %q, %v", files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var tests artifact.TestReport
	if err := json.Unmarshal(raw, &tests); err != nil || !tests.Emulated || tests.StaticOnly || tests.Failed+tests.Skipped > 0 || tests.Passed < 3 {
		t.Errorf("got %s, %v", raw, err)
	}

	if err := os.Remove(filepath.Join(dir, "catalog/emulators.yaml")); err != nil {
		t.Fatal(err)
	}
	j := d.start(t, dir, "build", "--out", "none")
	if code := j.exit(t); code != artifact.ExitUsage || !strings.Contains(j.stdout.String()+j.stderr.String(), "emulators.yaml") {
		t.Errorf("without emulators: exit %d\n%s\n%s", code, j.stdout, j.stderr)
	}
}
