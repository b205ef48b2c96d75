//go:build !linux

package core

import (
	"context"
	"runtime"

	"drydock/modules/artifact"
)

type boundWorker struct{}

type members struct{}

func unsupported(op string) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: op,
		Message: "the embedded engine needs Linux, this is " + runtime.GOOS,
		Remedy:  "run drydock on Linux, or give it a Dagger Engine",
	}
}

// New needs Linux.
func New(context.Context, Options) (*Core, error) { return nil, unsupported("opening the engine") }

// StartChild needs Linux.
func StartChild(context.Context, ChildConfig) (*Child, error) {
	return nil, unsupported("starting the engine")
}

// Prune needs Linux.
func Prune(context.Context, ChildConfig, PruneOptions) (*Freed, error) {
	return nil, unsupported("pruning the engine's cache")
}

// StateOf finds nothing.
func StateOf(context.Context, string) (*State, error) { return nil, nil }

// Measure needs Linux.
func Measure(context.Context, ChildConfig) (*State, error) {
	return nil, unsupported("measuring the engine's cache")
}

// FindRunning finds nothing.
func FindRunning(string) *Running { return nil }

// ChildMain handles nothing: there is no engine child on this system.
func ChildMain([]string, Serve) (handled bool, exit int) { return false, 0 }

// RemoveState needs Linux.
func RemoveState(context.Context, ChildConfig) error {
	return unsupported("removing the engine's state")
}

// Probe reports that the embedded engine needs Linux.
func Probe(context.Context, string, []string) (Report, error) {
	err := unsupported("probing")
	return Report{Findings: []Finding{{
		Name: "operating system", Detail: err.Error(), Remedy: "run drydock on Linux, or give it a Dagger Engine",
	}}}, nil
}
