//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// The names under which what follows is in the figures.
const (
	workName     = "twenty steps of work"
	atOnceName   = "8 builds at once"
	oneByOneName = "8 builds one by one"
	cpuOf        = "CPU of "

	independent = 8
)

// work is a Dockerfile of twenty steps that do what steps of images do: unpack,
// copy, compress, check, search, edit and remove files, by few processes and by
// many. Nothing of it asks a network.
func work() []string {
	return []string{
		`mkdir /w && tar cf /w/usr.tar /usr/bin /usr/share`,
		`mkdir /w/a && tar xf /w/usr.tar -C /w/a`,
		`cp -a /w/a /w/b`,
		`find /w/a -type f | sort > /w/list`,
		`cd /w && xargs -d '\n' sha256sum < list > sums`,
		`sha256sum -c --quiet /w/sums`,
		`gzip -1 -k /w/usr.tar`,
		`find /w/b -type f -name copyright -exec sed -i 's/the/THE/g' {} +`,
		`find /w/a -type f -exec chmod g+w {} +`,
		`perl -e '$s = 0; $s += $_ * $_ % 7 for 1 .. 3_000_000; print "$s\n"' > /w/sum`,
		`for i in $(seq 300); do echo $i > /w/file$i; done`,
		`for i in $(seq 150); do cat /w/file$i | tr 0-9 a-j; done > /w/letters`,
		`grep -r -l GNU /w/a > /w/gnu`,
		`cp -al /w/a /w/links`,
		`chown -R 1000:1000 /w/b`,
		`rm -r /w/links /w/file*`,
		`du -a /w/a | sort -n > /w/sizes`,
		`tar cf - -C /w a | sha256sum > /w/digest`,
		`dpkg-query -W -f '${Package} ${Version}\n' > /w/packages && dpkg -V > /w/verified || true`,
		`rm -r /w/a /w/usr.tar.gz`,
	}
}

// little is a build of a few of those steps.
func little() []string {
	return []string{
		`cp -a /usr/share /copy`,
		`find /copy -type f -exec sha256sum {} + > /sums`,
		`for i in $(seq 40); do echo $i > /f$i; done`,
		`rm -r /copy`,
	}
}

// dockerfile is one of those steps that nobody has run before.
func (b *bench) dockerfile(p builder, steps []string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "FROM %s@%s\nENV RUN=%s\n", p.from(), b.base.digest, b.unique())
	for _, s := range steps {
		fmt.Fprintf(&text, "RUN %s\n", s)
	}
	return text.String()
}

// works measures the twenty steps, and several builds in one engine.
func (b *bench) works(ctx context.Context, p builder) error {
	d, ours := p.(*drydock)
	for range b.runs {
		if err := b.inNewFolder(b.dockerfile(p, work()), func(dir string) error {
			build := func() error { return p.build(ctx, dir) }
			if !ours {
				return b.timed(p.name(), workName, build)
			}
			return b.timedCPU(d, workName, build)
		}); err != nil {
			return err
		}
	}
	if !ours {
		return nil
	}
	for range b.runs {
		for _, together := range []bool{false, true} {
			if err := b.several(ctx, d, together); err != nil {
				return err
			}
		}
	}
	return d.engine.peak(func(bytes int64) { b.figures.Peak[d.name()] = max(b.figures.Peak[d.name()], bytes) })
}

// several runs independent builds and notes time and CPU, the engine's and the
// clients'.
func (b *bench) several(ctx context.Context, d *drydock, together bool) error {
	var dirs []string
	for range independent {
		if err := b.inNewFolder(b.dockerfile(d, little()), func(dir string) error {
			dirs = append(dirs, dir)
			return nil
		}); err != nil {
			return err
		}
	}
	name := oneByOneName
	var g errgroup.Group
	g.SetLimit(1)
	if together {
		name = atOnceName
		g.SetLimit(independent)
	}
	return b.timedCPU(d, name, func() error {
		for _, dir := range dirs {
			g.Go(func() error { return d.build(ctx, dir) })
		}
		return g.Wait()
	})
}

// timedCPU is timed and notes the CPU too, of the engine, its steps and the
// clients.
func (b *bench) timedCPU(d *drydock, what string, do func() error) error {
	before, err := d.engine.cpu()
	if err != nil {
		return err
	}
	d.spent.Store(0)
	if err := b.timed(d.name(), what, do); err != nil {
		return err
	}
	after, err := d.engine.cpu()
	if err != nil {
		return err
	}
	took := after - before + time.Duration(d.spent.Load())
	fmt.Fprintf(os.Stderr, "%-12s %-34s %7.0f ms\n", d.name(), cpuOf+what, float64(took.Microseconds())/1000)
	b.figures.add(d.name(), cpuOf+what, took)
	return nil
}
