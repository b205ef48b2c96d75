//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// runc is one bare `runc run` per command on the unpacked base: what a step
// costs at least with another container runtime. It keeps no layer.
type runc struct {
	bin, bundle, state string
	next               int
}

func newRunc(ctx context.Context, b *bench) (*runc, error) {
	bin, err := exec.LookPath("runc")
	if err != nil {
		return nil, errors.New("runc is not installed (package runc)")
	}
	r := &runc{bin: bin, bundle: filepath.Join(b.tmp, "bundle"), state: filepath.Join(b.tmp, "runc-state")}
	if err := os.MkdirAll(filepath.Join(r.bundle, "rootfs"), 0o755); err != nil {
		return nil, err
	}
	if err := b.base.unpack(filepath.Join(r.bundle, "rootfs")); err != nil {
		return nil, err
	}
	b.figures.BaseBytes = b.base.bytes
	spec := exec.CommandContext(ctx, bin, "spec")
	spec.Dir = r.bundle
	if out, err := spec.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("runc spec: %w: %s", err, bytes.TrimSpace(out))
	}
	return r, r.run(ctx, "true") // does it work here at all?
}

// run runs one shell command.
func (r *runc) run(ctx context.Context, command string) error {
	path := filepath.Join(r.bundle, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return err
	}
	process, _ := spec["process"].(map[string]any)
	root, _ := spec["root"].(map[string]any)
	process["terminal"], process["args"], root["readonly"] = false, []string{"/bin/sh", "-c", command}, false
	delete(process, "rlimits") // raising a limit needs what a plain container has not
	if raw, err = json.Marshal(spec); err != nil {
		return err
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		return err
	}
	r.next++
	cmd := exec.CommandContext(ctx, r.bin, "--root", r.state, "run", "--bundle", r.bundle, fmt.Sprintf("bench-%d-%d", os.Getpid(), r.next))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("runc run: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
