package core

import (
	"context"
	"errors"
)

// New opens the engine.
func New(ctx context.Context, o Options) (*Core, error) { return nil, errors.New("not yet") }

// StartChild starts the engine child.
func StartChild(ctx context.Context, c ChildConfig) (*Child, error) {
	return nil, errors.New("not yet")
}

// ChildMain runs the process if its arguments say it is a child of the engine.
func ChildMain(args []string, serve Serve) (handled bool, exit int) { return false, 0 }

// Probe says what this host offers the engine.
func Probe(ctx context.Context) (Report, error) { return Report{}, errors.New("not yet") }
