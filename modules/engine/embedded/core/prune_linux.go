package core

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/client"
)

// Prune removes from the cache what the options say and no build uses.
func (c *Core) Prune(ctx context.Context, o PruneOptions) (*Freed, error) {
	freed := &Freed{}
	policies := []client.PruneInfo{{All: o.All, KeepDuration: o.OlderThan, MaxUsedSpace: o.MaxSize}}
	if !o.All && o.OlderThan == 0 && o.MaxSize == 0 {
		policies = c.worker.GCPolicy()
	}
	for _, p := range policies {
		opts := []client.PruneOption{client.WithKeepOpt(p.KeepDuration, p.ReservedSpace, p.MaxUsedSpace, p.MinFreeSpace)}
		if p.All || o.MaxSize > 0 || o.OlderThan > 0 {
			opts = append(opts, client.PruneAll)
		}
		if len(p.Filter) > 0 {
			opts = append(opts, client.WithFilter(p.Filter))
		}
		ch := make(chan client.UsageInfo)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for u := range ch {
				freed.Records++
				freed.Bytes += u.Size
			}
		}()
		err := c.client.Prune(ctx, ch, opts...)
		close(ch)
		<-done
		if err != nil {
			return freed, fmt.Errorf("pruning the engine's cache: %w", err)
		}
	}
	return freed, nil
}

// state describes this engine.
func (c *Core) state(self Running) (*State, error) {
	out := &State{Running: self, Members: []MemberState{}, Limit: limitsOf(c.options.Root, c.options.Quota).quota}
	for _, m := range c.members.all() {
		out.Members = append(out.Members, MemberState{PID: m.PID, Since: m.Since})
	}
	usage, err := c.client.DiskUsage(c.ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for the cache's size: %w", err)
	}
	for _, u := range usage {
		out.Records++
		out.Bytes += u.Size
		if u.InUse {
			out.InUse++
		}
	}
	return out, nil
}
