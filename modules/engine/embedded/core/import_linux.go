package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/worker"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// importer has imported results taken in by an importWorker.
type importer struct {
	remotecache.Importer
	blobs   *mainBlobs
	collect func(context.Context) error
}

// newImporter takes what removes the leavings of a result that was not taken in.
func newImporter(blobs *mainBlobs, collect func(context.Context) error) *importer {
	return &importer{Importer: remotecache.NewImporter(blobs), blobs: blobs, collect: collect}
}

// Resolve reads which results the cache has.
func (i *importer) Resolve(ctx context.Context, desc ocispecs.Descriptor, id string, w worker.Worker) (solver.CacheManager, error) {
	return i.Importer.Resolve(ctx, desc, id, &importWorker{Worker: w, blobs: i.blobs, collect: i.collect})
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
	ref, err := w.Worker.FromRemote(ctx, remote)
	if ref != nil && err == nil {
		if err = w.extract(ctx, ref); err != nil {
			// now: the step that runs instead needs the room
			err = errors.Join(err, ref.Release(context.WithoutCancel(ctx)), w.collect(context.WithoutCancel(ctx)))
		}
	}
	if err == nil {
		return ref, nil
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

// extract unpacks a result. A layer may hold far more than its blob has, so it
// stops when what must stay free of the disk would be written to.
func (w *importWorker) extract(ctx context.Context, ref cache.ImmutableRef) error {
	unpack, cancel := context.WithCancel(ctx)
	defer cancel()
	full := make(chan error, 1)
	go func() {
		defer close(full)
		room := w.blobs.room(ctx)
		for tick := time.NewTicker(fillingTime); ; {
			if now := w.blobs.room(ctx); now.Bytes <= 0 {
				full <- errors.New(room.Exceeded("unpacked, it is larger than"))
				cancel()
				return
			}
			select {
			case <-unpack.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	}()
	err := ref.Extract(unpack, session.NewGroup())
	cancel()
	if stopped := <-full; err != nil && stopped != nil {
		return stopped
	}
	return err
}
