// Package engine connects the modules to what executes their steps: a Dagger
// Engine when the environment names one, else the embedded engine, a child
// process that answers the same API on BuildKit. Modules see a *dagger.Client
// and never know which.
package engine

import (
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

// The kinds Config.Kind and Engine.Kind take.
const (
	KindAuto     = "auto"     // a Dagger Engine if the environment names one, else embedded
	KindEmbedded = "embedded" // our own
	KindDagger   = "dagger"   // a Dagger Engine
)

// TierAuto takes the best tier this host gives.
const TierAuto = "auto"

// BaseHost is the host name under which the embedded engine knows base images.
// It resolves it to Config.Images, so that references, and with them cache
// keys, stay the same whatever port the images are served on.
const BaseHost = "base.drydock.internal"

// FrontendFolder is where the frontends of Dockerfiles lie among the images of
// BaseHost: the embedded engine runs nothing else there as one.
const FrontendFolder = "frontends/"

// Config says which engine and with what around it. The zero value is the
// automatic choice with steps that have no network at all.
type Config struct {
	Kind     string   // KindAuto (also ""), KindEmbedded or KindDagger
	CacheDir string   // state of the embedded engine lives under CacheDir/engine
	Gateway  string   // path of the gateway's unix socket; "" = steps have no network at all
	Images   string   // host:port of the loopback OCI registry that serves bases (plain HTTP)
	Program  string   // executable re-executed as engine child; "" = os.Executable
	Tier     string   // how the embedded engine isolates steps: TierAuto (also ""), "T1", "T2" or "T3"; refused when it cannot be had
	Environ  []string // the environment the choice of engine reads; the embedded engine gets none of it
	// LookupEnv gives the variables that env:// secrets name, one at a time and
	// only when a query names it; nil refuses such secrets in the embedded engine.
	LookupEnv func(string) (string, bool)
	Workdir   string // what relative host paths are relative to; "" = the process's working directory

	// Emulators execute foreign architectures' code in the embedded engine's
	// steps, by architecture as OCI names it (arm64); nil refuses such steps.
	Emulators map[string]Emulator

	Log   io.Writer // the engine's own log; nil discards it
	Quota int64     // how much an embedded engine keeps, in bytes; 0 = a share of the disk

	// Limits bound each step in the embedded engine; a field that is 0 has a
	// default, which depends on the machine.
	Limits Limits
	// LandlockABI caps what steps of tier T2 use of Landlock, for tests: 0 uses
	// all the kernel has, a negative number none.
	LandlockABI int

	CacheFrom  []Cache          // what an embedded engine imports results from
	CacheTo    []Cache          // where ExportCache writes them
	Registries *registry.Client // reaches the caches that are in registries
	Steps      StepRecords      // nil-able; what goes with results

	Notice   func(string) // nil-able; told, after a moment, whom connecting waits for
	Progress func(Event)  // nil-able; called from one goroutine, must not block for long
}

// Limits bound what one step may take. A step that takes more is ended, and
// its error names the limit.
type Limits struct {
	Memory    int64 // bytes, of all its processes together; default nine tenths of what there is
	Processes int   // processes and threads at a time; default 16384, or what the machine has room for
	Disk      int64 // bytes it may write; default half of the disk
	FreeDisk  int64 // bytes that must stay free on the engine's disk; default a fiftieth of it, at most 1 GiB
	Files     int   // files one of its processes may have open; default 65536
	Output    int64 // bytes it may print; default 256 MiB
}

// Emulator is a static program that executes another architecture's programs.
type Emulator struct {
	Path   string // on this host; read when a step first needs it, so it may come later than the engine
	SHA256 string // hex; another file is refused
}

// EmulateEnv names the variable that, set on a step of this machine's platform
// to a foreign architecture (arm64), lets it start that one's programs too.
const EmulateEnv = "DRYDOCK_EMULATE"

// What an Event says.
const (
	EventStarted = "started" // a step began
	EventLog     = "log"     // a step wrote a line
	EventDone    = "done"    // a step ended: Cached or Error say how
)

// Event is one thing that happened to one step.
type Event struct {
	Kind   string    `json:"kind"` // EventStarted, EventLog or EventDone
	Time   time.Time `json:"time"`
	Step   string    `json:"step"`            // vertex digest
	Name   string    `json:"name"`            // human name: "RUN apt-get update"
	Build  string    `json:"build,omitempty"` // name of the image build it belongs to, if any
	Cached bool      `json:"cached,omitempty"`
	Stream int       `json:"stream,omitempty"` // 1 stdout, 2 stderr
	Text   string    `json:"text,omitempty"`   // a log line, without its newline
	Error  string    `json:"error,omitempty"`
}

// Engine is a connection. Close it when done. An embedded engine ends with the
// last process that is connected to it.
type Engine struct {
	Client   *dagger.Client
	Kind     string // KindEmbedded or KindDagger
	Tier     string // how the embedded engine isolates steps: "T1", "T2", "T3"; "" for a Dagger Engine
	Mode     string // how the tier was had, as Report.Mode; "" for a Dagger Engine
	Version  string
	Hermetic bool // steps reach nothing but the gateway; true for the embedded engine only

	images string
	export func(context.Context) error
	conn   *conn // to the embedded engine
	close  func() error
	once   sync.Once
	err    error
}

// Connect picks an engine and connects to it. ctx bounds connecting only; the
// engine lives until Close.
func Connect(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	kind, err := choose(cfg)
	if err != nil {
		return nil, err
	}
	if kind == KindDagger && len(cfg.CacheFrom)+len(cfg.CacheTo) > 0 {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "connecting to a Dagger Engine",
			Message: "it keeps its own cache: none is imported or exported", Remedy: "leave out --cache-from and --cache-to, or use --engine embedded",
		}
	}
	if kind == KindDagger {
		return connectDagger(ctx, cfg)
	}
	return connectEmbedded(ctx, cfg)
}

// ImageRef is how a Dockerfile's FROM or Container.From must spell an image
// that Config.Images serves.
func (e *Engine) ImageRef(repository string, d artifact.Digest) string {
	host := e.images
	if e.Kind == KindEmbedded {
		host = BaseHost
	}
	return host + "/" + repository + "@" + string(d)
}

// Close ends the connection, and with the last one an embedded engine and every
// step. It may be called more than once.
func (e *Engine) Close() error {
	e.once.Do(func() {
		if e.close != nil {
			e.err = e.close()
		}
	})
	return e.err
}

// environment is a lookup in "KEY=value" pairs; the last one wins, as in exec.
func environment(environ []string, key string) string {
	value := ""
	for _, pair := range environ {
		if k, v, ok := strings.Cut(pair, "="); ok && k == key {
			value = v
		}
	}
	return value
}
