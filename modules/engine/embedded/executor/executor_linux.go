package executor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	bkexec "github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initbin"
	"drydock/modules/engine/embedded/initproc"
	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/jail"
)

// NetworkEnv is the variable that, set to NetworkNone, takes the gateway from
// a step. It never reaches the step.
const (
	NetworkEnv  = "DRYDOCK_NETWORK"
	NetworkNone = "none"
)

// Options configure an Executor.
type Options struct {
	Root          string // directory of running steps
	GatewaySocket string // "" leaves it to WithGateway
	Tier          string // TierNamespaces (also ""), TierContainer or TierTranslated
	// Launcher starts the inits of TierTranslated's steps, for which this
	// process must run under the other side of it (keeper.StartBare).
	Launcher *keeper.Launcher
	// LandlockABI caps what steps of TierContainer and TierTranslated use of Landlock, for tests:
	// 0 uses all the kernel has, a negative number none.
	LandlockABI int
	// SingleID: the engine runs under a keeper of owners (package keeper).
	SingleID bool
	Limits   Limits // of steps; WithLimits goes before it
	// Mounted is told that layers were mounted for a step; nil-able.
	Mounted func()
}

// Executor runs steps.
type Executor struct {
	opt     Options
	spawner *jail.Spawner
	init    string      // path of the step init
	memory  *os.File    // what that path leads to, when it is in memory
	filter  jail.Filter // of every command
	running runningSteps
	watch   watch

	container *container // in TierContainer
	emulators memories
}

// Vertex is the build step a process belongs to.
type Vertex struct {
	Digest   string
	Name     string // as people read it: "RUN make"
	Platform *pb.Platform
}

var _ bkexec.Executor = (*Executor)(nil)

// New prepares Root, clearing what a killed engine left in it.
func New(opt Options) (*Executor, error) {
	if err := recoverPlaced(opt.Root); err != nil {
		return nil, fmt.Errorf("clearing old steps: %w", err)
	}
	if err := os.RemoveAll(opt.Root); err != nil {
		return nil, fmt.Errorf("clearing old steps: %w", err)
	}
	if err := os.MkdirAll(opt.Root, 0o700); err != nil {
		return nil, fmt.Errorf("preparing for steps: %w", err)
	}
	opt.Limits = opt.Limits.over(DefaultLimits(opt.Root))
	e := &Executor{opt: opt, watch: watch{root: opt.Root}}
	var err error
	switch {
	case opt.Tier == TierContainer, opt.Tier == TierTranslated:
		e.container, e.filter, err = newContainer(opt)
	case opt.SingleID:
		e.filter, err = jail.BuildFilter(jail.DefaultCapabilities, keeper.StepRules()...)
	default:
		e.filter, err = jail.DefaultFilter(jail.DefaultCapabilities)
	}
	if err != nil {
		return nil, err
	}
	if e.memory, err = initbin.Memory(); err == nil {
		e.memory = raised(e.memory)
		e.init = fmt.Sprintf("/proc/self/fd/%d", e.memory.Fd())
	} else if e.init, err = initbin.Write(opt.Root); err != nil {
		return nil, err
	}
	if opt.Tier != TierTranslated {
		sweepCgroups()
	}
	e.spawner = jail.NewSpawner()
	return e, nil
}

// raisedFD is above the descriptors that are in use at a time.
const raisedFD = 1000

// raised gives a file a high descriptor. What is executed by its descriptor
// must not have one that starting a process uses: package syscall moves the
// child's files to the numbers after the highest of them.
func raised(f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, raisedFD)
	if err != nil {
		return f // the limit is lower: as it was
	}
	defer f.Close()
	return os.NewFile(uintptr(fd), f.Name())
}

// Close ends every step that still runs.
func (e *Executor) Close() {
	if e.container != nil {
		e.container.close()
	}
	e.spawner.Close()
	if e.memory != nil {
		e.memory.Close()
	}
	e.emulators.close()
}

