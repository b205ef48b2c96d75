//go:build linux

package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"

	"drydock/modules/engine"
)

const daggerName = "Dagger Engine"

// daggerEngine is a Dagger Engine that runs somewhere, as the environment names
// it. Its clients are those of drydock: a program of the Go SDK.
type daggerEngine struct{ b *bench }

func (d *daggerEngine) name() string { return daggerName }
func (d *daggerEngine) from() string { return d.b.base.address + "/" + baseName }

// get says why there is none to measure.
func (d *daggerEngine) get() error {
	if os.Getenv("_EXPERIMENTAL_DAGGER_RUNNER_HOST") == "" {
		return errNoDagger
	}
	return nil
}

// Nothing starts it here, so that it keeps what it has.
func (d *daggerEngine) empty() error                { return nil }
func (d *daggerEngine) start(context.Context) error { return nil }
func (d *daggerEngine) halt() error                 { return nil }

func (d *daggerEngine) build(ctx context.Context, dir string) error {
	raw, err := json.Marshal(job{Kind: engine.KindDagger, Images: d.b.base.address, Context: dir})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "build", string(raw))
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
