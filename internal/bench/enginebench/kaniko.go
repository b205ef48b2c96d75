//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"drydock/internal/containertest"
	"drydock/modules/registry"
)

var errNoKaniko = errors.New("not asked for: -kaniko (DRYDOCK_BENCH_KANIKO) names its executor, a static program")

// kaniko builds as root of a default container, whose root it replaces with
// what it builds. Each build is a new container and, where its cache is asked
// for, a repository of a loopback registry. What is timed has the start of the
// container in it.
type kaniko struct {
	b       *bench
	root    string // of its containers
	runtime containertest.Runtime
	cache   string // repository; empty: none
	stop    func()
}

const kanikoName = "kaniko"

// newKaniko lays out an image with nothing but the executor.
func newKaniko(b *bench, executor string) (*kaniko, error) {
	if executor == "" {
		return nil, errNoKaniko
	}
	k := &kaniko{b: b, root: filepath.Join(b.tmp, "kaniko-root")}
	raw, err := os.ReadFile(executor)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"kaniko/.docker", "kaniko/ssl/certs", "workspace", "etc", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(k.root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(k.root, "kaniko/executor"), raw, 0o755); err != nil {
		return nil, err
	}
	k.runtime, err = containertest.Runc(k.root, filepath.Join(b.tmp, "kaniko-runs"))
	return k, err
}

// serve opens an empty registry for its cache.
func (k *kaniko) serve(ctx context.Context) error {
	dir, err := os.MkdirTemp(k.b.tmp, "kaniko-cache-")
	if err != nil {
		return err
	}
	const stage = "cache"
	// what is served is what is there
	if err := os.Mkdir(filepath.Join(dir, stage), 0o700); err != nil {
		return err
	}
	embedded, err := registry.Open(ctx, dir)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	ready, failed := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		failed <- embedded.Serve(serving, registry.ServeOptions{
			Address: "127.0.0.1:0", Stage: stage, Ready: func(a net.Addr) { ready <- a },
		})
	}()
	select {
	case a := <-ready:
		k.cache = a.String() + "/layers"
		k.stop = func() {
			stop()
			<-failed //nolint:errcheck // it was told to end
			k.cache = ""
		}
		return nil
	case err := <-failed:
		stop()
		return err
	}
}

func (k *kaniko) build(ctx context.Context, dir string) error {
	args := []string{
		"/kaniko/executor", "--context", "dir:///workspace", "--no-push", "--force",
		"--insecure", "--insecure-pull", "--insecure-registry", k.b.base.address,
	}
	if k.cache != "" {
		args = append(args, "--cache=true", "--cache-repo", k.cache)
	}
	r, err := k.runtime.Run(ctx, containertest.Container{
		Args: args, HostNetwork: true, Binds: []containertest.Bind{{Source: dir, Dest: "/workspace", ReadOnly: true}},
		Env: []string{"HOME=/root", "USER=root", "PATH=/usr/local/bin:/usr/bin:/bin:/kaniko", "DOCKER_CONFIG=/kaniko/.docker/", "SSL_CERT_DIR=/kaniko/ssl/certs"},
	})
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("kaniko ended with %d: %s", r.Code, r.Stderr[max(0, len(r.Stderr)-2000):])
	}
	return err
}

// from is how FROM spells the base for it.
func (k *kaniko) from() string { return k.b.base.address + "/" + baseName }

// measure times builds without a cache, whole, and with one that knows the
// base's steps.
func (k *kaniko) measure(ctx context.Context) error {
	timed := func(what, text string) error {
		return k.b.inNewFolder(text, func(dir string) error {
			return k.b.timed(kanikoName, what, func() error { return k.build(ctx, dir) })
		})
	}
	for range k.b.runs {
		if err := timed("cold with pull", k.b.chain(k, chainSteps)); err != nil {
			return err
		}
	}
	if err := k.serve(ctx); err != nil {
		return err
	}
	defer k.stop()
	chain := k.b.chain(k, chainSteps)
	if err := k.b.inNewFolder(chain, func(dir string) error { return k.build(ctx, dir) }); err != nil {
		return err
	}
	for range k.b.runs {
		if err := timed("nothing changed", chain); err != nil {
			return err
		}
		if err := timed("new commands", k.b.chain(k, chainSteps)); err != nil {
			return err
		}
	}
	return nil
}
