// Package run executes a plan: tasks with their needs, bounded concurrency,
// fail fast where asked, cancellation with its cause.
//
// Data flows by return value: what a task returns is handed to the tasks that
// need it, and to nobody else.
package run

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"drydock/modules/artifact"
)

// Inputs are the values of the tasks a task needs, by task id.
type Inputs map[string]any

// Input returns the value of the one needed task that has type T. It panics
// when there is none: a plan that lacks it was wired wrongly.
func Input[T any](in Inputs) T {
	all := All[T](in)
	if len(all) != 1 {
		panic(fmt.Sprintf("a task needs one %T, its plan gives %d", *new(T), len(all)))
	}
	for _, v := range all {
		return v
	}
	panic("unreachable")
}

// All returns every needed value of type T by task id.
func All[T any](in Inputs) map[string]T {
	out := map[string]T{}
	for id, v := range in {
		if t, ok := v.(T); ok {
			out[id] = t
		}
	}
	return out
}

// Task is one node of the graph.
type Task struct {
	ID    string
	Needs []string
	// Do does the work. Its context is cancelled, with a cause, when the run
	// is interrupted or another task failed under FailFast.
	Do func(ctx context.Context, in Inputs) (any, error)
}

// Outcome is how a task ended.
type Outcome struct {
	Value   any
	Err     error         // the task's own error
	Blocked string        // id of the failed task that kept this one from starting; "" otherwise
	Took    time.Duration // zero when it never started
}

// Options of Execute. The zero value runs one task at a time and goes on
// after failures.
type Options struct {
	Limit    int // tasks at once; 0 means 1
	FailFast bool
	Started  func(id string)            // may be nil; called from one goroutine
	Ended    func(id string, o Outcome) // may be nil; called from one goroutine
}

// ErrFailFast is the cancellation cause of tasks stopped because another one
// failed under Options.FailFast.
var ErrFailFast = errors.New("stopped after the first failure (--fail-fast)")

type ended struct {
	id string
	o  Outcome
}

// graph is the bookkeeping of one Execute; only its goroutine touches it.
type graph struct {
	tasks   map[string]Task
	order   []string
	missing map[string]int      // needs not yet done
	users   map[string][]string // who needs a task
	done    map[string]Outcome
	ready   []string
}

// Execute runs every task whose needs succeeded and returns how each ended.
// It returns only when no task runs any more. The error speaks of the graph
// (unknown need, cycle), never of a task.
func Execute(ctx context.Context, tasks []Task, opt Options) (map[string]Outcome, error) {
	g, err := newGraph(tasks)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := max(opt.Limit, 1)
	results := make(chan ended)
	running := 0
	for len(g.done) < len(g.order) {
		for running < limit && len(g.ready) > 0 {
			t := g.tasks[g.ready[0]]
			g.ready = g.ready[1:]
			if cause := context.Cause(ctx); cause != nil {
				g.finish(t.ID, Outcome{Err: cause}, opt)
				continue
			}
			if opt.Started != nil {
				opt.Started(t.ID)
			}
			running++
			in := g.inputs(t)
			go func() { results <- ended{t.ID, perform(ctx, t, in)} }()
		}
		if running == 0 {
			continue
		}
		e := <-results
		running--
		if e.o.Err != nil && opt.FailFast {
			cancel(ErrFailFast)
		}
		g.finish(e.id, e.o, opt)
	}
	return g.done, nil
}

func newGraph(tasks []Task) (*graph, error) {
	g := &graph{
		tasks: map[string]Task{}, missing: map[string]int{},
		users: map[string][]string{}, done: map[string]Outcome{},
	}
	for _, t := range tasks {
		if _, dup := g.tasks[t.ID]; dup {
			return nil, &artifact.Error{Op: "reading plan", Place: t.ID, Message: "task stands twice"}
		}
		g.tasks[t.ID] = t
		g.order = append(g.order, t.ID)
	}
	for _, t := range tasks {
		for _, n := range t.Needs {
			if _, ok := g.tasks[n]; !ok {
				return nil, &artifact.Error{Op: "reading plan", Place: t.ID, Message: "needs unknown task " + n}
			}
			g.missing[t.ID]++
			g.users[n] = append(g.users[n], t.ID)
		}
		if len(t.Needs) == 0 {
			g.ready = append(g.ready, t.ID)
		}
	}
	return g, g.checkCycle()
}

// checkCycle walks the graph once in dependency order (Kahn).
func (g *graph) checkCycle() error {
	left := map[string]int{}
	queue := append([]string(nil), g.ready...)
	for id, n := range g.missing {
		left[id] = n
	}
	seen := 0
	for len(queue) > 0 {
		id := queue[0]
		queue = queue[1:]
		seen++
		for _, u := range g.users[id] {
			if left[u]--; left[u] == 0 {
				queue = append(queue, u)
			}
		}
	}
	if seen == len(g.order) {
		return nil
	}
	for _, id := range g.order {
		if left[id] > 0 {
			return &artifact.Error{Op: "reading plan", Place: id, Message: "task waits for itself"}
		}
	}
	return nil
}

func (g *graph) inputs(t Task) Inputs {
	in := Inputs{}
	for _, n := range t.Needs {
		in[n] = g.done[n].Value
	}
	return in
}

// finish records an outcome, frees the users of a task that succeeded and
// blocks, through the whole chain, those of one that failed.
func (g *graph) finish(id string, o Outcome, opt Options) {
	if _, already := g.done[id]; already {
		return
	}
	g.done[id] = o
	if opt.Ended != nil {
		opt.Ended(id, o)
	}
	for _, u := range g.users[id] {
		if o.Err != nil || o.Blocked != "" {
			blame := o.Blocked
			if blame == "" {
				blame = id
			}
			g.finish(u, Outcome{Blocked: blame}, opt)
			continue
		}
		if g.missing[u]--; g.missing[u] == 0 {
			if _, already := g.done[u]; !already {
				g.ready = append(g.ready, u)
			}
		}
	}
}

// perform runs one task; a panic becomes an internal error of that task, the
// others go on.
func perform(ctx context.Context, t Task, in Inputs) (o Outcome) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			o = Outcome{Err: &artifact.Error{
				Kind: artifact.KindInternal, Op: "running", Place: t.ID,
				Message: fmt.Sprintf("panic: %v\n%s", p, debug.Stack()),
				Remedy:  "this is a bug of drydock: report it with the lines above",
			}}
		}
		o.Took = time.Since(start)
	}()
	v, err := t.Do(ctx, in)
	if err != nil && ctx.Err() != nil {
		// What a task says after it was cancelled is noise; why it was is not.
		err = fmt.Errorf("%w (%s)", context.Cause(ctx), err.Error())
	}
	return Outcome{Value: v, Err: err}
}
