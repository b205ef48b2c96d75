//go:build mage

// What people of this repository do now and then; `go run
// github.com/magefile/mage -l` lists it. CI needs none of it.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/magefile/mage/mg"
	"github.com/magefile/mage/sh"

	"drydock/internal/bench"
)

const lintVersion = "v2.15.0" // also in .ci/run

// withoutCgo is the environment everything here is built in.
var withoutCgo = map[string]string{"CGO_ENABLED": "0"}

// Build builds the program and the step program, stripped, into out/bin.
func Build() error {
	for out, pkg := range map[string]string{"drydock": "./pipeline", "drydock-step": "./pipeline/step"} {
		if err := sh.RunWithV(withoutCgo, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", "out/bin/"+out, pkg); err != nil {
			return err
		}
	}
	return nil
}

// Test runs all tests, also those that build images.
func Test() error {
	return sh.RunWithV(withoutCgo, "go", "test", "-timeout", "60m", "./...")
}

// Quick runs the tests that build no images.
func Quick() error {
	return sh.RunWithV(withoutCgo, "go", "test", "-short", "./...")
}

// Lint runs go vet and golangci-lint in the version CI uses.
func Lint() error {
	if err := sh.RunWithV(withoutCgo, "go", "vet", "./..."); err != nil {
		return err
	}
	return sh.RunWithV(withoutCgo, "go", "run", "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@"+lintVersion, "run")
}

// Docs writes the pages that are generated: the command reference and the
// golden files of everything rendered.
func Docs() error {
	return sh.RunWithV(withoutCgo, "go", "test", "./pipeline", "-run", "^TestDocs$", "-update")
}

// Bench measures; figures go to out/bench.
type Bench mg.Namespace

// Build measures the first compile of both programs against an empty main that
// imports the same modules, and their sizes; it fails at 100 MB.
func (Bench) Build(ctx context.Context) error {
	return bench.Build(ctx, options("build.json"))
}

// Noop measures runs on the shipped catalog in which nothing changed; it fails
// above 3 s. DRYDOCK_BENCH_STATE keeps the state of the first run elsewhere.
func (Bench) Noop(ctx context.Context) error {
	state := os.Getenv("DRYDOCK_BENCH_STATE")
	if state == "" {
		state = ".drydock/bench"
	}
	return bench.Noop(ctx, options("noop.json"), state)
}

// Engine measures the embedded engine beside runc and buildkitd, which it
// builds, and writes ratios of medians to out/bench/engine.json. With
// DRYDOCK_BENCH_KANIKO naming kaniko's executor, that too, as root of a default
// container of runc's; where the environment names a Dagger Engine that has this
// machine's loopback, that too. Run it on an idle machine.
func (Bench) Engine() error {
	if err := sh.RunWithV(withoutCgo, "go", "run", "./pipeline", "build", "--image", "redis", "--state", ".drydock/bench", "--out", "out/bench/images"); err != nil {
		return err
	}
	return sh.RunWithV(withoutCgo, "go", "run", "./internal/bench/enginebench", "-out", "out/bench/engine.json", "-cache", ".drydock/bench/cache", "-kaniko", os.Getenv("DRYDOCK_BENCH_KANIKO"))
}

// Mirror measures the gateway's content store beside nginx's proxy_cache (of
// apt-get install nginx) and writes ratios of medians to out/bench/mirror.json;
// it fails below 0.9 or when memory grows. Run it on an idle machine.
func (Bench) Mirror() error {
	return sh.RunWithV(withoutCgo, "go", "run", "./internal/bench/mirrorbench", "-out", "out/bench/mirror.json")
}

// Bases measures the bases minimal and full beside mmdebstrap (of apt-get
// install mmdebstrap) with the same packages, as root, and writes ratios of
// medians to out/bench/bases.json. Run it on an idle machine.
func (Bench) Bases(ctx context.Context) error {
	return bench.Bases(ctx, options("bases.json"))
}

func options(file string) bench.Options {
	dir, err := os.Getwd()
	if err != nil {
		dir = "."
	}
	return bench.Options{
		Dir: dir, Out: "out/bench/" + file, Environ: append(os.Environ(), "CGO_ENABLED=0"),
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
}
