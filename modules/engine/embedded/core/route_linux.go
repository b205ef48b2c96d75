package core

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/progress/logs"
	"github.com/opencontainers/go-digest"

	"drydock/modules/engine/embedded/executor"
)

// moves is how often a step may be taken over from a member that left.
const moves = 3

// routedOp runs an operation for one of the members that want it: with its
// gateway and its registry. When that one leaves on the way the operation
// starts again for the next, which would else get the error of a run it does
// not know.
type routedOp struct {
	solver.Op
	members  *members
	emulated string // architecture whose emulator it needs, "" for none
}

var _ solver.Op = (*routedOp)(nil)

// CacheMap asks for one of the members.
func (o *routedOp) CacheMap(ctx context.Context, jc solver.JobContext, index int) (m *solver.CacheMap, done bool, err error) {
	err = o.try(ctx, jc, func(ctx context.Context) error {
		m, done, err = o.Op.CacheMap(ctx, jc, index)
		return err
	})
	if o.emulated != "" && m != nil && err == nil {
		m = emulatedBy(m, emulatorsOf(o.members.of(jc.Session()))[o.emulated].SHA256)
	}
	return m, done, err
}

// emulatedBy makes the emulator part of what a step's result follows from.
func emulatedBy(m *solver.CacheMap, emulator string) *solver.CacheMap {
	c := *m
	c.Digest = digest.FromString("emulated\x00" + string(m.Digest) + "\x00" + emulator)
	return &c
}

// Exec runs for one of the members.
func (o *routedOp) Exec(ctx context.Context, jc solver.JobContext, inputs []solver.Result) (out []solver.Result, err error) {
	defer o.members.made.Add(1)
	err = o.try(ctx, jc, func(ctx context.Context) error {
		out, err = o.Op.Exec(ctx, jc, inputs)
		return err
	})
	return out, err
}

func (o *routedOp) try(ctx context.Context, jc solver.JobContext, do func(context.Context) error) error {
	for n := 0; ; n++ {
		m := o.members.of(jc.Session())
		err := do(executor.WithLimits(executor.WithEmulators(executor.WithGateway(withMember(ctx, m), gatewayOf(m)), emulatorsOf(m)), boundsOf(m)))
		if err == nil || ctx.Err() != nil || n == moves || !o.left(ctx, m, err) {
			return err
		}
		if !o.members.here(o.members.of(jc.Session())) {
			return err
		}
		_, stderr, flush := logs.NewLogStreams(ctx, false)
		fmt.Fprintf(stderr, "drydock: the run that started this step (process %d) ended; it starts again for this one\n", m.PID)
		flush()
		stderr.Close()
	}
}

// left says whether an operation failed because its member went away. Its end
// may be seen a moment after what it breaks.
func (o *routedOp) left(ctx context.Context, m *Member, err error) bool {
	if m == nil {
		return false
	}
	if !executor.GatewayLost(err) {
		return m.ctx.Err() != nil
	}
	select {
	case <-m.ctx.Done():
		return true
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return false
}

func gatewayOf(m *Member) string {
	if m == nil {
		return ""
	}
	return m.Gateway
}

func boundsOf(m *Member) executor.Limits {
	if m == nil {
		return executor.Limits{}
	}
	return m.Limits
}

func emulatorsOf(m *Member) executor.Emulators {
	if m == nil {
		return nil
	}
	return m.Emulators
}
