// Package core is the engine itself: BuildKit's solver, cache, content store
// and Dockerfile frontend as libraries, run in a child process of the same
// executable, with one worker whose steps our own executor runs.
//
// The package has two sides. In the main process StartChild starts the engine
// child and Probe says whether it can run here. In the child ChildMain sees
// from the arguments what the process is for and, for the engine, opens a Core
// and hands it to the front that serves clients.
package core

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/moby/buildkit/client"

	"drydock/modules/engine/embedded/executor"
	"drydock/modules/engine/embedded/keeper"
)

// BaseHost is the registry host that stands for ChildConfig.ImagesAddr:
// references to it stay the same whatever port the loopback registry got.
const BaseHost = "base.drydock.internal"

// frontendFolder is where frontends lie among the images of BaseHost: nothing
// else there is run as one.
const frontendFolder = "frontends/"

// The tiers: how steps are kept apart from the engine and the host.
const (
	TierNamespaces = executor.TierNamespaces // T1: every step in namespaces of its own
	TierContainer  = executor.TierContainer  // T2: an ordinary container as root, where the kernel gives neither namespaces nor mounts
	TierTranslated = executor.TierTranslated // T3: an ordinary container as any user: paths and ids are translated
)

// Options says where the engine keeps its state.
type Options struct {
	// Root is the state directory. One engine uses it at a time.
	Root string
	// LockWait is how long to wait for another engine to leave Root before
	// giving up; 0 is thirty seconds.
	LockWait time.Duration
	// Tier is how steps are run: TierNamespaces (also ""), TierContainer or
	// TierTranslated.
	Tier string
	// LandlockABI caps what the steps of TierContainer use of Landlock, for
	// tests: 0 uses all the kernel has, a negative number none.
	LandlockABI int
	// Launcher is as in executor.Options.
	Launcher *keeper.Launcher
	// NoOverlay takes overlay for not to be had, for tests.
	NoOverlay bool
	// SingleID: this process runs under a keeper of owners (package keeper).
	SingleID bool
	// Quota is how much is kept, in bytes; 0 is a share of the disk.
	Quota int64
	// Owner is the process id that a competing engine is told; 0 is this one.
	Owner int
	// Log receives the engine's own log; nil discards it.
	Log io.Writer

	members *members // nil: nobody yet
}

// Core is a running engine inside the engine child.
type Core struct {
	client  *client.Client
	close   func() error
	worker  *boundWorker
	options Options
	members *members
	ctx     context.Context //nolint:containedctx // it is the engine's lifetime
}

// Client talks to the engine's controller over a private connection inside
// the process. It is closed with the Core.
func (c *Core) Client() *client.Client { return c.client }

// Close stops the engine and closes its databases.
func (c *Core) Close() error { return c.close() }

// Serve is the front: it serves clients on the listener until ctx is done.
type Serve func(ctx context.Context, c *Core, l net.Listener) error

// ChildConfig says how to start an engine child.
type ChildConfig struct {
	// Program is the executable re-executed; its main must call ChildMain
	// first. "" is this executable.
	Program string
	// Root is as in Options. An engine that runs on it is joined.
	Root string
	// GatewaySocket is the unix socket of this process's mirror gateway; ""
	// leaves its steps with loopback only.
	GatewaySocket string
	// ImagesAddr is host:port of this process's loopback registry, for which
	// BaseHost stands; "" has none.
	ImagesAddr string
	// LockWait is how long to wait for an engine that cannot be joined; 0 is
	// thirty seconds.
	LockWait time.Duration
	// Notice is told, after a moment, whom this process waits for; nil-able.
	Notice func(string)
	// Quota is how much the engine keeps, in bytes; 0 is a share of the disk.
	// One that runs already keeps its own.
	Quota int64
	// Tier forces a tier; "" takes the best this host gives.
	Tier string
	// LandlockABI is as in Options.
	LandlockABI int
	// NoOverlay takes overlay for not to be had, for tests.
	NoOverlay bool
	// Emulators execute foreign architectures in this process's builds.
	Emulators executor.Emulators
	// Limits bound each step of this process's builds; 0 is a default.
	Limits executor.Limits
	// Environ is the caller's environment. Nothing of it reaches the child;
	// its PATH is where newuidmap is looked for.
	Environ []string
	// Log receives what the child writes to its log; nil discards it. One that
	// joins an engine gets none of it.
	Log io.Writer

	build string // stands for the program's build id, for tests
}

// Child is a running engine child as a main process sees it. The engine ends
// when the last process that uses it has closed it or ended, however it ended.
type Child struct {
	Socket string          // unix socket on which the child serves
	Tier   string          // the tier it runs steps in
	Mode   string          // "root" (identity map), "rootless" (user namespace), "single-id" (of one id), "container" (no namespaces) or "translated" (no capabilities)
	Member string          // what the engine knows this process by
	Joined bool            // it ran already
	Done   <-chan struct{} // closed when the child has ended, or after Close

	reaped <-chan struct{} // closed when the child was waited for; nil for one that joined
	stop   func() error
	err    func() error
}

// Close leaves the engine. When nobody else uses it, it ends, and Close waits
// for that.
func (c *Child) Close() error { return c.stop() }

// Err says how the child ended; nil before that, after a clean end, and for an
// engine this process has not started.
func (c *Child) Err() error { return c.err() }
