//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

// job is one build as a client process is told of it.
type job struct {
	Kind                string // "" is the embedded engine
	Cache, Images, Tier string
	Base                artifact.Digest
	Context             string // folder with a Dockerfile whose FROM is BASE
}

func (j *job) connect(ctx context.Context) (*engine.Engine, error) {
	kind := j.Kind
	if kind == "" {
		kind = engine.KindEmbedded
	}
	return engine.Connect(ctx, engine.Config{
		Kind: kind, CacheDir: j.Cache, Images: j.Images, Tier: j.Tier, Environ: os.Environ(), Log: io.Discard,
	})
}

// build is the client: connect, build, end.
func (j *job) build(ctx context.Context) error {
	e, err := j.connect(ctx)
	if err != nil {
		return err
	}
	_, err = e.Client.Host().Directory(j.Context).DockerBuild().Sync(ctx)
	return errors.Join(err, e.Close())
}

// keep holds an engine until standard input ends.
func (j *job) keep(ctx context.Context) error {
	e, err := j.connect(ctx)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return e.Close()
}

// drydock is the embedded engine as a peer: clients are processes of their own.
type drydock struct {
	b     *bench
	tier  string
	cache string
	stop  func() error

	engine process      // while one is kept running
	spent  atomic.Int64 // nanoseconds of CPU of clients
}

func (d *drydock) name() string {
	if d.tier == "" {
		return "drydock"
	}
	return "drydock " + d.tier
}

func (d *drydock) from() string { return "base.drydock.internal/" + baseName }

func (d *drydock) client(ctx context.Context, verb, dir string) (*exec.Cmd, error) {
	raw, err := json.Marshal(job{Cache: d.cache, Images: d.b.base.address, Tier: d.tier, Base: d.b.base.digest, Context: dir})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", verb, string(raw))
	cmd.Env = append(os.Environ(), "DAGGER_SESSION_PORT=", "_EXPERIMENTAL_DAGGER_RUNNER_HOST=")
	cmd.Stderr = os.Stderr
	return cmd, nil
}

func (d *drydock) build(ctx context.Context, dir string) error {
	cmd, err := d.client(ctx, "build", dir)
	if err != nil {
		return err
	}
	err = cmd.Run()
	if cmd.ProcessState != nil {
		d.spent.Add(int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()))
	}
	return err
}

// start keeps an engine running, which clients join.
func (d *drydock) start(ctx context.Context) error {
	cmd, err := d.client(ctx, "keep", "/")
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.stop = func() error {
		in.Close()
		return cmd.Wait()
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		return errors.Join(fmt.Errorf("starting the engine: %w", err), d.halt())
	}
	d.engine, err = engineBelow(cmd.Process.Pid)
	return err
}

func (d *drydock) halt() error {
	if d.stop == nil {
		return nil
	}
	stop := d.stop
	d.stop = nil
	return stop()
}

// empty forgets everything.
func (d *drydock) empty() error {
	dir, err := os.MkdirTemp(d.b.tmp, "drydock-")
	d.cache = dir
	return err
}
