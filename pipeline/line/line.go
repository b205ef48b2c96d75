// Package line puts the rooms together: it opens mirrors, gateway, engine,
// registries and keys when they are first wanted, and knows, for every kind of
// node of a plan, which module does it.
package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/base"
	"drydock/modules/engine"
	"drydock/modules/mirror"
	"drydock/modules/registry"
	"drydock/modules/secret/vault"
	"drydock/modules/sign"
	"drydock/pipeline/changed"
	"drydock/pipeline/ci"
	"drydock/pipeline/progress"
	"drydock/pipeline/results"
	"drydock/pipeline/stepbin"

	"dagger.io/dagger"
)

// Config is everything a Line follows from.
type Config struct {
	Catalog    *catalog.Catalog
	CatalogDir string
	ProjectDir string // of the project file; "" without one

	Cache, Data, Keys, Out string

	Engine   string // auto, embedded or dagger
	Tier     string // of the embedded engine: auto (also ""), T1 or T2
	Locked   bool
	Observe  bool // steps are let out and watched; what comes of it stays in the first stage
	Offline  bool // the content store answers, no mirror is asked
	FailFast bool
	Jobs     int // tasks at once; 0 is twice the processors

	Environ []string
	// Hide keeps values out of everything Sink shows from then on; nil: it shows
	// no secrets.
	Hide func(values ...string)
	// LookupEnv gives the variables that env:// secrets name; nil refuses them.
	LookupEnv func(string) (string, bool)
	CI        ci.CI
	Trigger   string
	State     *changed.State // what git says of the catalog's sources
	Version   string         // of this program
	Now       time.Time      // the time of judgement
	Sink      progress.Sink
	Log       io.Writer // the engine's own log; nil discards

	CacheFrom []engine.Cache // results of builds elsewhere, which this run's may start from
	CacheTo   []engine.Cache // where ExportCaches writes this run's

	// At makes the mirrors serve what they had then, where they can; zero is now.
	At time.Time
	// NoStale refuses copies in place of answers of mirrors that cannot be asked.
	NoStale bool

	again *again // set by Rebuild

	// StepLimits bound each step; a field that is 0 has engine.Limits' default.
	StepLimits  engine.Limits
	LandlockABI int   // as engine.Config's, for tests
	Quota       int64 // how much an embedded engine keeps, in bytes; 0 is a share of the disk
	MirrorQuota int64 // how much of what was fetched from mirrors is kept, likewise
}

// Line is one wired pipeline. Nothing is opened before it is wanted: a run in
// which nothing changed opens nothing. Close it when done.
type Line struct {
	cfg  Config
	ctx  context.Context //nolint:containedctx // what is shared lives as long as the line, not as long as the first caller
	stop context.CancelCauseFunc

	mirrors    *shared[*mirror.Set]
	engine     *shared[*engine.Engine]
	stepProg   *shared[string]
	egress     *shared[*egress] // of an engine that is not hermetic
	stages     *shared[*registry.Client]
	basesReg   *shared[*basesRegistry]
	signer     *shared[*sign.Signer]
	gatewayBox *shared[*gatewayBox]
	vault      *shared[*vault.Client]
	emulation  *shared[*emulation]
	canEmulate *shared[string]
	layouts    *shared[string] // the folder of this run's

	mu        sync.Mutex
	closers   []func() error
	bases     map[string]*shared[baseReady]
	readers   map[string]*shared[reader] // frontends that Dockerfiles name, by image
	drifts    map[string]*drift          // bases that could not be built as locked
	notes     []string
	logs      *changelogs
	observing *observation          // a lock is being made
	locking   bool                  // so steps are not held to the one there is
	moved     map[string]*base.Lock // bases whose locks are being moved forward, by name
	built     []*builtImage         // by this line, in any order
	builds    map[string]string     // build names to the images they belong to, for progress
}

