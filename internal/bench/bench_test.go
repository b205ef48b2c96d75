package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// project writes a module of two programs as this one has, with no imports that
// would have to be fetched.
func project(t *testing.T, main string) Options {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles programs")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command on this machine")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module drydock\n\ngo 1.24\n", "pipeline/main.go": main, "pipeline/step/main.go": "package main\n\nfunc main() {}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Dir: dir, Out: "out/bench.json", Environ: append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"), warm: true}
}

func figures(t *testing.T, o Options, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.Dir, o.Out))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestBuild(t *testing.T) {
	o := project(t, "package main\n\nfunc main() {}\n")
	if err := Build(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	var f BuildFigures
	figures(t, o, &f)
	if len(f.Programs) != 2 || f.Programs[0].Seconds <= 0 || f.Programs[0].EmptySeconds <= 0 || f.Programs[1].StrippedBytes < 1000 {
		t.Errorf("%+v", f)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "internal")); err == nil {
		t.Error("the empty main was left in the repository")
	}
}

func TestForeignImportsOfThisProject(t *testing.T) {
	o := project(t, "package main\n\nfunc main() {}\n")
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	o.Dir = here
	imports, err := o.foreignImports(context.Background(), "./internal/docgen")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(imports, []string{"github.com/urfave/cli/v2"}) {
		t.Errorf("%v", imports)
	}
}

func summaryOf(images string) string {
	return fmt.Sprintf("package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(%q) }\n", `{"images":[`+images+`]}`)
}

func TestNoop(t *testing.T) {
	o := project(t, summaryOf(`{"cached":true},{"cached":true}`))
	if err := Noop(context.Background(), o, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	var f NoopFigures
	figures(t, o, &f)
	if len(f.Runs) != noopRuns || f.Median <= 0 || f.Images != 2 || f.Cached != 2 {
		t.Errorf("%+v", f)
	}
}

func TestNoopRefusesWhatItDidNotMeasure(t *testing.T) {
	for images, want := range map[string]string{"": "no images", `{"cached":true},{"cached":false}`: "1 of 2 images were not cached"} {
		o := project(t, summaryOf(images))
		if err := Noop(context.Background(), o, t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", images, err)
		}
	}
	o := project(t, "package main\n\nimport \"os\"\n\nfunc main() { os.Stderr.WriteString(\"why\"); os.Exit(3) }\n")
	if err := Noop(context.Background(), o, t.TempDir()); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a failing run: %v", err)
	}
	slow := NoopFigures{Images: 1, Cached: 1, Median: maxSeconds + 1}
	if slow.judge() == nil {
		t.Error("too slow is fine")
	}
}

func TestMedian(t *testing.T) {
	for want, runs := range map[float64][]float64{0: nil, 2: {3, 1, 2}, 2.5: {4, 1, 2, 3}} {
		if got := Median(runs); got != want {
			t.Errorf("%v: %v", runs, got)
		}
	}
}
