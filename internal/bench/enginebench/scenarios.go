//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	chainSteps    = 5
	overheadSteps = 20
)

// builder is a peer that builds Dockerfiles.
type builder interface {
	name() string
	from() string                                // how FROM spells the base, without its digest
	empty() error                                // a new, empty state
	start(ctx context.Context) error             // a server for clients to come
	build(ctx context.Context, dir string) error // one client process
	halt() error
}

type bench struct {
	tmp     string
	runs    int
	only    []string // peers; empty: all
	work    bool     // only the builds of work
	kaniko  string   // its executor; empty: there is none
	base    *base
	figures *figures
	serial  int
}

// all measures everything that can be measured here.
func (b *bench) all(ctx context.Context) error {
	bare, err := newRunc(ctx, b)
	if err != nil {
		b.figures.leave("runc", err)
	}
	kit := &buildkit{b: b}
	peers := []builder{&drydock{b: b}, &drydock{b: b, tier: "T2"}}
	if !b.wanted(kit.name()) {
		b.figures.leave(kit.name(), errNotWanted)
	} else if err := kit.get(ctx); err != nil {
		b.figures.leave("buildkitd", err)
	} else {
		peers = append(peers, kit)
	}
	theirs := &daggerEngine{b: b}
	if err := theirs.get(); err != nil {
		b.figures.leave(daggerName, err)
	} else {
		peers = append(peers, theirs)
	}
	peers = slices.DeleteFunc(peers, func(p builder) bool { return !b.wanted(p.name()) })
	for _, p := range peers {
		if err := b.peer(ctx, p); err != nil {
			if p.name() == "drydock" {
				return err
			}
			b.figures.leave(p.name(), err)
		}
	}
	if err := b.other(ctx); err != nil {
		return err
	}
	if bare != nil {
		for range b.runs {
			if err := b.timed("runc", "step", func() error { return bare.run(ctx, "echo "+b.unique()) }); err != nil {
				return err
			}
		}
	}
	b.figures.compare()
	return nil
}

func (b *bench) wanted(peer string) bool { return len(b.only) == 0 || slices.Contains(b.only, peer) }

// other measures kaniko, when it is there.
func (b *bench) other(ctx context.Context) error {
	k, err := newKaniko(b, b.kaniko)
	if err == nil && (b.work || !b.wanted(kanikoName)) {
		err = errNotWanted
	}
	if err == nil {
		err = k.measure(ctx)
	}
	if err != nil {
		b.figures.leave(kanikoName, err)
	}
	return ctx.Err()
}

// peer measures one builder.
func (b *bench) peer(ctx context.Context, p builder) (err error) {
	defer func() {
		if herr := p.halt(); err == nil {
			err = herr
		}
	}()
	colds, warms := b.runs, b.runs
	if p.name() == daggerName { // what it has cannot be taken away from here
		colds = 0
	}
	if b.work {
		colds, warms = 0, 0
	}
	for range colds {
		if err := b.cold(ctx, p); err != nil {
			return err
		}
	}
	if err := p.empty(); err != nil {
		return err
	}
	if err := p.start(ctx); err != nil {
		return err
	}
	chain := b.chain(p, chainSteps)
	if err := b.inNewFolder(chain, func(dir string) error { return p.build(ctx, dir) }); err != nil {
		return err
	}
	for range warms {
		if err := b.warm(ctx, p, chain); err != nil {
			return err
		}
	}
	if err := b.works(ctx, p); err != nil {
		return err
	}
	if err := p.halt(); err != nil {
		return err
	}
	return b.alone(ctx, p, chain, warms)
}

// alone is without a running engine. A daemon that is not running is nothing
// its users wait for.
func (b *bench) alone(ctx context.Context, p builder, chain string, runs int) error {
	if _, ours := p.(*drydock); !ours {
		return nil
	}
	return b.inNewFolder(chain, func(dir string) error {
		for range runs {
			if err := b.timed(p.name(), "nothing changed, nothing running", func() error { return p.build(ctx, dir) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// cold is from an empty state, pull included; the server has started.
func (b *bench) cold(ctx context.Context, p builder) error {
	if err := p.empty(); err != nil {
		return err
	}
	if err := p.start(ctx); err != nil {
		return err
	}
	if err := b.inNewFolder(b.chain(p, chainSteps), func(dir string) error {
		return b.timed(p.name(), "cold with pull", func() error { return p.build(ctx, dir) })
	}); err != nil {
		return err
	}
	return p.halt()
}

// warm is with a running server that knows the base.
func (b *bench) warm(ctx context.Context, p builder, chain string) error {
	for _, m := range []struct{ what, text string }{
		{"nothing changed", chain},
		{"new commands", b.chain(p, chainSteps)},
		{"one step", b.chain(p, 1)},
		{"many steps", b.chain(p, 1+overheadSteps)},
	} {
		if err := b.inNewFolder(m.text, func(dir string) error {
			return b.timed(p.name(), m.what, func() error { return p.build(ctx, dir) })
		}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) unique() string {
	b.serial++
	return fmt.Sprintf("%d-%d", os.Getpid(), b.serial)
}

// chain is a Dockerfile of that many commands nobody has run before.
func (b *bench) chain(p interface{ from() string }, steps int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "FROM %s@%s\n", p.from(), b.base.digest)
	for range steps {
		fmt.Fprintf(&text, "RUN echo %s >> /chain\n", b.unique())
	}
	return text.String()
}

func (b *bench) inNewFolder(dockerfile string, do func(dir string) error) error {
	dir, err := os.MkdirTemp(b.tmp, "context-")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		return err
	}
	return do(dir)
}

func (b *bench) timed(who, what string, do func() error) error {
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s, %s: %w", who, what, err)
	}
	took := time.Since(start)
	fmt.Fprintf(os.Stderr, "%-12s %-34s %7.0f ms\n", who, what, float64(took.Microseconds())/1000)
	b.figures.add(who, what, took)
	return nil
}