// New makes a line; ctx is the run's.
func New(ctx context.Context, cfg Config) *Line {
	if cfg.Jobs == 0 {
		cfg.Jobs = 2 * runtime.NumCPU()
	}
	if cfg.Sink == nil {
		cfg.Sink = progress.Discard()
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.State == nil {
		cfg.State = &changed.State{}
	}
	l := &Line{cfg: cfg, bases: map[string]*shared[baseReady]{}, readers: map[string]*shared[reader]{}, builds: map[string]string{}, drifts: map[string]*drift{}}
	l.ctx, l.stop = context.WithCancelCause(ctx)
	l.mirrors = share(l.openMirrors)
	l.engine = share(l.openEngine)
	l.stepProg = share(l.findStep)
	l.egress = share(l.openEgress)
	l.stages = share(l.openStages)
	l.basesReg = share(l.openBases)
	l.signer = share(l.openSigner)
	l.gatewayBox = share(l.openGateway)
	l.emulation = share(l.openEmulation)
	l.canEmulate = share(l.findEmulates)
	l.vault = share(l.openVault)
	l.layouts = share(l.openLayouts)
	return l
}

// Close ends what was opened, the last first.
func (l *Line) Close() error {
	l.mu.Lock()
	closers := l.closers
	l.closers = nil
	l.mu.Unlock()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	l.stop(nil)
	return errors.Join(errs...)
}

func (l *Line) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// drift is why a base is not what its lock says: what the reader of every run
// that stands on it must know, and the lock of what was built in its place.
type drift struct {
	Notes []string
	Lock  []byte // nil where the base has no lock to differ from
}

// driftNote is a note about a base; it is told again by runs that find what was
// built on it remembered.
func (l *Line) driftNote(base, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.mu.Lock()
	if l.drifts[base] == nil {
		l.drifts[base] = &drift{}
	}
	l.drifts[base].Notes = append(l.drifts[base].Notes, text)
	l.mu.Unlock()
	l.note("%s", text)
}

// note keeps something the reader of the whole run must know, and shows it.
func (l *Line) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.mu.Lock()
	for _, n := range l.notes {
		if n == text {
			l.mu.Unlock()
			return
		}
	}
	l.notes = append(l.notes, text)
	l.mu.Unlock()
	l.cfg.Sink.Emit(progress.Event{Kind: progress.Note, Text: text})
}

func (l *Line) openMirrors() (*mirror.Set, error) {
	m := l.cfg.Catalog.Mirrors
	setting := func(s catalog.Setting) mirror.Setting { return mirror.Setting{Auto: s.Auto, URLs: s.URLs} }
	var git []mirror.GitMirror
	for _, host := range slices.Sorted(maps.Keys(m.Git)) {
		git = append(git, mirror.GitMirror{Prefix: host, URLs: m.Git[host]})
	}
	var files []mirror.FileMirror
	for _, f := range m.Files {
		files = append(files, mirror.FileMirror{Prefix: f.Prefix, URLs: f.From, SHA256: f.SHA256})
	}
	var standsFor []mirror.StandIn
	for _, place := range slices.Backward(slices.Sorted(maps.Keys(m.StandsFor))) { // of one host the longer first
		standsFor = append(standsFor, mirror.StandIn{Prefix: place, Path: m.StandsFor[place]})
	}
	set, err := mirror.Discover(l.ctx, mirror.Config{
		Debian: setting(m.Debian), Go: setting(m.Go), Npm: setting(m.Npm), OCI: setting(m.OCI), PyPI: setting(m.PyPI), Git: git, Files: files, StandsFor: standsFor,
		Suite: m.Suite, Trust: l.trust(), Place: m.Place, Offline: l.cfg.Offline,
		At: l.cfg.At, Snapshot: m.Snapshot, NoStale: l.cfg.NoStale,
	}, mirror.Host{Environ: l.cfg.Environ}, l.cfg.Cache)
	if err != nil {
		return nil, err
	}
	end, err := set.Use(l.cfg.Cache, l.cfg.MirrorQuota)
	if err != nil {
		return nil, err
	}
	l.onClose(end)
	return set, nil
}

// source is the folder an image's paths are relative to.
func (l *Line) source(img *catalog.Image) string {
	if img.Project {
		return l.cfg.ProjectDir
	}
	return l.cfg.CatalogDir
}

// trust is the PEM file of private authorities, "" for none.
func (l *Line) trust() string {
	t := l.cfg.Catalog.Mirrors.Trust
	if t != "" && !filepath.IsAbs(t) {
		t = filepath.Join(l.cfg.CatalogDir, t)
	}
	return t
}

