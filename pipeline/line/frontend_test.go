package line

import (
	"errors"
	"strings"
	"testing"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/engine"
)

func TestReaderOfAnotherEngine(t *testing.T) {
	file, err := dockerfile.Parse("x/Dockerfile", []byte("# syntax=example.org/mine:1\nFROM full\n"))
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{readers: map[string]*shared[reader]{}}
	e := &engine.Engine{Kind: engine.KindDagger}
	if r, err := l.reader(e, &catalog.Image{Parsed: file}); err != nil || r.spelling != "" {
		t.Errorf("the built-in frontend: %+v, %v", r, err)
	}
	_, err = l.reader(e, &catalog.Image{Parsed: file, Frontend: &catalog.Frontend{Syntax: "example.org/mine:1"}})
	var refused *artifact.Error
	if !errors.As(err, &refused) || refused.Place != "x/Dockerfile:1" || refused.Kind != artifact.KindUsage || !strings.Contains(refused.Message, "own frontend only") {
		t.Errorf("an external one: %v", err)
	}
}
