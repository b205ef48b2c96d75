//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// buildkit is BuildKit's own daemon and client, built from the version of
// go.mod with the cache Go has.
type buildkit struct {
	b    *bench
	bin  string
	root string
	cmd  *exec.Cmd
}

func (k *buildkit) name() string { return "buildkitd" }
func (k *buildkit) from() string { return k.b.base.address + "/" + baseName }

// get builds daemon and client; go.mod stays as it is.
func (k *buildkit) get(ctx context.Context) error {
	if _, err := exec.LookPath("runc"); err != nil {
		return errors.New("runc is not installed, which buildkitd needs (package runc)")
	}
	k.bin = filepath.Join(k.b.tmp, "buildkit")
	mod := filepath.Join(k.b.tmp, "peer.mod")
	for from, to := range map[string]string{"go.mod": mod, "go.sum": filepath.Join(k.b.tmp, "peer.sum")} {
		raw, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, raw, 0o644)
		}
		if err != nil {
			return err
		}
	}
	const module = "github.com/moby/buildkit/cmd/"
	cmd := exec.CommandContext(ctx, "go", "build", "-modfile="+mod, "-mod=mod", "-o", k.bin+"/", module+"buildkitd", module+"buildctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building buildkitd: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (k *buildkit) socket() string { return "unix://" + filepath.Join(k.root, "sock") }

func (k *buildkit) start(ctx context.Context) error {
	config := filepath.Join(k.root, "buildkitd.toml")
	text := fmt.Sprintf("[registry.%q]\n  http = true\n[worker.oci]\n  networkMode = \"host\"\n", k.b.base.address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	k.cmd = exec.CommandContext(ctx, filepath.Join(k.bin, "buildkitd"), "--config", config, "--root", filepath.Join(k.root, "state"), "--addr", k.socket())
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &bytes.Buffer{}
	k.cmd.Stderr = log
	if err := k.cmd.Start(); err != nil {
		return err
	}
	for range 600 {
		if k.buildctl(ctx, "debug", "workers").Run() == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	err := k.halt()
	return errors.Join(fmt.Errorf("buildkitd does not answer: %s", bytes.TrimSpace(log.Bytes())), err)
}

func (k *buildkit) buildctl(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(k.bin, "buildctl"), append([]string{"--addr", k.socket()}, args...)...)
}

func (k *buildkit) build(ctx context.Context, dir string) error {
	out, err := k.buildctl(ctx, "build", "--progress=plain", "--frontend", "dockerfile.v0", "--local", "context="+dir, "--local", "dockerfile="+dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("buildctl: %w\n%s", err, out[max(0, len(out)-2000):])
	}
	return nil
}

func (k *buildkit) halt() error {
	if k.cmd == nil {
		return nil
	}
	cmd := k.cmd
	k.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = cmd.Wait() // it says that it was asked to end
	return nil
}

func (k *buildkit) empty() error {
	dir, err := os.MkdirTemp(k.b.tmp, "buildkit-")
	k.root = dir
	return err
}
