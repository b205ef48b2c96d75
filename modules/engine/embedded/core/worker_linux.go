package core

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	bkexec "github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/linuxresources"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"drydock/modules/engine/embedded/executor"
	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/engine/embedded/trees"
)

const (
	namespace = "drydock"
	gigabyte  = 1_000_000_000
	// dbTimeout: the engine's lock keeps others away, so a database that is
	// still held is an error and not something to wait for
	dbTimeout = 5 * time.Second
)

// boundWorker is BuildKit's worker with our executor bound to the build step
// it runs, and without the sources that would reach out.
type boundWorker struct {
	*base.Worker
	exec *executor.Executor
	wrap func(bkexec.Executor, *pb.ExecOp) bkexec.Executor // nil: as it is

	members  *members
	origins  *origins
	launcher *keeper.Launcher // in tier T3
}

var _ worker.Worker = (*boundWorker)(nil)

// ResolveOp is base.Worker's but for what runs and what is fetched. Results say
// by which steps they were made.
func (w *boundWorker) ResolveOp(v solver.Vertex, s frontend.FrontendLLBBridge, sm *session.Manager, p worker.ProxyOpt) (solver.Op, error) {
	op, err := w.resolveOp(v, s, sm, p)
	if err != nil {
		return nil, err
	}
	return w.origins.marked(op, v), nil
}

func (w *boundWorker) resolveOp(v solver.Vertex, s frontend.FrontendLLBBridge, sm *session.Manager, p worker.ProxyOpt) (solver.Op, error) {
	op, ok := v.Sys().(*pb.Op)
	if !ok {
		return w.Worker.ResolveOp(v, s, sm, p)
	}
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		if err := refuseSource(o.Source.Identifier); err != nil {
			return nil, err
		}
		fetch, err := w.Worker.ResolveOp(v, s, sm, p)
		if isWeb(o.Source.Identifier) {
			fetch = &webOp{Op: fetch, vertex: executor.Vertex{Digest: v.Digest().String(), Name: v.Name()}}
		}
		return w.route(fetch, "", err)
	case *pb.Op_Exec:
		var resources *pb.LinuxResources
		if m, ok := v.Options().Metadata.(*linuxresources.Metadata); ok && m != nil {
			resources = m.LinuxResources
		}
		exec := w.exec.Bind(executor.Vertex{Digest: v.Digest().String(), Name: v.Name(), Platform: op.Platform})
		if w.wrap != nil {
			exec = w.wrap(exec, o.Exec)
		}
		run, err := ops.NewExecOp(v, o, op.Platform, w.CacheMgr, w.ParallelismSem, sm, exec, w.Worker, resources, false)
		return w.route(run, executor.EmulatedStep(op.Platform, o.Exec.Meta), err)
	case *pb.Op_File:
		if unpacks(o.File) {
			file, err := w.Worker.ResolveOp(v, s, sm, p)
			return w.route(&unpackOp{Op: file, op: o.File, name: v.Name(), worker: w}, "", err)
		}
	}
	return w.Worker.ResolveOp(v, s, sm, p)
}

// route runs an operation, which may need an emulator, for one of those who
// have joined.
func (w *boundWorker) route(op solver.Op, emulated string, err error) (solver.Op, error) {
	if err != nil {
		return nil, err
	}
	return &routedOp{Op: op, members: w.members, emulated: emulated}, nil
}

// Executor runs what is no step of a build: containers of the gateway.
func (w *boundWorker) Executor() bkexec.Executor {
	if w.wrap == nil {
		return w.exec
	}
	return w.wrap(w.exec, nil)
}

// ResolveSourceMetadata refuses what ResolveOp would.
func (w *boundWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	if err := refuseSource(op.Identifier); err != nil {
		return nil, err
	}
	return w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, job)
}

// Close stops the steps first.
func (w *boundWorker) Close() error {
	w.exec.Close()
	return w.Worker.Close()
}

func newWorker(ctx context.Context, o Options, open *stack) (*boundWorker, error) {
	members := o.members
	if members == nil {
		members = newMembers(nil)
	}
	marks := &volatileMarks{}
	exec, err := executor.New(executor.Options{
		Root: filepath.Join(o.Root, "steps"), Tier: o.Tier, LandlockABI: o.LandlockABI, SingleID: o.SingleID, Launcher: o.Launcher,
		Mounted: marks.mounted,
	})
	if err != nil {
		return nil, err
	}
	opt, plain, err := workerOpt(ctx, o, marks, open)
	if err != nil {
		exec.Close()
		return nil, err
	}
	opt.Executor = exec
	opt.RegistryHosts = registryHosts(members.images)
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		exec.Close()
		return nil, fmt.Errorf("starting the worker: %w", err)
	}
	if plain != nil {
		if err := withPlainRefs(w, plain); err != nil {
			exec.Close()
			return nil, fmt.Errorf("starting the worker: %w", err)
		}
	}
	if err := fetchThroughGateway(w, exec.Room); err != nil {
		exec.Close()
		return nil, fmt.Errorf("starting the worker: %w", err)
	}
	return &boundWorker{Worker: w, exec: exec, members: members, origins: newOrigins(), launcher: o.Launcher}, nil
}