// gatewayBox is the gateway and the private folder of its socket.
type gatewayBox struct {
	gateway *mirror.Gateway
	socket  string
}

func (l *Line) openGateway() (*gatewayBox, error) {
	set, err := l.mirrors.get()
	if err != nil {
		return nil, err
	}
	sweepGateways(os.TempDir())
	// Not below the cache: a unix socket's path has 108 bytes at most.
	dir, err := os.MkdirTemp("", "drydock-gateway-")
	if err != nil {
		return nil, fmt.Errorf("making the gateway's folder: %w", err)
	}
	l.onClose(func() error { return os.RemoveAll(dir) })
	box := &gatewayBox{socket: filepath.Join(dir, "gateway.sock")}
	listener, err := net.Listen("unix", box.socket)
	if err != nil {
		return nil, fmt.Errorf("opening the gateway: %w", err)
	}
	box.gateway = mirror.NewGateway(set, mirror.GatewayOptions{CacheDir: l.cfg.Cache, Log: l.cfg.Log})
	if l.cfg.Locked && l.cfg.again == nil {
		box.gateway.Strict()
	}
	go func() { _ = box.gateway.Serve(listener) }() // ends when the gateway closes
	l.onClose(box.gateway.Close)
	return box, nil
}

// sweepGateways removes the folders that runs which were killed left behind:
// those with a socket nobody listens on.
func sweepGateways(dir string) {
	sockets, err := filepath.Glob(filepath.Join(dir, "drydock-gateway-*", "gateway.sock"))
	if err != nil {
		return
	}
	for _, s := range sockets {
		c, err := net.DialTimeout("unix", s, time.Second)
		if err == nil {
			_ = c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.RemoveAll(filepath.Dir(s)) // another user's stays
		}
	}
}

// basesRegistry serves base images to the engine, read-only on loopback.
type basesRegistry struct {
	client  *registry.Client
	where   registry.Location
	address string
}

func (l *Line) openBases() (*basesRegistry, error) {
	embedded, err := registry.Open(l.ctx, filepath.Join(l.cfg.Cache, "bases-registry"))
	if err != nil {
		return nil, err
	}
	l.onClose(embedded.Close)
	b := &basesRegistry{}
	if b.where, err = embedded.Location("bases"); err != nil {
		return nil, err
	}
	if b.client, err = registry.NewClient(registry.Options{Environ: l.cfg.Environ, Embedded: embedded}); err != nil {
		return nil, err
	}
	ready, failed := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		failed <- embedded.Serve(l.ctx, registry.ServeOptions{
			Address: "127.0.0.1:0", Stage: "bases", ReadOnly: true,
			Ready: func(a net.Addr) { ready <- a },
		})
	}()
	select {
	case a := <-ready:
		b.address = a.String()
		return b, nil
	case err := <-failed:
		return nil, err
	}
}

func (l *Line) openEngine() (*engine.Engine, error) {
	box, err := l.gatewayBox.get()
	if err != nil {
		return nil, err
	}
	bases, err := l.basesReg.get()
	if err != nil {
		return nil, err
	}
	emulation, err := l.emulation.get()
	if err != nil {
		return nil, err
	}
	registries, err := l.cacheRegistries()
	if err != nil {
		return nil, err
	}
	e, err := engine.Connect(l.ctx, engine.Config{
		Kind: l.cfg.Engine, CacheDir: l.cfg.Cache, Gateway: box.socket, Images: bases.address,
		Environ: l.cfg.Environ, LookupEnv: l.cfg.LookupEnv, Log: l.cfg.Log, Progress: l.engineEvent, Tier: l.cfg.Tier, Notice: l.engineNotice, Quota: l.cfg.Quota,
		Limits: l.cfg.StepLimits, LandlockABI: l.cfg.LandlockABI,
		Emulators: emulation.forEngine(l.builder()),
		CacheFrom: l.readCaches(), CacheTo: l.writeCaches(), Registries: registries, Steps: box.gateway,
	})
	if err != nil {
		return nil, err
	}
	l.onClose(e.Close)
	if e.Tier == "T3" && l.cfg.Tier != "T3" {
		l.note("this host gives tier T3 only: building is slower, and steps are less held apart, than in T1 or T2; drydock doctor names the setting that gives one of them")
	}
	return e, nil
}

