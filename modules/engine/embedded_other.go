//go:build !linux

package engine

import (
	"context"
	"runtime"

	"drydock/modules/artifact"
)

// roomIn is not asked for where there is no embedded engine.
func roomIn(string, int64) int64 { return 0 }

func connectEmbedded(context.Context, Config) (*Engine, error) { return nil, unsupported() }

// Child runs the process if its arguments say it was started as an engine
// child or as the init of a step. It must come first in main, and in TestMain
// of packages that use the embedded engine; when handled, exit with exit.
func Child([]string) (handled bool, exit int) { return false, 0 }

// Probe says that the embedded engine needs Linux.
func Probe(context.Context, string, []string) (Report, error) {
	return Report{Tiers: []TierReport{}, Findings: []Finding{{
		Name: "operating system", Detail: unsupported().Error(),
		Remedy: "run drydock on Linux, or name a Dagger Engine",
	}}}, nil
}

// Emulated is "": the embedded engine does not run here.
func Emulated(artifact.Platform) string { return "" }

// unsupported is the answer of the embedded engine where it cannot run.
func unsupported() error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "starting the embedded engine", Place: runtime.GOOS,
		Message: "it needs Linux (namespaces, overlay)",
		Remedy: "run on Linux or in a Linux virtual machine, or name a Dagger Engine with " +
			envRunnerHost + " and " + envCLIBin,
	}
}
