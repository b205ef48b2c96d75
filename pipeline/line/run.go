package line

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"drydock/modules/artifact"
	"drydock/pipeline/plan"
	"drydock/pipeline/progress"
	"drydock/pipeline/report"
	"drydock/pipeline/run"
)

// Options of Run. The zero value runs the whole line.
type Options struct {
	Kinds   []plan.Kind // only these kinds of node, and what they need; none: all
	Fresh   bool        // do not look for remembered results
	Layouts bool        // write each image's OCI layout to out/
}

// part is one image variant on its way through a run.
type part struct {
	plan.Image
	key      artifact.Digest
	finished *finished
	started  time.Time
	ended    time.Time
}

// Run takes every image of a plan through the line. The error is one of the
// run itself; what went wrong with an image stands in its entry.
func (l *Line) Run(ctx context.Context, p *plan.Plan, o Options) (report.Summary, error) {
	parts := map[string]*part{}
	for _, img := range p.Images {
		parts[img.ID()] = &part{Image: img}
	}
	whole := len(o.Kinds) == 0
	if whole {
		if err := l.recall(p, parts, o.Fresh || l.cfg.Observe); err != nil {
			return report.Summary{}, err
		}
	}
	keep := wanted(p, parts, o.Kinds)
	tasks, err := l.tasks(p, func(n plan.Node) bool { return !keep[n.ID] })
	if err != nil {
		return report.Summary{}, err
	}
	opt := l.watch(p)
	l.clock(p, parts, &opt)
	outcomes, err := run.Execute(ctx, tasks, opt)
	if err != nil {
		return report.Summary{}, err
	}
	return l.conclude(ctx, p, parts, outcomes, o)
}

// recall looks for remembered results of every image.
func (l *Line) recall(p *plan.Plan, parts map[string]*part, fresh bool) error {
	if err := l.readyKeys(); err != nil {
		return err
	}
	for _, img := range p.Images {
		part := parts[img.ID()]
		key, err := l.fingerprint(img, map[string]bool{})
		if err != nil {
			return err
		}
		part.key = key
		if fresh {
			continue
		}
		f, record, ok := l.remembered(key)
		if !ok {
			continue
		}
		if err := l.results().Restore(record, l.cfg.Out); err != nil {
			return &artifact.Error{Kind: artifact.KindFault, Op: "writing reports", Place: l.cfg.Out, Err: err, Remedy: "give a folder that can be written and has room with --out"}
		}
		part.finished = f
		for _, n := range f.Notes {
			l.note("%s", n)
		}
		l.cfg.Sink.Emit(progress.Event{Image: img.Image, Variant: img.Variant, Kind: progress.Cached, Text: f.Image.Subject.String()})
	}
	return nil
}

// wanted marks the nodes to run: those of images that are not remembered, of
// the kinds asked for, and everything they need.
func wanted(p *plan.Plan, parts map[string]*part, kinds []plan.Kind) map[string]bool {
	asked := map[plan.Kind]bool{}
	for _, k := range kinds {
		asked[k] = true
	}
	needs := map[string][]string{}
	keep := map[string]bool{}
	var queue []string
	for _, n := range p.Nodes {
		needs[n.ID] = n.Needs
		part := parts[plan.Image{Image: n.Image, Variant: n.Variant}.ID()]
		if part != nil && part.finished == nil && (len(kinds) == 0 || asked[n.Kind]) {
			queue = append(queue, n.ID)
		}
	}
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		if keep[id] {
			continue
		}
		keep[id] = true
		queue = append(queue, needs[id]...)
	}
	return keep
}

// clock notes when an image's first task began and its last one ended.
func (l *Line) clock(p *plan.Plan, parts map[string]*part, opt *run.Options) {
	owner := map[string]*part{}
	for _, n := range p.Nodes {
		owner[n.ID] = parts[plan.Image{Image: n.Image, Variant: n.Variant}.ID()]
	}
	started, ended := opt.Started, opt.Ended
	opt.Started = func(id string) {
		if o := owner[id]; o != nil && o.started.IsZero() {
			o.started = time.Now()
		}
		started(id)
	}
	opt.Ended = func(id string, out run.Outcome) {
		if o := owner[id]; o != nil && out.Blocked == "" {
			o.ended = time.Now()
		}
		ended(id, out)
	}
}

