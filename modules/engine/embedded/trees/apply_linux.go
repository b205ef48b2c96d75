package trees

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	continuity "github.com/containerd/continuity/fs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// applier unpacks layers.
type applier struct {
	s     *Snapshotter
	store content.Provider
}

var _ diff.Applier = (*applier)(nil)

// NewApplier gives an applier for the snapshotter's mounts. A layer is a delta
// already: it is unpacked as one, over whatever parent.
func NewApplier(s *Snapshotter, store content.Provider) diff.Applier { return &applier{s, store} }

// Apply unpacks the layer of the descriptor and returns its uncompressed form.
func (a *applier) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (none ocispecs.Descriptor, err error) {
	var config diff.ApplyConfig
	for _, o := range opts {
		if err := o(ctx, desc, &config); err != nil {
			return none, err
		}
	}
	dir, err := plainPath(mounts)
	if err != nil || dir == "" {
		return none, errors.Join(err, errors.New("unpacking a layer: there is nowhere to"))
	}
	ra, err := a.store.ReaderAt(ctx, desc)
	if err != nil {
		return none, fmt.Errorf("unpacking a layer: %w", err)
	}
	defer ra.Close()
	r, err := uncompressed(ctx, desc.MediaType, io.NopCloser(content.NewReader(ra)), config)
	if err != nil {
		return none, fmt.Errorf("unpacking a layer: %w", err)
	}
	defer r.Close()
	digester := digest.SHA256.Digester()
	count := &counter{r: io.TeeReader(r, digester.Hash())}
	if err := a.s.unpack(ctx, dir, count); err != nil {
		return none, fmt.Errorf("unpacking a layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, count); err != nil { // what follows the archive
		return none, fmt.Errorf("unpacking a layer: %w", err)
	}
	return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Size: count.n, Digest: digester.Digest()}, nil
}

// uncompressed undoes what the media type says was done.
func uncompressed(ctx context.Context, mediaType string, r io.ReadCloser, config diff.ApplyConfig) (io.ReadCloser, error) {
	p := diff.NewProcessorChain(mediaType, r)
	for {
		var err error
		if p, err = diff.GetProcessor(ctx, p, config.ProcessorPayloads); err != nil {
			return nil, fmt.Errorf("media type %s: %w", mediaType, err)
		}
		if p.MediaType() == ocispecs.MediaTypeImageLayer {
			return p, nil
		}
	}
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// unpack puts an archive into a directory: of a snapshot whose tree was
// deferred, into its delta.
func (s *Snapshotter) unpack(ctx context.Context, dir string, r io.Reader) error {
	rel, err := filepath.Rel(filepath.Join(s.root, dirActive), dir)
	if err != nil || strings.HasPrefix(rel, "..") || exists(dir) {
		_, err := archive.Apply(ctx, dir, r)
		return err
	}
	id, _, _ := strings.Cut(rel, "/")
	parent, err := s.parentOf(ctx, id)
	if err != nil {
		return err
	}
	place := filepath.Join(s.root, dirDeltas, id)
	if err := os.RemoveAll(place); err != nil {
		return err
	}
	if err := os.MkdirAll(s.deltaDir(id), 0o755); err != nil {
		return err
	}
	u := &unpacker{s: s, dir: s.deltaDir(id), parent: parent, named: map[string]bool{"/": true}}
	if _, err := archive.Apply(ctx, u.dir, r, archive.WithFilter(u.see), archive.WithConvertWhiteout(u.whiteout)); err != nil {
		return err
	}
	return u.finish(id)
}

// unpacker unpacks a layer as a delta.
type unpacker struct {
	s       *Snapshotter
	dir     string
	parent  string
	flat    *file // the parent, once it is needed
	named   map[string]bool
	changes []change
}

// see notes what the layer names, and fetches what it links to in its parent.
func (u *unpacker) see(hdr *tar.Header) (bool, error) {
	name := path.Clean("/" + hdr.Name)
	u.named[name] = true
	if hdr.Typeflag != tar.TypeLink {
		return true, nil
	}
	target := path.Clean("/" + hdr.Linkname)
	full, err := continuity.RootPath(u.dir, path.Dir(target))
	if err != nil {
		return false, err
	}
	full = filepath.Join(full, path.Base(target))
	if exists(full) {
		return true, nil
	}
	if u.flat == nil {
		ids, err := u.s.chain(u.parent)
		if err != nil {
			return false, err
		}
		if u.flat, err = u.s.flat(ids); err != nil {
			return false, err
		}
	}
	f := u.flat.at(target)
	if f == nil || f.dir() {
		return true, nil // unpacking it says what is wrong
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return false, err
	}
	u.changes = append(u.changes, change{Kind: kindKeep, Path: target})
	return true, copyFile(full, u.s.source(f, target), f)
}

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// whiteout records what the layer removes in place of making it.
func (u *unpacker) whiteout(_ *tar.Header, full string) (bool, error) {
	base := filepath.Base(full)
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return true, nil
	}
	rel, err := filepath.Rel(u.dir, filepath.Dir(full))
	if err != nil {
		return false, err
	}
	dir := path.Clean("/" + rel)
	if base == whiteoutOpaque {
		u.changes = append(u.changes, change{Kind: kindOpaque, Path: dir})
		return false, nil
	}
	name := path.Join(dir, strings.TrimPrefix(base, whiteoutPrefix))
	if !strings.HasPrefix(name, "/") || name == dir || path.Dir(name) != dir {
		return false, fmt.Errorf("the layer removes %q, which is no name", base)
	}
	u.changes = append(u.changes, change{Kind: kindDelete, Path: name})
	return false, nil
}

// finish records what the delta has: what the layer named and the directories
// that are only there for it.
func (u *unpacker) finish(id string) error {
	kept := map[string]bool{}
	for _, c := range u.changes {
		kept[c.Path] = kept[c.Path] || c.Kind == kindKeep
	}
	err := filepath.WalkDir(u.dir, func(full string, d fs.DirEntry, err error) error {
		if err != nil || full == u.dir {
			return err
		}
		name := strings.TrimPrefix(full, u.dir)
		switch {
		case kept[name]:
		case d.IsDir() && !u.named[name]:
			u.changes = append(u.changes, change{Kind: kindParent, Path: name})
		default:
			u.changes = append(u.changes, change{Kind: kindAdd, Path: name})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if top, _, err := look(u.s.deltaDir(u.parent)); err == nil {
		if err := copyMeta(u.dir, u.s.deltaDir(u.parent), top); err != nil {
			return err
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return err
	}
	r := record{Parent: u.parent, Changes: u.changes}
	r.sort()
	return r.save(u.s.recordPath(id))
}
