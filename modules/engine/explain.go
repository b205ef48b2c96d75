package engine

import (
	"context"
	"errors"

	"drydock/modules/artifact"
)

// Explain turns an error of Engine.Client into an artifact.Error: what the
// engine says about its kind, place (Dockerfile:line) and remedy is taken from
// it, whatever it does not say is a fault worth a retry. An error that already
// has a kind, and a cancellation, stay as they are. *dagger.ExecError is found
// in it by errors.As, as before.
func Explain(doing string, err error) error {
	var have *artifact.Error
	if err == nil || errors.As(err, &have) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &artifact.Error{Kind: artifact.KindFault, Op: doing, Err: err}
	var extended interface{ Extensions() map[string]any }
	if !errors.As(err, &extended) {
		return e
	}
	ext := extended.Extensions()
	switch ext["kind"] {
	case "usage":
		e.Kind = artifact.KindUsage
	case "internal":
		e.Kind = artifact.KindInternal
	}
	if place, ok := ext["place"].(string); ok {
		e.Place = place
	}
	if remedy, ok := ext["remedy"].(string); ok {
		e.Remedy = remedy
	}
	return e
}