// conclude turns outcomes into the summary, remembers what went well and
// writes the reports.
func (l *Line) conclude(ctx context.Context, p *plan.Plan, parts map[string]*part, outcomes map[string]run.Outcome, opts Options) (report.Summary, error) {
	whole := len(opts.Kinds) == 0
	s := report.Summary{Trigger: string(p.Trigger), Engine: report.Engine{Kind: l.cfg.Engine}}
	if e, ok := l.engine.peek(); ok {
		s.Engine = report.Engine{Kind: e.Kind, Tier: e.Tier, Mode: e.Mode}
		l.rememberEngine(s.Engine)
	} else {
		s.Engine = l.recalledEngine()
	}
	for _, img := range p.Images {
		part := parts[img.ID()]
		if part.finished != nil {
			s.Images = append(s.Images, part.finished.Image)
			s.Mirrors = mergeMirrors(s.Mirrors, part.finished.Mirrors)
			if part.finished.StaticOnly != nil {
				s.StaticOnly = append(s.StaticOnly, *part.finished.StaticOnly)
			}
			continue
		}
		if img.Implied && !whole {
			continue
		}
		c := l.collect(p, part, outcomes)
		if err := l.concludePart(ctx, p, part, c, outcomes, opts); err != nil {
			return s, err
		}
		s.Images = append(s.Images, c.image)
		s.Mirrors = mergeMirrors(s.Mirrors, c.mirrors)
		if c.staticOnly != nil {
			s.StaticOnly = append(s.StaticOnly, *c.staticOnly)
		}
		if err := l.keep(part, c, whole); err != nil {
			return s, err
		}
	}
	l.mu.Lock()
	s.Notes = append(s.Notes, l.notes...)
	l.mu.Unlock()
	for _, img := range p.Images {
		if img.Held != "" {
			s.Notes = append(s.Notes, fmt.Sprintf("%s stays in %s: %s", img.ID(), img.Stages[len(img.Stages)-1], img.Held))
		}
	}
	s.Exit = exitOf(ctx, s.Images, l.admitted(p))
	return s, nil
}

// concludePart gives an image of a partial run its verdict and its layout.
func (l *Line) concludePart(ctx context.Context, p *plan.Plan, part *part, c *collected, outcomes map[string]run.Outcome, o Options) error {
	if len(o.Kinds) == 0 || !c.ok {
		return nil
	}
	v := l.judgePart(o.Kinds, part.Image, mine(p, part.Image, outcomes))
	c.image.Verdict, c.image.Reasons = v.Outcome, v.Reasons
	if !o.Layouts {
		return nil
	}
	d, err := l.writeLayout(ctx, p, part.Image, outcomes)
	if err != nil {
		return err
	}
	c.image.Subject = artifact.Subject{Repository: "local/" + part.Image.Image, Digest: d}
	return nil
}

// exitOf is the exit code of a whole run: the first of interrupted, internal,
// usage, fault and gate that happened to any image.
func exitOf(ctx context.Context, images []report.Image, admitted func(report.Image) bool) int {
	if errors.Is(context.Cause(ctx), artifact.ErrInterrupted) {
		return artifact.ExitInterrupted
	}
	seen := map[int]bool{}
	for _, i := range images {
		if i.Error != nil {
			seen[i.Error.Exit] = true
		} else if !admitted(i) {
			seen[artifact.ExitGate] = true
		}
	}
	for _, code := range []int{artifact.ExitInterrupted, artifact.ExitInternal, artifact.ExitUsage, artifact.ExitFault, artifact.ExitGate} {
		if seen[code] {
			return code
		}
	}
	return artifact.ExitOK
}

// mine lists the outcomes of an image's own nodes, in the plan's order.
func mine(p *plan.Plan, img plan.Image, outcomes map[string]run.Outcome) []run.Outcome {
	var out []run.Outcome
	for _, n := range p.Nodes {
		if o, ok := outcomes[n.ID]; ok && n.Image == img.Image && n.Variant == img.Variant {
			out = append(out, o)
		}
	}
	return out
}

// firstError is the error to report of an image: its own first one, or that
// of whatever it waited for.
func firstError(own []run.Outcome, all map[string]run.Outcome) error {
	for _, o := range own {
		if o.Err != nil {
			return o.Err
		}
	}
	var blamed []string
	for _, o := range own {
		if o.Blocked != "" {
			blamed = append(blamed, o.Blocked)
		}
	}
	if len(blamed) == 0 {
		return nil
	}
	sort.Strings(blamed)
	return fmt.Errorf("%s failed: %w", blamed[0], all[blamed[0]].Err)
}
