package main

import (
	"flag"
	"os"
	"testing"

	"drydock/internal/docgen"
)

var update = flag.Bool("update", false, "write docs/cli.md instead of comparing it")

// TestDocs holds docs/cli.md to what --help says.
func TestDocs(t *testing.T) {
	want := docgen.Markdown(testApp())
	if *update {
		if err := os.WriteFile("../docs/cli.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := docgen.Diff("../docs/cli.md", want); d != "" {
		t.Error(d)
	}
}