// Engine is the engine with the gateway and the bases around it, connected at
// the first call and closed with the line.
func (l *Line) Engine() (*engine.Engine, error) { return l.engine.get() }

// worker is what every step of our own needs: the engine and the step program.
func (l *Line) worker() (*engine.Engine, string, error) {
	e, err := l.engine.get()
	if err != nil {
		return nil, "", err
	}
	step, err := l.stepProg.get()
	return e, step, err
}

// client is what modules talk to the engine with.
func (l *Line) client() (*dagger.Client, error) {
	e, err := l.engine.get()
	if err != nil {
		return nil, err
	}
	return e.Client, nil
}

// engineNotice tells what the engine has to say: whom it waits for, what came
// of caches.
func (l *Line) engineNotice(text string) {
	l.cfg.Sink.Emit(progress.Event{Step: "engine", Kind: progress.Note, Text: text})
}

// engineEvent shows what RUN steps print under the image they belong to.
func (l *Line) engineEvent(e engine.Event) {
	if e.Kind != engine.EventLog || e.Build == "" {
		return
	}
	l.mu.Lock()
	label := l.builds[e.Build]
	l.mu.Unlock()
	image, platform, _ := strings.Cut(label, " ")
	image, variant, _ := strings.Cut(image, ":")
	l.cfg.Sink.Emit(progress.Event{
		Time: e.Time, Image: image, Variant: variant, Platform: platform, Step: "build",
		Kind: progress.Log, Text: e.Text,
	})
}

func (l *Line) findStep() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	environ := l.cfg.Environ
	if l.cfg.Offline {
		environ = append(append([]string{}, environ...), "GOPROXY=off")
	}
	return stepbin.Find(l.ctx, stepbin.Options{
		Cache: l.cfg.Cache, Executable: exe, Environ: environ,
		Progress: func(text string) {
			l.cfg.Sink.Emit(progress.Event{Step: "step program", Kind: progress.Note, Text: text})
		},
	})
}

func (l *Line) openStages() (*registry.Client, error) {
	embedded, err := registry.Open(l.ctx, l.registryDir())
	if err != nil {
		return nil, err
	}
	l.onClose(embedded.Close)
	return registry.NewClient(registry.Options{Environ: l.cfg.Environ, Trust: l.trust(), Embedded: embedded})
}

func (l *Line) registryDir() string { return filepath.Join(l.cfg.Data, "registry") }

// location is where a stage's images live.
func location(s catalog.Stage) registry.Location {
	if s.Registry == "embedded" {
		return registry.Location{Name: s.Name}
	}
	return registry.Location{Name: s.Name, Base: s.Registry}
}

func (l *Line) stage(name string) (catalog.Stage, error) {
	s, ok := l.cfg.Catalog.Stage(name)
	if !ok {
		names := []string{}
		for _, s := range l.cfg.Catalog.Stages {
			names = append(names, s.Name)
		}
		return catalog.Stage{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "choosing stage", Place: name,
			Message: "the catalog has no such stage", Remedy: "one of: " + strings.Join(names, ", "),
		}
	}
	return *s, nil
}

func (l *Line) results() results.Store {
	return results.Store{Dir: filepath.Join(l.cfg.Cache, "results")}
}

func (l *Line) builder() *base.Builder {
	set, _ := l.mirrors.get() // the caller has asked before
	return &base.Builder{
		Mirrors: set, CacheDir: filepath.Join(l.cfg.Cache, "bases"), Locked: l.cfg.Locked,
		Engine:  func(context.Context) (*dagger.Client, error) { return l.client() },
		Emulate: func(p artifact.Platform) ([]artifact.Material, error) { return l.emulatorOf(p) },
		Now:     func() time.Time { return l.cfg.Now },
		Log: func(line string) {
			l.cfg.Sink.Emit(progress.Event{Step: "base", Kind: progress.Log, Text: line})
		},
	}
}
