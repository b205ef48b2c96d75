package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/cache"
	cacheimport "github.com/moby/buildkit/cache/remotecache/v1"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/worker"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// importer reads caches whose results are taken in by an importWorker. BuildKit's
// own reads no configuration of more than 1 MiB, which some thousand steps fill.
type importer struct {
	blobs   *mainBlobs
	collect func(context.Context) error
}

// newImporter takes what removes the leavings of a result that was not taken in.
func newImporter(blobs *mainBlobs, collect func(context.Context) error) *importer {
	return &importer{blobs: blobs, collect: collect}
}

// Resolve reads which results the cache has. The main process has checked that
// its manifest and configuration are small enough to be read, and what the
// results consist of.
func (i *importer) Resolve(ctx context.Context, desc ocispecs.Descriptor, id string, w worker.Worker) (solver.CacheManager, error) {
	var m ocispecs.Manifest
	if err := i.read(ctx, "manifest", desc, &m); err != nil {
		return nil, err
	}
	layers := cacheimport.DescriptorProvider{}
	for _, l := range m.Layers {
		layers[l.Digest] = cacheimport.DescriptorProviderPair{Descriptor: l, Provider: i.blobs}
	}
	var config cacheimporttypes.CacheConfig
	if err := i.read(ctx, "configuration", m.Config, &config); err != nil {
		return nil, err
	}
	chains := cacheimport.NewCacheChains()
	if err := cacheimport.ParseConfig(config, layers, chains); err != nil {
		return nil, fmt.Errorf("importing a cache: reading its configuration: %w", err)
	}
	keys, results, err := cacheimport.NewCacheKeyStorage(chains, &importWorker{Worker: w, blobs: i.blobs, collect: i.collect})
	if err != nil {
		return nil, fmt.Errorf("importing a cache: %w", err)
	}
	return solver.NewCacheManager(ctx, id, keys, results), nil
}

func (i *importer) read(ctx context.Context, what string, desc ocispecs.Descriptor, v any) error {
	b, err := content.ReadBlob(ctx, i.blobs, desc)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("importing a cache: reading its %s: %w", what, err)
	}
	return nil
}

// importWorker is a worker to which one cache's results come.
type importWorker struct {
	worker.Worker
	blobs   *mainBlobs
	collect func(context.Context) error
}

// FromRemote takes an imported result in at once. BuildKit would wait until a
// step needs its files, when a layer that cannot be had fails the build; now
// the result does not count, and the step is run.
func (w *importWorker) FromRemote(ctx context.Context, remote *solver.Remote) (cache.ImmutableRef, error) {
	var ref cache.ImmutableRef
	full, err := w.whileRoom(ctx, func(ctx context.Context) (err error) {
		// it unpacks all layers but the last one
		if ref, err = w.Worker.FromRemote(ctx, remote); err == nil && ref != nil {
			err = ref.Extract(ctx, session.NewGroup())
		}
		return err
	})
	if err == nil {
		return ref, nil
	}
	later := context.WithoutCancel(ctx)
	if ref != nil {
		err = errors.Join(err, ref.Release(later))
	}
	if full {
		err = errors.Join(err, w.collect(later)) // now: the step that runs instead needs the room
	}
	err = fmt.Errorf("importing a cached result: %w", err)
	var said saidError
	if ctx.Err() == nil && !errors.As(err, &said) {
		w.blobs.complain(ctx, err)
	}
	return nil, err
}

// fillingTime is how often the disk is looked at while layers are unpacked.
const fillingTime = 20 * time.Millisecond

// whileRoom unpacks layers. One may hold far more than its blob has, so it stops
// when what must stay free of the disk would be written to, and says so.
func (w *importWorker) whileRoom(ctx context.Context, unpack func(context.Context) error) (full bool, err error) {
	unpacking, cancel := context.WithCancel(ctx)
	defer cancel()
	room := w.blobs.room(ctx)
	found := make(chan bool, 1)
	go func() {
		defer close(found)
		for tick := time.NewTicker(fillingTime); ; {
			if now := w.blobs.room(ctx); now.Bytes <= 0 {
				found <- true
				cancel()
				return
			}
			select {
			case <-unpacking.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()
	err = unpack(unpacking)
	cancel()
	// a fast disk is filled between two looks
	if stopped := <-found; err == nil || !stopped && !errors.Is(err, unix.ENOSPC) {
		return false, err
	}
	return true, errors.New(room.Exceeded("unpacked, it is larger than"))
}
