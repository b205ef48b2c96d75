package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"drydock/modules/artifact"
)

const parallelBlobs = 4

// store is where a push reads from: a layout or another repository.
type store interface {
	raw(ctx context.Context, d artifact.Digest, mediaType types.MediaType) ([]byte, types.MediaType, error)
	open(ctx context.Context, d artifact.Digest) (io.ReadCloser, error)
}

// PushLayout writes the image or index d of an OCI layout, by digest: blobs
// first, the manifest last, nothing that is there already. It says whether it
// wrote anything.
func (r *Repo) PushLayout(ctx context.Context, layout string, d artifact.Digest) (written bool, err error) {
	there, err := r.Has(ctx, d)
	if err != nil || there {
		return false, err
	}
	p := pusher{from: layoutStore(layout), to: r}
	raw, mt, err := p.from.raw(ctx, d, "")
	if err == nil {
		err = p.tree(ctx, raw, mt)
	}
	if err == nil {
		err = p.put(ctx, r.Ref(d), raw, mt)
	}
	var src *sourceError
	if errors.As(err, &src) {
		return p.wrote, &artifact.Error{
			Kind: artifact.KindFault, Op: "reading image layout", Place: layout,
			Remedy: "build it again", Err: err,
		}
	}
	return p.wrote, r.Fail("pushing "+string(d)+" to", err)
}

// Tag points an alias at d; nothing is written if it does so already.
func (r *Repo) Tag(ctx context.Context, tag string, d artifact.Digest) error {
	t, err := name.NewTag(r.name.String()+":"+tag, name.WithDefaultRegistry(""))
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "tagging", Place: r.String() + ":" + tag,
			Remedy: "a tag has letters, digits and _ . - only", Err: err,
		}
	}
	t.Repository = r.name
	now, err := r.head(ctx, t)
	if err == nil && now != d {
		var m *Manifest
		if m, err = r.manifest(ctx, r.Ref(d)); err == nil {
			err = r.session.pusher.Put(ctx, t, bytesManifest{m.Raw, types.MediaType(m.MediaType)})
		}
	}
	return r.Fail("tagging "+tag+" in", err)
}

// pusher copies what a manifest needs from a store to a repository.
type pusher struct {
	from  store
	to    *Repo
	wrote bool
}

