package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/store"
)

// stepShare is what goes with an exported cache: what its steps fetched.
type stepShare struct {
	Version int        `json:"version"` // 1
	Steps   []stepFile `json:"steps"`
}

// known says whether this program reads a step's record.
func (f stepFile) known() bool { return f.Version >= 1 && f.Version <= stepVersion }

// ExportSteps gives what is known of steps, for a machine that will find them
// cached. Steps that nothing is known of are left out.
func (g *Gateway) ExportSteps(steps []string) ([]byte, error) {
	out := stepShare{Version: 1, Steps: []stepFile{}}
	for _, step := range steps {
		var doc stepFile
		text, err := os.ReadFile(g.steps.file(step))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the materials of step %s: %w", step, err)
		}
		if json.Unmarshal(text, &doc) == nil && doc.known() && doc.Step == step {
			out.Steps = append(out.Steps, doc)
		}
	}
	return json.Marshal(out)
}

// ImportSteps takes over what ExportSteps gave elsewhere. What is known here
// stays.
func (g *Gateway) ImportSteps(b []byte) error {
	var in stepShare
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("reading what steps fetched: %w", err)
	}
	if in.Version != 1 {
		return fmt.Errorf("reading what steps fetched: version %d is not known", in.Version)
	}
	for _, doc := range in.Steps {
		if _, err := artifact.ParseDigest(doc.Step); err != nil || !doc.known() {
			return fmt.Errorf("reading what steps fetched: %q is no step", doc.Step)
		}
		path := g.steps.file(doc.Step)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		text, err := json.MarshalIndent(doc, "", "\t")
		if err == nil {
			err = store.WriteFile(path, append(text, '\n'))
		}
		if err != nil {
			return fmt.Errorf("keeping what step %s fetched: %w", doc.Step, err)
		}
	}
	return nil
}
