package core

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"strings"
	"sync"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/opencontainers/go-digest"
)

// A step's name is the digest of its operation and of all below it, down to the
// manifest of the image and the whole context; its cache key is of what it would
// see. So a step may be given what one of another name has made, and so may the
// steps below it, whose results nobody even looks at. Each result therefore says
// by which steps it was made, in the order of the graph, and who is given it
// learns for each of his own which it was.

// madeKey is where a result says by which steps it was made.
const madeKey = "drydock.madeBy"

// stepsOpt is by which a result that is loaded is told for which steps.
type stepsOpt struct{}

// origins are the steps whose result another step made.
type origins struct {
	mu sync.Mutex
	by map[string]string
}

func newOrigins() *origins { return &origins{by: map[string]string{}} }

// of is the step that made a step's result; the step itself where it ran, or
// where nothing is known.
func (o *origins) of(step string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if made := o.by[step]; made != "" {
		return made
	}
	return step
}

// ran notes that a step's result is its own.
func (o *origins) ran(step string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.by, step)
}

// loaded learns from a result taken from the cache. ctx says for which steps.
// Where it was made by others than the same commands, nothing is learnt.
func (o *origins) loaded(ctx context.Context, ref cache.ImmutableRef) {
	get := solver.CacheOptGetterOf(ctx)
	if get == nil {
		return
	}
	steps, _ := get(false, stepsOpt{})[stepsOpt{}].([]string)
	made := strings.Fields(ref.GetString(madeKey))
	if len(steps) == 0 || len(made) != len(steps) {
		return
	}
	for i, s := range steps {
		if commandOf(s) != commandOf(made[i]) {
			return
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, s := range steps {
		mine, theirs := digestOf(s), digestOf(made[i])
		if delete(o.by, mine); mine != theirs {
			o.by[mine] = theirs
		}
	}
}

// A step is written as its digest and, after a slash, a short sum of its command.

func digestOf(step string) string { d, _, _ := strings.Cut(step, "/"); return d }

func commandOf(step string) string { _, c, _ := strings.Cut(step, "/"); return c }

// stepsOf lists the commands a vertex follows from, itself included, in the
// order of the graph.
func stepsOf(v solver.Vertex) []string {
	var out []string
	seen := map[digest.Digest]bool{}
	var walk func(solver.Vertex)
	walk = func(v solver.Vertex) {
		if seen[v.Digest()] {
			return
		}
		seen[v.Digest()] = true
		for _, in := range v.Inputs() {
			walk(in.Vertex)
		}
		op, ok := v.Sys().(*pb.Op)
		if !ok || op.GetExec() == nil {
			return
		}
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(strings.Join(op.GetExec().GetMeta().GetArgs(), "\x00"))) // never fails
		out = append(out, fmt.Sprintf("%s/%08x", v.Digest(), sum.Sum32()))
	}
	walk(v)
	return out
}

// marked makes an operation that follows from steps say so with its results.
func (o *origins) marked(op solver.Op, v solver.Vertex) solver.Op {
	if len(v.Inputs()) == 0 {
		return op // a source
	}
	steps := stepsOf(v)
	if len(steps) == 0 {
		return op
	}
	return &originOp{Op: op, steps: steps, own: v.Digest().String(), origins: o}
}

// originOp is an operation whose results say by which steps they were made.
type originOp struct {
	solver.Op
	steps   []string
	own     string // its digest
	origins *origins
}

var _ solver.Op = (*originOp)(nil)

// CacheMap adds the steps, for when the result is loaded.
func (o *originOp) CacheMap(ctx context.Context, jc solver.JobContext, index int) (*solver.CacheMap, bool, error) {
	m, done, err := o.Op.CacheMap(ctx, jc, index)
	if err != nil || m == nil {
		return m, done, err
	}
	c := *m
	if c.Opts = maps.Clone(m.Opts); c.Opts == nil {
		c.Opts = solver.CacheOpts{}
	}
	c.Opts[stepsOpt{}] = o.steps
	return &c, done, nil
}

// Exec marks what was made; what it was given and left as it was is not its own.
// Of the steps below, those whose result was cached are named by who made it.
func (o *originOp) Exec(ctx context.Context, jc solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	given := map[string]bool{}
	for _, in := range inputs {
		if ref := refOf(in); ref != nil {
			given[ref.ID()] = true
		}
	}
	out, err := o.Op.Exec(ctx, jc, inputs)
	if err != nil {
		return out, err
	}
	o.origins.ran(o.own)
	made := make([]string, len(o.steps))
	for i, s := range o.steps {
		made[i] = o.origins.of(digestOf(s)) + "/" + commandOf(s)
	}
	for _, r := range out {
		ref := refOf(r)
		if ref == nil || given[ref.ID()] {
			continue
		}
		if err := ref.SetString(madeKey, strings.Join(made, " "), ""); err != nil {
			return out, fmt.Errorf("noting which steps made a result: %w", err)
		}
	}
	return out, nil
}

func refOf(r solver.Result) cache.ImmutableRef {
	if r == nil {
		return nil
	}
	w, ok := r.Sys().(*worker.WorkerRef)
	if !ok || w == nil {
		return nil
	}
	return w.ImmutableRef
}

// LoadRef is base.Worker's; a result that is taken from the cache says by which
// steps it was made.
func (w *boundWorker) LoadRef(ctx context.Context, id string, hidden bool) (cache.ImmutableRef, error) {
	ref, err := w.Worker.LoadRef(ctx, id, hidden)
	if err == nil && ref != nil && !hidden {
		w.origins.loaded(ctx, ref)
	}
	return ref, err
}

// MadeBy is the step that made a step's result, by digests: another than the
// step itself where the result was cached and the step's name is a new one.
func (c *Core) MadeBy(step string) string { return c.worker.origins.of(step) }