// workerOpt opens the worker's state. plain is its snapshotter when that has
// no mounts.
func workerOpt(ctx context.Context, o Options, marks *volatileMarks, open *stack) (opt base.WorkerOpt, plain *trees.Snapshotter, err error) {
	var none base.WorkerOpt
	kept := chooseSnapshotter(o)
	// each kind of snapshotter has its own state: they cannot read each other's
	root := filepath.Join(o.Root, kept.folder)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return none, nil, err
	}
	if err := removeOrphans(ctx, filepath.Join(root, "snapshots")); err != nil {
		return none, nil, err
	}
	sn, err := kept.open(filepath.Join(root, "snapshots"))
	if err != nil {
		return none, nil, fmt.Errorf("opening snapshots: %w", err)
	}
	open.push(sn.Close)
	name := kept.name
	content, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return none, nil, fmt.Errorf("opening the content store: %w", err)
	}
	// NoSync here and below: a killed process loses nothing it wrote, only a
	// power cut can, and then the state is rebuilt
	db, err := bolt.Open(filepath.Join(root, "containerdmeta.db"), 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType, Timeout: dbTimeout, NoSync: true,
	})
	if err != nil {
		return none, nil, fmt.Errorf("opening the content database: %w", err)
	}
	open.push(db.Close)
	mdb := ctdmetadata.NewDB(db, content, map[string]snapshots.Snapshotter{name: sn})
	if err := mdb.Init(ctx); err != nil {
		return none, nil, fmt.Errorf("opening the content database: %w", err)
	}
	store := containerdsnapshot.NewContentStore(mdb.ContentStore(), namespace)
	applier, differ := apply.NewFileSystemApplier(store), walking.NewWalkingDiff(store)
	if t, ok := sn.(*trees.Snapshotter); ok {
		plain, applier, differ = t, trees.NewApplier(t, store), trees.NewDiffer(t, store)
	}
	id, err := base.ID(root)
	if err != nil {
		return none, nil, err
	}
	md, err := metadata.NewStore(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return none, nil, err
	}
	if db, ok := md.DB().(*bolt.DB); ok {
		db.NoSync = true
	}
	layers := containerdsnapshot.NewSnapshotter(name, mdb.Snapshotter(name), namespace, nil)
	if kept.overlay && volatileSupported() {
		layers = volatileOverlays{layers, marks}
	}
	return base.WorkerOpt{
		ID: id, Root: root,
		Labels:          map[string]string{"drydock.snapshotter": kept.folder},
		Platforms:       nativePlatforms(),
		GCPolicy:        limitsOf(root, o.Quota).policy(),
		BuildkitVersion: client.BuildkitVersion{Package: "drydock", Version: "v0.33.0"},
		Snapshotter:     layers,
		ContentStore:    store,
		Applier:         applier,
		Differ:          differ,
		LeaseManager:    leaseutil.WithNamespace(ctdmetadata.NewLeaseManager(mdb), namespace),
		GarbageCollect:  mdb.GarbageCollect,
		MountPoolRoot:   filepath.Join(root, "cachemounts"),
		MetadataStore:   md,
	}, plain, nil
}

// nativePlatforms lists this machine's platform first: it is $BUILDPLATFORM.
// The others can be built for; what runs of them the executor emulates or
// refuses, since emulators are those of the process it runs for.
func nativePlatforms() []ocispecs.Platform {
	native := platforms.Normalize(platforms.DefaultSpec())
	out := []ocispecs.Platform{native}
	for _, arch := range []string{"amd64", "arm64"} {
		if arch != native.Architecture {
			out = append(out, ocispecs.Platform{OS: "linux", Architecture: arch})
		}
	}
	return out
}

// kept says how layers are kept.
type kept struct {
	folder  string // of the state
	name    string // by which BuildKit knows it
	overlay bool   // as overlays, not as plain directories
	open    func(root string) (snapshots.Snapshotter, error)
}

// chooseSnapshotter takes overlay when it can be mounted here, also inside a
// user namespace, else plain directories.
func chooseSnapshotter(o Options) kept {
	// BuildKit takes a snapshotter of the name native for one of plain
	// directories, whose files it may link: no overlay is looked for in it
	plain := kept{folder: "trees", name: "native", open: func(root string) (snapshots.Snapshotter, error) {
		return trees.New(root, trees.Options{Lazy: true, Deferred: deferred})
	}}
	if o.Tier == TierContainer || o.Tier == TierTranslated || o.NoOverlay {
		return plain
	}
	err := overlayutils.Supported(o.Root)
	if err == nil {
		return kept{folder: "overlayfs", name: "overlayfs", overlay: true, open: func(root string) (snapshots.Snapshotter, error) {
			return overlay.NewSnapshotter(root)
		}}
	}
	if o.Log != nil {
		fmt.Fprintf(o.Log, "overlay cannot be used on %s, steps work on plain directories instead: %v\n", o.Root, err)
	}
	return plain
}

// deferred names what BuildKit asks for before it knows whether it needs it:
// a layer being unpacked (cache/refs.go, unlazyLayer) and the view of a ref,
// which a layer's differ has no use for. What reads a view ensures it.
func deferred(key string) bool {
	if i := strings.LastIndex(key, "/"); i >= 0 {
		key = key[i+1:] // after the namespace and number that the metadata put before it
	}
	return strings.HasPrefix(key, "extract-") || strings.HasSuffix(key, "-view")
}

// scheme is what stands before "://" in a source's identifier.
func scheme(identifier string) string {
	s, _, _ := strings.Cut(identifier, "://")
	return s
}
