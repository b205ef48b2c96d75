package engine

import (
	"context"
	"path/filepath"
	"time"

	"drydock/modules/engine/embedded/core"
)

// StateDir is where the embedded engine keeps its state below a cache directory.
func StateDir(cacheDir string) string { return filepath.Join(cacheDir, "engine") }

// PruneOptions says what Prune removes. The zero value removes what is over the
// quota.
type PruneOptions struct {
	All       bool          // all that no build uses
	OlderThan time.Duration // only what was not used for as long; 0 is any age
	MaxSize   int64         // only until no more than this is left, in bytes; 0 is no bound
}

// Pruned is what was removed.
type Pruned struct {
	Records int   `json:"records"`
	Bytes   int64 `json:"freedBytes"`
}

// Prune removes parts of the embedded engine's cache, through the engine that
// runs or one started for it. Config's CacheDir, Environ, Quota and Notice count.
func Prune(ctx context.Context, cfg Config, o PruneOptions) (Pruned, error) {
	freed, err := core.Prune(ctx, childConfig(cfg), core.PruneOptions(o))
	if freed == nil {
		freed = &core.Freed{}
	}
	return Pruned{Records: freed.Records, Bytes: freed.Bytes}, err
}

// Remove removes the embedded engine's state, also what belongs to subordinate
// ids. It refuses, naming the process, while an engine uses it.
func Remove(ctx context.Context, cacheDir string) error {
	return core.RemoveState(ctx, core.ChildConfig{Root: StateDir(cacheDir)})
}

// Status is what is known of the embedded engine of a cache directory.
type Status struct {
	Running bool           `json:"running"`
	PID     int            `json:"pid,omitempty"`   // of the running engine
	Tier    string         `json:"tier,omitempty"`  // it runs steps in
	Since   time.Time      `json:"since,omitzero"`  // it runs
	Clients []ClientStatus `json:"clients"`         // processes that use it
	Records int            `json:"records"`         // of the cache
	Bytes   int64          `json:"recordBytes"`     // they hold
	InUse   int            `json:"inUse"`           // records that running builds use
	Quota   int64          `json:"quota,omitempty"` // bytes
}

// ClientStatus is one process that uses the engine.
type ClientStatus struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// Running reports whether an embedded engine runs on a cache directory.
func Running(cacheDir string) bool { return core.FindRunning(StateDir(cacheDir)) != nil }

// ReadStatus asks the running engine or, when none runs, one started to be
// asked. An engine that cannot be started is an error; Running is false then.
func ReadStatus(ctx context.Context, cfg Config) (Status, error) {
	s, err := core.StateOf(ctx, StateDir(cfg.CacheDir))
	running := s != nil
	if err == nil && s == nil {
		s, err = core.Measure(ctx, childConfig(cfg))
	}
	out := Status{Running: running, Clients: []ClientStatus{}}
	if s == nil {
		return out, err
	}
	out.Records, out.Bytes, out.Quota = s.Records, s.Bytes, s.Limit
	if !running {
		return out, err
	}
	out.PID, out.Tier, out.Since, out.InUse = s.PID, s.Tier, s.Started, s.InUse
	for _, m := range s.Members {
		out.Clients = append(out.Clients, ClientStatus(m))
	}
	return out, err
}

func childConfig(cfg Config) core.ChildConfig {
	tier := cfg.Tier
	if tier == TierAuto {
		tier = ""
	}
	return core.ChildConfig{
		Program: cfg.Program, Root: StateDir(cfg.CacheDir), Tier: tier, Quota: cfg.Quota,
		Environ: cfg.Environ, Log: cfg.Log, Notice: cfg.Notice,
	}
}
