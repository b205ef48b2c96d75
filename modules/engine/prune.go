package engine

import (
	"context"
	"path/filepath"

	"drydock/modules/engine/embedded/core"
)

// StateDir is where the embedded engine keeps its state below a cache directory.
func StateDir(cacheDir string) string { return filepath.Join(cacheDir, "engine") }

// Remove removes the embedded engine's state, also what belongs to subordinate
// ids. It refuses, naming the process, while an engine uses it.
func Remove(ctx context.Context, cacheDir string) error {
	return core.RemoveState(ctx, core.ChildConfig{Root: StateDir(cacheDir)})
}
