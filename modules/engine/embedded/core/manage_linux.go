package core

import (
	"bufio"
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// pruneTime bounds pruning, which removes many files.
const pruneTime = time.Hour

// Prune removes from the cache of the engine on Root what the options say and
// no build uses. It joins the engine, or starts one for as long as that takes.
func Prune(ctx context.Context, c ChildConfig, o PruneOptions) (*Freed, error) {
	var freed *Freed
	err := withEngine(ctx, c, request{Do: doPrune, Prune: o}, pruneTime, func(r reply) { freed = r.Freed })
	return freed, err
}

// StateOf asks the engine on Root what it holds and who uses it; nil when none
// runs.
func StateOf(ctx context.Context, root string) (*State, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	r := FindRunning(root)
	if r == nil {
		return nil, nil
	}
	var state *State
	err = question(ctx, r, request{Do: doStatus}, controlTime, func(a reply) { state = a.State })
	return state, err
}

// Measure starts an engine on Root just to ask what it holds.
func Measure(ctx context.Context, c ChildConfig) (*State, error) {
	var state *State
	err := withEngine(ctx, c, request{Do: doStatus}, controlTime, func(r reply) { state = r.State })
	return state, err
}

func withEngine(ctx context.Context, c ChildConfig, q request, within time.Duration, take func(reply)) error {
	child, err := StartChild(ctx, c)
	if err != nil {
		return err
	}
	defer func() { _ = child.Close() }()
	return question(ctx, &Running{Control: controlPath(child.Socket)}, q, within, take)
}

// question asks an engine something that is answered at once.
func question(ctx context.Context, r *Running, q request, within time.Duration, take func(reply)) error {
	conn, err := dialControl(r)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answer, err := ask(conn, bufio.NewReader(conn), q, within)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("asking the running engine: %w", err)
	case answer.Error != nil:
		return answer.Error.error()
	}
	take(answer)
	return nil
}
