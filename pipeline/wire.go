package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/pipeline/changed"
	"drydock/pipeline/ci"
	"drydock/pipeline/line"
	"drydock/pipeline/plan"
	"drydock/pipeline/progress"
)

// program is one invocation.
type program struct {
	streams
	environ []string
}

// session is what verbs that work on the catalog share.
type session struct {
	*program
	settings
	ci      ci.CI
	trigger plan.Trigger
	catalog *catalog.Catalog
	state   *changed.State // what git says of the catalog's sources
	sink    progress.Sink
	line    *line.Line
}

// verb wraps a verb's work: it reads settings and answers --print-config.
func (p *program) verb(do func(*cli.Context, settings) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		s, err := readSettings(c, p.environ)
		if err != nil {
			return err
		}
		if c.Bool("print-config") {
			return printJSON(p.out, s)
		}
		return do(c, s)
	}
}

// open loads the catalog and wires a line; nothing is connected yet.
func (p *program) open(ctx context.Context, s settings) (*session, error) {
	out := &session{program: p, settings: s, ci: ci.Detect(p.environ)}
	out.trigger = plan.Trigger(s.Trigger)
	if out.trigger == "" {
		out.trigger = plan.Trigger(out.ci.Trigger)
	}
	mode, err := progress.ParseMode(s.Progress)
	if err != nil {
		return nil, err
	}
	if out.catalog, err = loadCatalog(s.Catalog); err != nil {
		return nil, err
	}
	if out.state, err = changed.Describe(ctx, out.git("")); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.Cache, s.Data} {
		if err := private(dir); err != nil {
			return nil, err
		}
	}
	out.sink = progress.Redacted(line.Hidden(out.catalog, p.environ), progress.New(mode, p.err, p.tty, width(p.err)))
	out.line = line.New(ctx, line.Config{
		Catalog: out.catalog, CatalogDir: s.Catalog, Cache: s.Cache, Data: s.Data, Keys: s.Keys, Out: s.Out,
		Engine: s.Engine, Tier: s.Tier, Locked: s.Locked, Offline: s.Offline, FailFast: s.FailFast, Jobs: s.Jobs, Environ: p.environ, LookupEnv: p.lookup, CI: out.ci,
		Trigger: string(out.trigger), State: out.state, Version: version, Now: time.Now(), Sink: out.sink,
		Log: engineLog(s), Quota: s.quota, CacheFrom: s.imports, CacheTo: s.exports,
	})
	return out, nil
}

// close ends what the session opened; the progress display first, so that
// nothing is drawn over the result.
func (s *session) close() error { return errors.Join(s.sink.Close(), s.line.Close()) }

func loadCatalog(dir string) (*catalog.Catalog, error) {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading catalog", Place: dir, Message: "no such directory",
			Remedy: "give the catalog's directory with --catalog DIR",
		}
	}
	name := dir
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, dir); err == nil && len(rel) < len(dir) {
			name = rel
		}
	}
	return catalog.Load(os.DirFS(dir), name)
}

// git is a question about the repository the catalog is in.
func (s *session) git(base string) changed.Request {
	return changed.Request{Base: base, CatalogDir: s.Catalog, Catalog: s.catalog, Environ: s.environ}
}

// plan makes the plan of the images asked for.
func (s *session) plan(ctx context.Context, mirrors []plan.Mirror) (*plan.Plan, error) {
	in := plan.Input{
		Catalog: s.catalog, Trigger: s.trigger, Select: s.Images, Mirrors: mirrors, Dirty: s.state.Dirty,
	}
	if s.Changed != "" {
		sel, err := changed.Select(ctx, s.git(s.changedBase()))
		if err != nil {
			return nil, err
		}
		in.Changed = sel.Images
	}
	return plan.Build(in)
}

// changedBase is what --changed compares with.
func (s *session) changedBase() string {
	if s.Changed != changedAuto {
		return s.Changed
	}
	if s.ci.TargetRevision != "" {
		return s.ci.TargetRevision
	}
	if s.ci.Target != "" {
		return "origin/" + s.ci.Target
	}
	return ""
}

func width(w any) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			return n
		}
	}
	return 0
}
