package engine

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/core"
	"drydock/modules/engine/embedded/executor"
	"drydock/modules/engine/embedded/front"
)

// roomIn is how many bytes may be written where dir is, with free (0: the
// default) left for others.
func roomIn(dir string, free int64) int64 {
	free = cmp.Or(free, executor.DefaultLimits(dir).FreeDisk)
	return max(executor.FreeDisk(dir)-free, 0)
}

// connectEmbedded joins the running engine, or starts one, and connects to it.
func connectEmbedded(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.CacheDir == "" {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "starting the embedded engine",
			Message: "no cache directory is configured", Remedy: "set --cache (or --state)",
		}
	}
	workdir, err := workingDir(cfg)
	if err != nil {
		return nil, err
	}
	cc := childConfig(cfg)
	cc.GatewaySocket, cc.ImagesAddr = cfg.Gateway, cfg.Images
	cc.Limits, cc.LandlockABI = executor.Limits(cfg.Limits), cfg.LandlockABI
	cc.Emulators = executor.Emulators{}
	for arch, e := range cfg.Emulators {
		cc.Emulators[arch] = executor.Emulator(e)
	}
	caches, err := serveCaches(ctx, cfg)
	if err != nil {
		return nil, err
	}
	child, err := core.StartChild(ctx, cc)
	if err != nil {
		caches.close()
		return nil, err
	}
	c := childConn(child.Socket, child.Member, workdir, child.Done)
	c.lookup = cfg.LookupEnv
	stopEvents := func() {}
	if cfg.Progress != nil {
		if stopEvents, err = watchEvents(ctx, c, cfg.Progress); err != nil {
			caches.close()
			return nil, errors.Join(c.fault(err), child.Close())
		}
	}
	c.close = sync.OnceValue(func() error {
		stopEvents()
		defer caches.close()
		return child.Close()
	})
	if len(caches.sources)+len(cfg.CacheTo) > 0 {
		if err := post(ctx, c, "/cache", caches.settings(len(cfg.CacheTo) > 0), nil); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	client, err := dagger.Connect(ctx, dagger.WithConn(c))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the embedded engine: %w", err), c.close())
	}
	e := &Engine{
		Client: client, Kind: KindEmbedded, Tier: child.Tier, Mode: child.Mode, Hermetic: true,
		images: cfg.Images, conn: c,
		close: func() error { return errors.Join(client.Close(), child.Err()) },
	}
	if len(cfg.CacheTo) > 0 {
		e.export = func(ctx context.Context) error { return exportCaches(ctx, cfg, c) }
	}
	if e.Version, err = client.Version(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Emulated is the architecture whose emulator the embedded engine needs to run
// a platform's code here; "" when it needs none.
func Emulated(p artifact.Platform) string {
	return core.Emulated(p.OS, p.Architecture, p.Variant)
}

// watchEvents feeds progress from the child until stopped. When it returns,
// the child is listening, so that no later event is lost.
func watchEvents(ctx context.Context, c *conn, progress func(Event)) (stop func(), err error) {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	req, err := http.NewRequestWithContext(streamCtx, http.MethodGet, "http://drydock/events", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	startup := context.AfterFunc(ctx, cancel)
	c.prepare(req)
	resp, err := c.client.Do(req)
	startup()
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer resp.Body.Close()
		dec := json.NewDecoder(bufio.NewReader(resp.Body))
		for {
			var e Event
			if dec.Decode(&e) != nil {
				return
			}
			progress(e)
		}
	}()
	return func() {
		// what is on its way is still told
		select {
		case <-done:
		case <-time.After(30 * time.Millisecond):
		}
		cancel()
		<-done
	}, nil
}

// Child runs the process if its arguments say it was started as an engine
// child or as the init of a step. It must come first in main, and in TestMain
// of packages that use the embedded engine; when handled, exit with exit.
func Child(args []string) (handled bool, exit int) { return core.ChildMain(args, serve) }

// serve is the front in the engine child: a Server for each process that has
// joined.
func serve(ctx context.Context, c *core.Core, l net.Listener) error {
	shared, err := front.NewShared(filepath.Join(c.Root(), "front"), c.Worker())
	if err != nil {
		return err
	}
	shared.Client, shared.MadeBy = core.MemberID, c.MadeBy
	c.WrapExecutor(shared.Capture)
	clients := &front.Clients{Open: func(id string) (context.Context, *front.Server, error) {
		m := c.Member(id)
		if m == nil {
			return nil, nil, errors.New("this process has not joined the engine, or has left it")
		}
		s, err := front.New(ctx, front.Options{
			Client: c.Client(), Shared: shared, ID: id, Gateway: m.Gateway, Base: BaseHost, Bind: m.Bind,
			Processes: c,
		})
		return m.Context(), s, err
	}}
	return clients.Serve(ctx, l)
}

// Probe tries in child processes what the embedded engine can do on this host
// with its state under cacheDir; environ is where newuidmap is looked for.
func Probe(ctx context.Context, cacheDir string, environ []string) (Report, error) {
	r, err := core.Probe(ctx, filepath.Join(cacheDir, "engine"), environ)
	if err != nil {
		return Report{}, err
	}
	out := Report{Tier: r.Tier, Mode: r.Mode, Advice: r.Better()}
	if r.Tier == "" {
		out.Advice = r.Refusal()
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, Finding(f))
	}
	for _, w := range r.Ways {
		t := TierReport{Tier: w.Tier, Mode: w.Mode, OK: w.OK, Missing: []Missing{}}
		for _, m := range w.Missing {
			t.Missing = append(t.Missing, Missing(m))
		}
		out.Tiers = append(out.Tiers, t)
	}
	return out, nil
}

var _ io.Closer = (*Engine)(nil)
