package main

import (
	"testing"

	"drydock/internal/docgen"
)

func TestTheCommandReferenceIsCurrent(t *testing.T) {
	if d := docgen.Diff("../docs/cli.md", docgen.Markdown(testApp())); d != "" {
		t.Error(d)
	}
}