// tree writes everything below a manifest: an image's blobs, an index's children.
func (p *pusher) tree(ctx context.Context, raw []byte, mt types.MediaType) error {
	if mt.IsIndex() {
		var index v1.IndexManifest
		if err := json.Unmarshal(raw, &index); err != nil {
			return &sourceError{fmt.Errorf("parsing index: %w", err)}
		}
		for _, c := range index.Manifests {
			if err := p.child(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
	if !mt.IsImage() {
		return &sourceError{fmt.Errorf("media type %q is neither image nor index", mt)}
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return &sourceError{fmt.Errorf("parsing manifest: %w", err)}
	}
	return p.blobs(ctx, append([]v1.Descriptor{m.Config}, m.Layers...))
}

func (p *pusher) child(ctx context.Context, c v1.Descriptor) error {
	if !c.MediaType.IsIndex() && !c.MediaType.IsImage() {
		return p.blobs(ctx, []v1.Descriptor{c})
	}
	d := artifact.Digest(c.Digest.String())
	there, err := p.to.head(ctx, p.to.Ref(d))
	if err != nil || there == d {
		return err
	}
	raw, mt, err := p.from.raw(ctx, d, c.MediaType)
	if err != nil {
		return err
	}
	if err := p.tree(ctx, raw, mt); err != nil {
		return err
	}
	return p.put(ctx, p.to.Ref(d), raw, mt)
}

func (p *pusher) blobs(ctx context.Context, descs []v1.Descriptor) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelBlobs)
	seen := map[v1.Hash]bool{}
	for _, d := range descs {
		if seen[d.Digest] || !isDistributable(d) {
			continue
		}
		seen[d.Digest] = true
		g.Go(func() error {
			l := &storeLayer{ctx: gctx, from: p.from, desc: d}
			return p.to.session.pusher.Upload(gctx, p.to.name, l)
		})
	}
	return g.Wait()
}

// put writes one manifest. One with a subject may make the registry, or the
// client for it, change the list of that subject's referrers: those are
// serialised.
func (p *pusher) put(ctx context.Context, ref name.Reference, raw []byte, mt types.MediaType) error {
	var m struct {
		Subject *v1.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return &sourceError{fmt.Errorf("parsing manifest: %w", err)}
	}
	if m.Subject != nil {
		defer p.to.client.locks.lock(p.to.String() + " referrers of " + m.Subject.Digest.String())()
	}
	if err := p.to.session.pusher.Put(ctx, ref, bytesManifest{raw, mt}); err != nil {
		return err
	}
	p.wrote = true
	return nil
}

// bytesManifest is a manifest to be put as it is.
type bytesManifest struct {
	raw []byte
	mt  types.MediaType
}

// RawManifest implements remote.Taggable.
func (b bytesManifest) RawManifest() ([]byte, error) { return b.raw, nil }

// MediaType tells go-containerregistry the content type.
func (b bytesManifest) MediaType() (types.MediaType, error) { return b.mt, nil }

// storeLayer is a blob of a store, as a v1.Layer. Failing to read it is marked
// as the source's fault.
type storeLayer struct {
	ctx  context.Context //nolint:containedctx // v1.Layer's methods take none
	from store
	desc v1.Descriptor
}

// Digest implements v1.Layer.
func (l *storeLayer) Digest() (v1.Hash, error) { return l.desc.Digest, nil }

// DiffID implements v1.Layer; pushing does not need it.
func (l *storeLayer) DiffID() (v1.Hash, error) { return v1.Hash{}, errors.ErrUnsupported }

// Size implements v1.Layer.
func (l *storeLayer) Size() (int64, error) { return l.desc.Size, nil }

// MediaType implements v1.Layer.
func (l *storeLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }

// Uncompressed implements v1.Layer; pushing does not need it.
func (l *storeLayer) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// Compressed implements v1.Layer.
func (l *storeLayer) Compressed() (io.ReadCloser, error) {
	rc, err := l.from.open(l.ctx, artifact.Digest(l.desc.Digest.String()))
	if err != nil {
		return nil, &sourceError{err}
	}
	return &sourceReader{rc}, nil
}

type sourceReader struct{ io.ReadCloser }

func (r *sourceReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}

// layoutStore is a folder in OCI image layout.
type layoutStore string

func (s layoutStore) path(d artifact.Digest) string {
	return filepath.Join(string(s), "blobs", "sha256", d.Hex())
}

func (s layoutStore) open(_ context.Context, d artifact.Digest) (io.ReadCloser, error) {
	f, err := os.Open(s.path(d))
	if err != nil {
		return nil, &sourceError{err}
	}
	return f, nil // the registry checks the digest of what arrives
}

func (s layoutStore) raw(_ context.Context, d artifact.Digest, mt types.MediaType) ([]byte, types.MediaType, error) {
	b, err := os.ReadFile(s.path(d))
	if err != nil {
		return nil, "", &sourceError{err}
	}
	h, _, err := v1.SHA256(bytes.NewReader(b))
	if err == nil && h.String() != string(d) {
		err = fmt.Errorf("the bytes of %s have digest %s", d, h)
	}
	if err != nil {
		return nil, "", &sourceError{err}
	}
	var m struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, "", &sourceError{fmt.Errorf("parsing %s: %w", d, err)}
	}
	switch {
	case m.MediaType != "":
		mt = m.MediaType
	case mt == "" && m.Manifests != nil:
		mt = types.OCIImageIndex
	case mt == "":
		mt = types.OCIManifestSchema1
	}
	return b, mt, nil
}

// bytesStore is a blob in memory.
type bytesStore []byte

func (s bytesStore) raw(context.Context, artifact.Digest, types.MediaType) ([]byte, types.MediaType, error) {
	return nil, "", errors.ErrUnsupported
}

func (s bytesStore) open(context.Context, artifact.Digest) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s)), nil
}

func newBytesLayer(b []byte, mt types.MediaType) *storeLayer {
	h, size, _ := v1.SHA256(bytes.NewReader(b)) // reading memory does not fail
	return &storeLayer{
		ctx: context.Background(), from: bytesStore(b),
		desc: v1.Descriptor{MediaType: mt, Digest: h, Size: size},
	}
}
