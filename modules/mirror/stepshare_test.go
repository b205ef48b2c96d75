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
	here.steps.build(h)
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
