package core

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/sys/userns"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"drydock/modules/artifact"
	stepexec "drydock/modules/engine/embedded/executor"
)

// historyEntries is how many builds the controller remembers: none, since nobody
// asks for them and writing one takes as long as a build in which nothing changed.
const historyEntries = 0

// stack closes what was opened, last first.
type stack []func() error

func (s *stack) push(f func() error) { *s = append(*s, f) }

func (s *stack) close() error {
	var errs []error
	for i := len(*s) - 1; i >= 0; i-- {
		errs = append(errs, (*s)[i]())
	}
	*s = nil
	return errors.Join(errs...)
}

// New opens the engine on Options.Root. It runs inside the engine child, which
// is in its user namespace already when there is one.
func New(ctx context.Context, o Options) (_ *Core, err error) {
	var open stack
	defer func() {
		if err != nil {
			err = errors.Join(err, open.close())
		}
	}()
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "opening the engine's state", Place: o.Root, Err: err}
	}
	unlock, err := lock(ctx, o)
	if err != nil {
		return nil, err
	}
	open.push(unlock)
	clearTemporary(o.Root)

	place := o.Root
	inner := o
	inner.Root = filepath.Join(place, stateName(o.Tier))
	if err := os.MkdirAll(inner.Root, 0o700); err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "opening the engine's state", Place: place, Err: err}
	}
	ctl, w, err := newController(ctx, inner, &open)
	if err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "opening the engine's state", Place: place, Err: err,
			Remedy: removeRemedy(place),
		}
	}
	cl, err := connect(ctx, ctl, &open)
	if err != nil {
		return nil, err
	}
	return &Core{client: cl, close: open.close, worker: w, options: o, members: w.members, ctx: ctx}, nil
}

// Worker is the engine's worker, into which a front may put sources of its own
// before it serves.
func (c *Core) Worker() *base.Worker { return c.worker.Worker }

// Root is the engine's state directory.
func (c *Core) Root() string { return c.options.Root }

// Member finds a process that has joined by its id; nil when it is gone.
func (c *Core) Member(id string) *Member { return c.members.get(id) }

// WrapExecutor puts a decorator around the executor of every step. A front
// calls it before it serves. The decorator gets the step's operation, nil for
// a process that is no step of a build.
func (c *Core) WrapExecutor(wrap func(executor.Executor, *pb.ExecOp) executor.Executor) {
	c.worker.wrap = wrap
}

// Dial connects to a port of a running process that was made reachable.
func (c *Core) Dial(ctx context.Context, id string, p stepexec.Port) (net.Conn, error) {
	return c.worker.exec.Dial(ctx, id, p)
}

// Exec runs a further process beside a running one and waits for it.
func (c *Core) Exec(ctx context.Context, id string, p executor.ProcessInfo) error {
	return c.worker.exec.Exec(ctx, id, p)
}

func removeRemedy(root string) string {
	return "if it does not go away, remove " + root + ": it is a cache"
}

// stateName is the part of the state directory for this tier and user
// namespace. Files of layers have the ids the namespace maps theirs to, so what
// one wrote has wrong owners in another; and a tier without mounts keeps layers
// in another form.
func stateName(tier string) string {
	name := "state"
	if tier == TierContainer {
		name = "state-container"
	}
	if tier == TierTranslated { // owners are records
		name = "state-translated"
	}
	var maps []byte
	for _, f := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		b, err := os.ReadFile(f)
		if err != nil {
			return name
		}
		maps = append(maps, b...)
	}
	if !userns.RunningInUserNS() {
		return name
	}
	sum := sha256.Sum256(maps)
	return name + "-" + hex.EncodeToString(sum[:4])
}

// clearTemporary removes what a killed engine left in its TMPDIR.
func clearTemporary(root string) {
	old, _ := filepath.Glob(filepath.Join(root, "tmp", "*"))
	for _, path := range old {
		_ = os.RemoveAll(path) // nothing depends on it
	}
}

func newController(ctx context.Context, o Options, open *stack) (*control.Controller, *boundWorker, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, nil, fmt.Errorf("starting sessions: %w", err)
	}
	w, err := newWorker(ctx, o, open)
	if err != nil {
		return nil, nil, err
	}
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, nil, err
	}
	cacheStore, err := bboltcachestorage.NewStore(filepath.Join(o.Root, "cache.db"))
	if err != nil {
		return nil, nil, fmt.Errorf("opening the solver's cache: %w", err)
	}
	history, err := boltutil.SafeOpen(filepath.Join(o.Root, "history.db"), 0o600, &bolt.Options{
		NoSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the history: %w", err), cacheStore.Close())
	}
	entries := int64(historyEntries)
	stopping := make(chan struct{})
	ctl, err := control.NewController(control.Opt{
		SessionManager:            sessions,
		WorkerController:          workers,
		Frontends:                 frontends(workers),
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{RemoteCache: cacheExporter},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{RemoteCache: cacheImporter(w)},
		CacheManager:              solver.NewCacheManager(ctx, "local", cacheStore, worker.NewCacheResultStorage(workers)),
		HistoryDB:                 history,
		CacheStore:                cacheStore,
		LeaseManager:              w.LeaseManager(),
		ContentStore:              w.ContentStore(),
		HistoryConfig:             &config.HistoryConfig{MaxAge: config.Duration{Duration: 48 * time.Hour}, MaxEntries: &entries},
		GarbageCollect:            w.GarbageCollect,
		GracefulStop:              stopping,
	})
	if err != nil {
		return nil, nil, errors.Join(err, history.Close(), cacheStore.Close())
	}
	open.push(func() error {
		close(stopping)
		return ctl.Close() // closes history, worker and cache store too
	})
	return ctl, w, nil
}

// connect serves the controller on a listener inside the process and returns
// a client to it.
func connect(ctx context.Context, ctl *control.Controller, open *stack) (*client.Client, error) {
	server := grpc.NewServer(
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	ctl.Register(server)
	l := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(l) }() // ends with Stop
	open.push(func() error { server.Stop(); return nil })
	cl, err := client.New(ctx, "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return l.DialContext(ctx)
	}))
	if err != nil {
		return nil, fmt.Errorf("connecting to the engine's controller: %w", err)
	}
	open.push(cl.Close)
	return cl, nil
}
