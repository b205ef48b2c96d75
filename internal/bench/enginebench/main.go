//go:build linux

// Command enginebench measures the embedded engine beside its peers, in one
// run on one machine: a bare runc for what a step costs, BuildKit's own daemon
// and, where the environment names one, a Dagger Engine for whole builds. `mage bench:engine` runs it; figures are medians, and what
// is quoted from them are ratios.
//
// Everyone gets the same base from the same loopback registry and the same
// Dockerfiles. A peer that cannot be had on this machine is left out, and the
// figures say why.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"drydock/modules/engine"
)

func main() {
	if handled, code := engine.Child(os.Args); handled {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// command is one of: the measuring itself; build, a client that builds one
// Dockerfile and ends; keep, which keeps an engine running until its standard
// input ends.
func command(ctx context.Context, args []string) error {
	if len(args) > 0 && (args[0] == "build" || args[0] == "keep") {
		var j job
		if err := json.Unmarshal([]byte(args[1]), &j); err != nil {
			return err
		}
		if args[0] == "keep" {
			return j.keep(ctx)
		}
		return j.build(ctx)
	}
	flags := flag.NewFlagSet("enginebench", flag.ContinueOnError)
	out := flags.String("out", "out/bench/engine.json", "file of the figures")
	cache := flags.String("cache", ".drydock/bench/cache", "cache directory that holds the base full")
	only := flags.String("only", "", "measure just these peers, separated by commas (drydock, drydock T2, buildkitd, kaniko, Dagger Engine)")
	kaniko := flags.String("kaniko", "", "measure kaniko too, with this executor: a static program, built elsewhere")
	work := flags.Bool("work", false, "measure just the builds of work")
	runs := flags.Int("runs", 5, "how often each thing is measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "enginebench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	b := &bench{tmp: tmp, runs: *runs, only: strings.FieldsFunc(*only, func(r rune) bool { return r == ',' }), work: *work, kaniko: *kaniko, figures: newFigures()}
	if b.base, err = openBase(ctx, filepath.Join(*cache, "bases-registry")); err != nil {
		return err
	}
	b.figures.BaseBytes = b.base.bytes
	if err := b.all(ctx); err != nil {
		return err
	}
	return b.figures.write(*out)
}