// Bind gives an executor for the processes of one step.
func (e *Executor) Bind(v Vertex) bkexec.Executor { return &bound{e, v} }

type bound struct {
	e *Executor
	v Vertex
}

func (b *bound) Run(ctx context.Context, id string, root bkexec.Mount, mounts []bkexec.Mount, p bkexec.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	return nil, b.e.run(ctx, b.v, id, root, mounts, p, started)
}

func (b *bound) Exec(ctx context.Context, id string, p bkexec.ProcessInfo) error {
	return b.e.Exec(ctx, id, p)
}

// Run runs a process that belongs to no build step; it has no gateway.
func (e *Executor) Run(ctx context.Context, id string, root bkexec.Mount, mounts []bkexec.Mount, p bkexec.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	return nil, e.run(ctx, Vertex{}, id, root, mounts, p, started)
}

func (e *Executor) run(ctx context.Context, v Vertex, id string, root bkexec.Mount, mounts []bkexec.Mount, p bkexec.ProcessInfo, started chan<- struct{}) (err error) {
	var once sync.Once
	markStarted := func() {
		if started != nil {
			once.Do(func() { close(started) })
		}
	}
	defer markStarted()
	network := e.networkOf(ctx)
	v = network.vertex(v)
	if id == "" {
		id = identity.NewID()
	}
	if err := bkexec.ValidContainerID(id); err != nil {
		return err
	}
	s := &step{
		e: e, vertex: v, dir: filepath.Join(e.opt.Root, id), process: p, markStarted: markStarted,
		socket: cmp.Or(e.opt.GatewaySocket, gatewayFrom(ctx)), limits: limitsFrom(ctx).over(e.opt.Limits).asked(p.Meta.LinuxResources),
	}
	gateway := s.socket != "" && v.Digest != "" && p.Meta.NetMode != pb.NetMode_NONE
	env, emulate := make([]string, 0, len(p.Meta.Env)), ""
	for _, kv := range p.Meta.Env {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case NetworkEnv:
			gateway = gateway && value != NetworkNone
		case EmulateEnv:
			emulate = value
		default:
			env = append(env, kv)
		}
	}
	if err := s.emulation(ctx, emulate); err != nil {
		return err
	}
	if gateway {
		var err error
		if env, err = s.trust(bkexec.ReplaceEnv(env, gatewayEnv(network))); err != nil {
			return err
		}
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return fmt.Errorf("preparing the step: %w", err)
	}
	defer s.cleanup()
	if err := s.join(network); err != nil {
		return err
	}
	return s.run(ctx, root, mounts, env, gateway)
}

func (s *step) run(ctx context.Context, root bkexec.Mount, mounts []bkexec.Mount, env []string, gateway bool) error {
	if s.e.container != nil {
		return s.contained(ctx, root, mounts, env, gateway)
	}
	if err := s.prepare(ctx, root, mounts, env, gateway); err != nil {
		return err
	}
	return s.execute(ctx)
}

// exitError says how a step ended, as BuildKit's callers expect it; nil when
// the code is one the step may end with.
func exitError(ctx context.Context, r initproc.Report, valid []int, note string) error {
	if valid == nil && r.Code == 0 || slices.Contains(valid, r.Code) {
		return nil
	}
	e := &gatewayapi.ExitError{ExitCode: uint32(r.Code)}
	switch {
	case ctx.Err() != nil:
		e.Err = fmt.Errorf("exit code: %d: %w", r.Code, context.Cause(ctx))
	case r.Signal != 0:
		e.Err = fmt.Errorf("exit code: %d (%s)%s", r.Code, syscall.Signal(r.Signal), note)
	case note != "":
		e.Err = fmt.Errorf("exit code: %d%s", r.Code, note)
	}
	return e
}

func writeFile(path, content string) (string, error) {
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return "", fmt.Errorf("preparing the step: %w", err)
	}
	return path, nil
}

// writer is stdout or stderr of the step; the gateway's refusals are written
// between what the process writes.
type writer struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.w == nil {
		return len(b), nil
	}
	return w.w.Write(b)
}
