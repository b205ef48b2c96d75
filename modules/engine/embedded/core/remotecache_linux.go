package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	stepexec "drydock/modules/engine/embedded/executor"
)

// RemoteCache is the type of our cache imports and exports. The engine knows
// neither registries nor their credentials: what it imports it asks of the main
// process by digest, what it exports it leaves in a directory.
const RemoteCache = "drydock"

// Attributes of RemoteCache.
const (
	CacheSocket = "socket" // import: unix socket of the main process that has the blobs
	CacheDigest = "digest" // import: of the cache's manifest
	CacheSize   = "size"   // import: of the manifest, in bytes
	CacheDest   = "dest"   // export: an empty directory
)

// blobTime bounds the wait for one blob, which may have to be downloaded.
const blobTime = 30 * time.Minute

// BlobQuestion asks the main process for a blob, or tells it of a problem with
// the cache whose manifest has the digest.
type BlobQuestion struct {
	Digest  string `json:"digest"`
	Size    int64  `json:"size"`
	Problem string `json:"problem,omitempty"`
}

// BlobAnswer names a file that holds the blob, its digest verified, or says why
// there is none.
type BlobAnswer struct {
	Path  string `json:"path,omitempty"`
	Error string `json:"error,omitempty"`
}

// cacheImporter imports caches for a worker, within the limits of whoever asks.
func cacheImporter(w *boundWorker) remotecache.ResolveCacheImporterFunc {
	return func(_ context.Context, g session.Group, attrs map[string]string) (remotecache.Importer, ocispecs.Descriptor, error) {
		dgst, err := digest.Parse(attrs[CacheDigest])
		if err != nil {
			return nil, ocispecs.Descriptor{}, fmt.Errorf("importing a cache: %w", err)
		}
		desc := ocispecs.Descriptor{Digest: dgst}
		if _, err := fmt.Sscan(attrs[CacheSize], &desc.Size); err != nil {
			return nil, desc, fmt.Errorf("importing a cache: reading its size: %w", err)
		}
		if g == nil {
			g = session.NewGroup()
		}
		limits := boundsOf(w.members.of(g))
		room := func(ctx context.Context) stepexec.Room { return w.exec.Room(stepexec.WithLimits(ctx, limits)) }
		return newImporter(&mainBlobs{socket: attrs[CacheSocket], manifest: dgst, group: g, room: room}, w.GarbageCollect), desc, nil
	}
}

// mainBlobs are the blobs that the main process has.
type mainBlobs struct {
	socket   string
	manifest digest.Digest // of the cache
	group    session.Group
	room     func(context.Context) stepexec.Room
}

var _ content.Provider = (*mainBlobs)(nil)

// UnlazySession makes the engine take a layer in when it decides to use it, so
// that one which cannot be had is noticed while the step can still be run.
func (b *mainBlobs) UnlazySession(ocispecs.Descriptor) session.Group { return b.group }

// saidError is a refusal that the main process has told already.
type saidError struct{ error }

// ReaderAt opens a verified blob.
func (b *mainBlobs) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if room := b.room(ctx); desc.Size > room.Bytes {
		return nil, fmt.Errorf("blob %s has %d bytes: %s", desc.Digest, desc.Size, room.Exceeded("it is larger than"))
	}
	answer, err := b.ask(ctx, BlobQuestion{Digest: desc.Digest.String(), Size: desc.Size})
	if err != nil {
		return nil, fmt.Errorf("asking for blob %s: %w", desc.Digest, err)
	}
	if answer.Error != "" {
		return nil, saidError{errors.New(answer.Error)}
	}
	f, err := os.Open(answer.Path)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", desc.Digest, err)
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != desc.Size { // readers take memory by it
		err = fmt.Errorf("it has %d bytes, not %d", fi.Size(), desc.Size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading blob %s: %w", desc.Digest, err)
	}
	return &fileBlob{File: f, size: fi.Size()}, nil
}

// complain has the main process tell why a result is not taken.
func (b *mainBlobs) complain(ctx context.Context, problem error) {
	// it is a word to the user; the build goes on without
	_, _ = b.ask(ctx, BlobQuestion{Digest: b.manifest.String(), Problem: problem.Error()})
}

func (b *mainBlobs) ask(ctx context.Context, q BlobQuestion) (BlobAnswer, error) {
	d := net.Dialer{Timeout: controlTime}
	c, err := d.DialContext(ctx, "unix", b.socket)
	if err != nil {
		return BlobAnswer{}, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(blobTime))
	if err := json.NewEncoder(c).Encode(q); err != nil {
		return BlobAnswer{}, err
	}
	return readLine[BlobAnswer](bufio.NewReader(c))
}

type fileBlob struct {
	*os.File
	size int64
}

// Size is the blob's, in bytes.
func (f *fileBlob) Size() int64 { return f.size }

func cacheExporter(_ context.Context, _ session.Group, attrs map[string]string) (remotecache.Exporter, error) {
	store, err := local.NewStore(attrs[CacheDest])
	if err != nil {
		return nil, fmt.Errorf("exporting the cache: %w", err)
	}
	return &dirExporter{remotecache.NewExporter(store, "", true, true, compression.New(compression.Default))}, nil
}

type dirExporter struct{ remotecache.Exporter }

// Name is what progress calls it.
func (*dirExporter) Name() string { return "exporting the cache" }
