package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"drydock/catalog"
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
	args    []string // the command line, as given
}

// session is what verbs that work on the catalog share.
type session struct {
	*program
	settings
	ci      ci.CI
	trigger plan.Trigger
	catalog *catalog.Catalog
	dir     string         // of the catalog
	state   *changed.State // what git says of the sources
	sink    progress.Sink
	line    *line.Line
}

// verb wraps a verb's work: it reads settings and answers --print-config.
func (p *program) verb(do func(*cli.Context, settings) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		s, err := readSettings(c, p.args, p.environ)
		if err == nil {
			err = s.readProject(c)
		}
		if err != nil {
			return err
		}
		s.excludeOwn()
		if c.Bool("print-config") {
			return p.printConfig(c.Context, s)
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
	if out.catalog, out.dir, err = p.openCatalog(ctx, s); err != nil {
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
	sink := progress.Redacted(line.Hidden(out.catalog, p.environ), progress.New(mode, p.err, p.tty, width(p.err)))
	out.sink = sink
	out.line = line.New(ctx, line.Config{
		Catalog: out.catalog, CatalogDir: out.dir, ProjectDir: s.projectDir(), Cache: s.Cache, Data: s.Data, Keys: s.Keys, Out: s.Out,
		Engine: s.Engine, Tier: s.Tier, Locked: s.Locked, Offline: s.Offline, Observe: s.Egress == egressObserve, FailFast: s.FailFast, Jobs: s.Jobs, Environ: p.environ, LookupEnv: p.lookup, CI: out.ci,
		Trigger: string(out.trigger), State: out.state, Version: version, Now: time.Now(), Sink: sink, Hide: sink.Hide,
		Log: engineLog(s), Quota: s.quota, MirrorQuota: s.mirrorQuota, StepLimits: s.limits, LandlockABI: s.landlock, CacheFrom: s.imports, CacheTo: s.exports, At: s.at, NoStale: s.noStale,
	})
	return out, nil
}

// close ends what the session opened; the progress display first, so that
// nothing is drawn over the result.
func (s *session) close() error { return errors.Join(s.sink.Close(), s.line.Close()) }

// git is a question about the repository of the project, else of the catalog.
func (s *session) git(base string) changed.Request {
	return changed.Request{
		Base: base, CatalogDir: s.dir, ProjectDir: s.projectDir(), Pinned: s.catalogRef.Pinned(), Catalog: s.catalog, Environ: s.environ,
	}
}

// plan makes the plan of the images asked for.
func (s *session) plan(ctx context.Context, mirrors []plan.Mirror) (*plan.Plan, error) {
	in := plan.Input{
		Catalog: s.catalog, Trigger: s.trigger, Select: s.Images, Mirrors: mirrors, Dirty: s.state.Dirty,
		Observed: s.Egress == egressObserve,
	}
	if len(in.Select) == 0 {
		in.Select = s.catalog.ProjectImages() // the catalog's own are built as far as these need them
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
