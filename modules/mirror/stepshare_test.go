package mirror

import (
	"encoding/json"
	"strings"
	"testing"

	"drydock/modules/artifact"
)

// TestStepsTravel: what cached steps fetched is known on the machine they are
// taken to, as its own steps write it.
func TestStepsTravel(t *testing.T) {
	t.Parallel()
	const step = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	there, here := &Gateway{steps: newStepBook(t.TempDir())}, &Gateway{steps: newStepBook(t.TempDir())}
	end := there.steps.begin(step, "RUN x", nil)
	there.steps.fetched(step, artifact.Material{Ecosystem: Go, URL: "go/x", Path: "x", Digest: step})
	if err := end(true); err != nil {
		t.Fatal(err)
	}
	raw, err := there.ExportSteps([]string{step, "sha256:unknown"})
	if err != nil {
		t.Fatal(err)
	}
	if err := here.ImportSteps(raw); err != nil {
		t.Fatal(err)
	}
	var h hello
	if err := json.Unmarshal([]byte(`{"build":"b","steps":[{"step":"`+step+`","name":"RUN x"}]}`), &h); err != nil {
		t.Fatal(err)
	}
	if err := here.steps.build(h); err != nil {
		t.Fatal(err)
	}
	if f := here.steps.of("b"); !f.Complete || !f.Lockable || len(f.Materials) != 1 || f.Materials[0].Path != "x" {
		t.Errorf("%+v from %s", f, raw)
	}
	newer := strings.Replace(string(raw), `"version":2`, `"version":9`, 1)
	if newer == string(raw) {
		t.Fatalf("no record in %s", raw)
	}
	if err := here.ImportSteps([]byte(newer)); err == nil {
		t.Error("a record of a newer program was read")
	}
}

// TestInherited: a step whose result another one made has the materials of that,
// also where it had a record of its own; one of whom nothing is known stays
// unknown.
func TestInherited(t *testing.T) {
	t.Parallel()
	b := newStepBook(t.TempDir())
	one, two, three := stepID("a"), stepID("b"), stepID("c")
	for step, path := range map[string]string{one: "x", two: "old"} {
		end := b.begin(step, "RUN x", nil)
		b.fetched(step, artifact.Material{Ecosystem: Go, URL: "go/" + path, Path: path, Digest: artifact.Digest(one)})
		if err := end(true); err != nil {
			t.Fatal(err)
		}
	}
	var h hello
	text := `{"build":"b","steps":[{"step":"` + two + `","name":"RUN x","madeBy":"` + one + `"}]}`
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	if err := b.build(h); err != nil {
		t.Fatal(err)
	}
	if f := b.of("b"); !f.Lockable || len(f.Materials) != 1 || f.Materials[0].Path != "x" {
		t.Errorf("%+v", f)
	}
	h.Build, h.Steps[0].Step, h.Steps[0].MadeBy = "c", three, stepID("d")
	if err := b.build(h); err != nil {
		t.Fatal(err)
	}
	if b.of("c").Complete {
		t.Error("a step nobody knows is known")
	}
}
