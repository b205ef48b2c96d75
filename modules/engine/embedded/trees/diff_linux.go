package trees

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/identity"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// differ makes layers.
type differ struct {
	s     *Snapshotter
	store content.Store
}

var _ diff.Comparer = (*differ)(nil)

// NewDiffer gives a differ for the snapshotter's mounts. A snapshot compared
// with its parent is its delta; any other two are walked.
func NewDiffer(s *Snapshotter, store content.Store) diff.Comparer { return &differ{s, store} }

// Compare writes the layer that makes lower upper into the content store.
func (d *differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (none ocispecs.Descriptor, err error) {
	config, err := configOf(ctx, opts)
	if err != nil {
		return none, err
	}
	w, err := d.store.Writer(ctx, content.WithRef(config.Reference), content.WithDescriptor(ocispecs.Descriptor{MediaType: config.MediaType}))
	if err != nil {
		return none, fmt.Errorf("writing a layer: %w", err)
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return none, fmt.Errorf("writing a layer: %w", err)
	}
	plain, err := d.write(ctx, w, config, lower, upper)
	if err != nil {
		return none, fmt.Errorf("writing a layer: %w", err)
	}
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	config.Labels[labels.LabelUncompressed] = plain.String()
	info, err := d.commit(ctx, w, config, plain)
	if err != nil {
		return none, fmt.Errorf("writing a layer: %w", err)
	}
	return ocispecs.Descriptor{MediaType: config.MediaType, Size: info.Size, Digest: info.Digest}, nil
}

func configOf(ctx context.Context, opts []diff.Opt) (config diff.Config, err error) {
	for _, o := range opts {
		if err := o(&config); err != nil {
			return config, err
		}
	}
	if tm := epoch.FromContext(ctx); tm != nil && config.SourceDateEpoch == nil {
		config.SourceDateEpoch = tm
	}
	if config.MediaType == "" {
		config.MediaType = ocispecs.MediaTypeImageLayerGzip
	}
	if config.Reference == "" {
		config.Reference = "diff-" + identity.NewID()
	}
	return config, nil
}

// commit keeps what was written, which may be there already.
func (d *differ) commit(ctx context.Context, w content.Writer, config diff.Config, plain digest.Digest) (content.Info, error) {
	dgst := w.Digest()
	if err := w.Commit(ctx, 0, dgst, content.WithLabels(config.Labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return content.Info{}, err
	}
	info, err := d.store.Info(ctx, dgst)
	if err != nil || info.Labels[labels.LabelUncompressed] != "" {
		return info, err
	}
	if info.Labels == nil {
		info.Labels = map[string]string{}
	}
	info.Labels[labels.LabelUncompressed] = plain.String()
	return d.store.Update(ctx, info, "labels."+labels.LabelUncompressed)
}

// write compresses the layer into w and returns the digest of what went in.
func (d *differ) write(ctx context.Context, w io.Writer, config diff.Config, lower, upper []mount.Mount) (plain digest.Digest, err error) {
	var out io.WriteCloser
	switch {
	case config.Compressor != nil:
		out, err = config.Compressor(w, config.MediaType)
	case config.MediaType == ocispecs.MediaTypeImageLayer:
		out, err = compression.CompressStream(w, compression.Uncompressed)
	case config.MediaType == ocispecs.MediaTypeImageLayerGzip:
		out, err = compression.CompressStream(w, compression.Gzip)
	case config.MediaType == ocispecs.MediaTypeImageLayerZstd:
		out, err = compression.CompressStream(w, compression.Zstd)
	default:
		err = fmt.Errorf("media type %q: %w", config.MediaType, errdefs.ErrNotImplemented)
	}
	if err != nil {
		return "", err
	}
	digester := digest.SHA256.Digester()
	err = d.tar(ctx, io.MultiWriter(out, digester.Hash()), config, lower, upper)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return digester.Digest(), err
}

func (d *differ) tar(ctx context.Context, w io.Writer, config diff.Config, lower, upper []mount.Mount) error {
	low, err := plainPath(lower)
	if err != nil {
		return err
	}
	up, err := plainPath(upper)
	if err != nil {
		return err
	}
	if id := d.s.committed(up); id != "" {
		r, err := loadRecord(d.s.recordPath(id))
		if err != nil {
			return err
		}
		if r.Parent == d.s.committed(low) {
			return d.s.writeDelta(ctx, w, id, r, config)
		}
	}
	for _, p := range []*string{&low, &up} {
		if *p == "" {
			empty, err := os.MkdirTemp(d.s.root, "empty-")
			if err != nil {
				return err
			}
			defer os.Remove(empty)
			*p = empty
		}
		if err := d.s.Ensure(ctx, *p); err != nil {
			return err
		}
	}
	var opts []archive.WriteDiffOpt
	if config.SourceDateEpoch != nil {
		opts = append(opts, archive.WithSourceDateEpoch(config.SourceDateEpoch))
	}
	return archive.WriteDiff(ctx, w, low, up, opts...)
}

// plainPath is the directory of our kind of mounts, "" for none.
func plainPath(mounts []mount.Mount) (string, error) {
	switch {
	case len(mounts) == 0:
		return "", nil
	case len(mounts) > 1 || mounts[0].Type != "bind":
		return "", errors.New("only one plain directory can be compared")
	}
	return mounts[0].Source, nil
}

// committed is the id of the committed snapshot whose directory or view that
// is, else "".
func (s *Snapshotter) committed(dir string) string {
	rel, err := filepath.Rel(s.root, dir)
	if err != nil || dir == "" {
		return ""
	}
	parts := strings.Split(rel, "/")
	if len(parts) != 3 || parts[2] != "fs" {
		return ""
	}
	switch parts[0] {
	case dirDeltas:
		return parts[1]
	case dirViews:
		_, id, _ := strings.Cut(parts[1], "-")
		return id
	}
	return ""
}

// writeDelta writes a delta as a layer.
func (s *Snapshotter) writeDelta(ctx context.Context, w io.Writer, id string, r record, config diff.Config) error {
	var opts []archive.ChangeWriterOpt
	if config.SourceDateEpoch != nil {
		opts = append(opts, archive.WithModTimeUpperBound(*config.SourceDateEpoch))
	}
	dir := s.deltaDir(id)
	cw := archive.NewChangeWriter(w, dir, opts...)
	if r.Parent == "" {
		if err := fs.Changes(ctx, "", dir, cw.HandleChange); err != nil {
			return err
		}
		return cw.Close()
	}
	for _, c := range r.Changes {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var (
			kind fs.ChangeKind = fs.ChangeKindAdd
			info os.FileInfo
			err  error
		)
		switch c.Kind {
		case kindKeep, kindParent:
			continue
		case kindOpaque:
			return fmt.Errorf("the delta %s came from a layer, which is to be used as it is", id)
		case kindDelete:
			kind = fs.ChangeKindDelete
		case kindModify:
			kind = fs.ChangeKindModify
		}
		if kind != fs.ChangeKindDelete {
			if info, err = os.Lstat(dir + c.Path); err != nil {
				return err
			}
		}
		if err := cw.HandleChange(kind, c.Path, info, nil); err != nil {
			return err
		}
	}
	return cw.Close()
}
