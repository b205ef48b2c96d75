package line

import (
	"context"
	"fmt"
	"time"

	"drydock/pipeline/plan"
	"drydock/pipeline/progress"
	"drydock/pipeline/run"
)

// step is one kind of work on one node of the plan.
type step func(ctx context.Context, n plan.Node, in run.Inputs) (any, error)

// steps is the line, in the order an image goes through it.
func (l *Line) steps() []struct {
	kind plan.Kind
	do   step
} {
	return []struct {
		kind plan.Kind
		do   step
	}{
		{plan.KindBase, l.base},
		{plan.KindBuild, l.build},
		{plan.KindSBOM, l.sbom},
		{plan.KindScan, l.scan},
		{plan.KindTest, l.test},
		{plan.KindPush, l.push},
		{plan.KindSign, l.sign},
		{plan.KindPromote, l.promote},
	}
}

// tasks binds the nodes of a plan to the steps that do them. Nodes for which
// skip answers true are left out, and so is the need for them.
func (l *Line) tasks(p *plan.Plan, skip func(plan.Node) bool) ([]run.Task, error) {
	byKind := map[plan.Kind]step{}
	for _, s := range l.steps() {
		byKind[s.kind] = s.do
	}
	left := map[string]bool{}
	inputs := map[string][]string{}
	nodes := map[string]plan.Node{}
	for _, n := range p.Nodes { // needs come before their users
		nodes[n.ID] = n
		left[n.ID] = !skip(n)
		inputs[n.ID] = inputsOf(n, nodes, inputs)
	}
	var out []run.Task
	for _, n := range p.Nodes {
		do, ok := byKind[n.Kind]
		if !ok {
			return nil, fmt.Errorf("plan has a %q node and the line no such step", n.Kind)
		}
		if !left[n.ID] {
			continue
		}
		t := run.Task{ID: n.ID, Do: func(ctx context.Context, in run.Inputs) (any, error) { return do(ctx, n, in) }}
		for _, need := range inputs[n.ID] {
			if left[need] {
				t.Needs = append(t.Needs, need)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

// inputsOf are the nodes whose results a node is handed: what it needs, and
// what those needed, as far as it is about the same image.
func inputsOf(n plan.Node, nodes map[string]plan.Node, inputs map[string][]string) []string {
	seen := map[string]bool{}
	var out []string
	add := func(id string) {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	for _, need := range n.Needs {
		add(need)
		if o := nodes[need]; o.Image != n.Image || o.Variant != n.Variant {
			continue
		}
		for _, further := range inputs[need] {
			if o := nodes[further]; o.Image == n.Image && o.Variant == n.Variant {
				add(further)
			}
		}
	}
	return out
}

// watch turns the beginnings and ends of tasks into progress events.
func (l *Line) watch(p *plan.Plan) run.Options {
	nodes := map[string]plan.Node{}
	for _, n := range p.Nodes {
		nodes[n.ID] = n
	}
	return run.Options{
		Limit: l.cfg.Jobs, FailFast: l.cfg.FailFast,
		Started: func(id string) { l.cfg.Sink.Emit(event(nodes[id], progress.Started)) },
		Ended: func(id string, o run.Outcome) {
			if o.Blocked != "" {
				return
			}
			e := event(nodes[id], progress.Done)
			e.Seconds = max(o.Took.Seconds(), time.Millisecond.Seconds())
			if o.Err != nil {
				e.Kind, e.Err = progress.Failed, o.Err
			}
			l.cfg.Sink.Emit(e)
		},
	}
}

func event(n plan.Node, kind progress.Kind) progress.Event {
	e := progress.Event{Image: n.Image, Variant: n.Variant, Step: string(n.Kind), Kind: kind}
	if n.Kind == plan.KindBase {
		e.Image = n.Base
	}
	if n.Stage != "" {
		e.Step += " " + n.Stage
	}
	if n.Platform != nil {
		e.Platform = n.Platform.String()
	}
	return e
}
