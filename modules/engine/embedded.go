package engine

import "context"

func connectEmbedded(ctx context.Context, cfg Config) (*Engine, error) { return nil, unsupported() }

// Child runs the process if its arguments say it was started as an engine
// child or as the init of a step. It must come first in main, and in TestMain
// of packages that use the embedded engine; when handled, exit with exit.
func Child(args []string) (handled bool, exit int) { return false, 0 }

// Probe tries in child processes what the embedded engine can do on this host.
func Probe(ctx context.Context) (Report, error) { return Report{}, unsupported() }
