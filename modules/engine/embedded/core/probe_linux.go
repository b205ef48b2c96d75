package core

import (
	"bufio"
	"context"
	"errors"
	"os"
)

// Probe says what this host offers the engine.
func Probe(ctx context.Context) (Report, error) { return Report{Tier: "T1"}, nil }

func probeMain(in *bufio.Reader, out *os.File) error { return errors.New("not yet") }

// RemoveState x
func RemoveState(ctx context.Context, c ChildConfig) error { return os.RemoveAll(c.Root) }
