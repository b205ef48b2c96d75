package run

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drydock/modules/artifact"
)

func value(v any) func(context.Context, Inputs) (any, error) {
	return func(context.Context, Inputs) (any, error) { return v, nil }
}

func TestValuesFlowToThoseWhoNeedThem(t *testing.T) {
	sum := func(_ context.Context, in Inputs) (any, error) {
		total := 0
		for _, n := range All[int](in) {
			total += n
		}
		return total, nil
	}
	out, err := Execute(context.Background(), []Task{
		{ID: "sum", Needs: []string{"a", "b"}, Do: sum},
		{ID: "a", Do: value(2)},
		{ID: "b", Do: value(3)},
		{ID: "c", Do: value(100)},
	}, Options{Limit: 3})
	if err != nil || out["sum"].Value != 5 {
		t.Fatalf("sum = %v, err %v; want 5", out["sum"], err)
	}
}

func TestOneBrokenTaskBlocksOnlyItsUsers(t *testing.T) {
	boom := errors.New("boom")
	ran := atomic.Int32{}
	out, err := Execute(context.Background(), []Task{
		{ID: "bad", Do: func(context.Context, Inputs) (any, error) { return nil, boom }},
		{ID: "after", Needs: []string{"bad"}, Do: value(1)},
		{ID: "last", Needs: []string{"after", "good"}, Do: value(1)},
		{ID: "good", Do: func(context.Context, Inputs) (any, error) { ran.Add(1); return 1, nil }},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(out["bad"].Err, boom) || out["after"].Blocked != "bad" || out["last"].Blocked != "bad" {
		t.Errorf("outcomes %+v", out)
	}
	if ran.Load() != 1 || out["good"].Err != nil {
		t.Error("the good task did not run")
	}
}

func TestFailFastStopsTheOthersWithItsCause(t *testing.T) {
	started := make(chan struct{})
	out, err := Execute(context.Background(), []Task{
		{ID: "slow", Do: func(ctx context.Context, _ Inputs) (any, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		}},
		{ID: "bad", Do: func(context.Context, Inputs) (any, error) { <-started; return nil, errors.New("boom") }},
		{ID: "never", Needs: []string{"slow"}, Do: value(1)},
		{ID: "queued", Do: value(1)},
	}, Options{Limit: 2, FailFast: true})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(out["slow"].Err, ErrFailFast) || !errors.Is(out["queued"].Err, ErrFailFast) {
		t.Errorf("slow %v, queued %v", out["slow"].Err, out["queued"].Err)
	}
}

func TestInterruptReachesTasksAsItsCause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	out, err := Execute(ctx, []Task{{ID: "a", Do: func(ctx context.Context, _ Inputs) (any, error) {
		cancel(artifact.ErrInterrupted)
		<-ctx.Done()
		return nil, ctx.Err()
	}}}, Options{})
	if err != nil || artifact.ExitCode(out["a"].Err) != artifact.ExitInterrupted {
		t.Errorf("outcome %v, err %v", out["a"].Err, err)
	}
}

func TestPanicIsTheTasksOwnError(t *testing.T) {
	out, _ := Execute(context.Background(), []Task{
		{ID: "p", Do: func(_ context.Context, in Inputs) (any, error) { return Input[string](in), nil }},
		{ID: "q", Do: value(1)},
	}, Options{})
	if artifact.ExitCode(out["p"].Err) != artifact.ExitInternal || out["q"].Err != nil {
		t.Errorf("outcomes %+v", out)
	}
}

func TestBadGraphsAreRefused(t *testing.T) {
	for name, tasks := range map[string][]Task{
		"waits for itself": {{ID: "a", Needs: []string{"b"}}, {ID: "b", Needs: []string{"a"}}},
		"unknown task x":   {{ID: "a", Needs: []string{"x"}}},
		"stands twice":     {{ID: "a"}, {ID: "a"}},
	} {
		if _, err := Execute(context.Background(), tasks, Options{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestLimitHolds(t *testing.T) {
	var now, top atomic.Int32
	var tasks []Task
	for _, id := range strings.Split("abcdefgh", "") {
		tasks = append(tasks, Task{ID: id, Do: func(context.Context, Inputs) (any, error) {
			n := now.Add(1)
			for o := top.Load(); n > o && !top.CompareAndSwap(o, n); o = top.Load() {
			}
			time.Sleep(5 * time.Millisecond)
			now.Add(-1)
			return nil, nil
		}})
	}
	if _, err := Execute(context.Background(), tasks, Options{Limit: 3}); err != nil || top.Load() > 3 {
		t.Errorf("%d at once, err %v", top.Load(), err)
	}
}
