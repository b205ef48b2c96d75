package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"drydock/modules/artifact"
)

// cosignTags are the endings of the tags cosign hangs things on a digest with.
var cosignTags = [...]string{".sig", ".att", ".sbom"}

// Copy moves the image or index d from src to dst by digest, with every child,
// every referrer (by the referrers API or its tag) and cosign's tags of all of
// them. What dst has is not written again; what is attached goes first and the
// manifest last, so that an image is never there without its evidence. It says
// whether anything was written; an error says which side failed.
func Copy(ctx context.Context, src, dst *Repo, d artifact.Digest) (written bool, err error) {
	m, err := src.manifest(ctx, src.Ref(d))
	if err != nil {
		return false, src.Fail("copying "+string(d)+": reading from", err)
	}
	c := &copier{pusher: pusher{from: repoStore{src}, to: dst}, src: src, seen: map[artifact.Digest]bool{}}
	if err = c.attached(ctx, m); err == nil {
		err = c.manifest(ctx, m)
	}
	if err == nil {
		return c.wrote, nil
	}
	var s *sourceError
	if errors.As(err, &s) {
		return c.wrote, src.Fail("copying "+string(d)+": reading from", s.err)
	}
	return c.wrote, dst.Fail("copying "+string(d)+": writing to", err)
}

type copier struct {
	pusher
	src  *Repo
	seen map[artifact.Digest]bool
}

// manifest writes m, after everything below it.
func (c *copier) manifest(ctx context.Context, m *Manifest) error {
	there, err := c.to.head(ctx, c.to.Ref(m.Digest))
	if err != nil || there == m.Digest {
		return err
	}
	if err := c.tree(ctx, m.Raw, types.MediaType(m.MediaType)); err != nil {
		return err
	}
	return c.put(ctx, c.to.Ref(m.Digest), m.Raw, types.MediaType(m.MediaType))
}

// attached writes what hangs on m and on its children.
func (c *copier) attached(ctx context.Context, m *Manifest) error {
	if c.seen[m.Digest] {
		return nil
	}
	c.seen[m.Digest] = true
	for i := range m.Children {
		if err := c.attached(ctx, &m.Children[i]); err != nil {
			return err
		}
	}
	refs, err := c.src.referrers(ctx, m.Digest)
	if err != nil {
		return &sourceError{err}
	}
	for _, d := range refs {
		r, err := c.src.manifest(ctx, c.src.name.Digest(d.Digest.String()))
		if err != nil {
			return &sourceError{err}
		}
		if err := c.attached(ctx, r); err != nil {
			return err
		}
		if err := c.referrer(ctx, r); err != nil {
			return err
		}
	}
	for _, ending := range cosignTags {
		if err := c.tag(ctx, m.Digest, ending); err != nil {
			return err
		}
	}
	return nil
}

// referrer writes a referrer. One that is there but not listed, because a push
// was cut short before the list, is put again.
func (c *copier) referrer(ctx context.Context, m *Manifest) error {
	var s struct {
		Subject *v1.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(m.Raw, &s); err != nil || s.Subject == nil {
		return c.manifest(ctx, m)
	}
	listed, err := c.to.referrers(ctx, artifact.Digest(s.Subject.Digest.String()))
	if err != nil {
		return err
	}
	for _, l := range listed {
		if l.Digest.String() == string(m.Digest) {
			return c.manifest(ctx, m)
		}
	}
	if err := c.tree(ctx, m.Raw, types.MediaType(m.MediaType)); err != nil {
		return err
	}
	return c.put(ctx, c.to.Ref(m.Digest), m.Raw, types.MediaType(m.MediaType))
}

// tag copies one of cosign's tags of d. Signatures and attestations only dst
// has are kept beside the source's.
func (c *copier) tag(ctx context.Context, d artifact.Digest, ending string) error {
	tag := "sha256-" + d.Hex() + ending
	from, err := c.src.manifest(ctx, c.src.name.Tag(tag))
	if NotFound(err) {
		return nil
	}
	if err != nil {
		return &sourceError{err}
	}
	defer c.to.Lock(d)()
	ref := c.to.name.Tag(tag)
	there, err := c.to.head(ctx, ref)
	if err != nil || there == from.Digest {
		return err
	}
	raw, mt := from.Raw, types.MediaType(from.MediaType)
	if err := c.tree(ctx, raw, mt); err != nil {
		return err
	}
	if there != "" {
		old, err := c.to.manifest(ctx, ref)
		if err != nil {
			return err
		}
		merged, err := c.merge(ctx, old.Raw, raw)
		if err != nil {
			return err
		}
		if merged == nil {
			return nil // dst has all of it
		}
		raw = merged
	}
	return c.putTag(ctx, ref, raw, mt)
}

func (c *copier) putTag(ctx context.Context, ref name.Tag, raw []byte, mt types.MediaType) error {
	if err := c.to.session.pusher.Put(ctx, ref, bytesManifest{raw, mt}); err != nil {
		return err
	}
	c.wrote = true
	return nil
}

// merge adds the layers only dst has to the source's manifest; nil means that
// dst has them all already. An attestation the source has of the same predicate
// type supersedes dst's.
func (c *copier) merge(ctx context.Context, old, from []byte) ([]byte, error) {
	var a, b v1.Manifest
	if err := errors.Join(json.Unmarshal(old, &a), json.Unmarshal(from, &b)); err != nil {
		return nil, fmt.Errorf("parsing what is attached: %w", err)
	}
	has, types := map[v1.Hash]bool{}, map[string]bool{}
	for _, l := range b.Layers {
		has[l.Digest] = true
		types[l.Annotations["predicateType"]] = l.Annotations["predicateType"] != ""
	}
	var extra []v1.Descriptor
	for _, l := range a.Layers {
		if !has[l.Digest] && !types[l.Annotations["predicateType"]] {
			extra = append(extra, l)
		}
	}
	if len(a.Layers) == len(b.Layers)+len(extra) && containsAll(a.Layers, b.Layers) {
		return nil, nil
	}
	if len(extra) == 0 {
		return from, nil
	}
	b.Layers = append(b.Layers, extra...)
	config, err := c.mergedConfig(ctx, b.Config, extra)
	if err != nil {
		return nil, err
	}
	b.Config = config
	return json.Marshal(b)
}

// mergedConfig adds the extra layers to the configuration: readers check that
// both speak of the same number of layers.
func (c *copier) mergedConfig(ctx context.Context, d v1.Descriptor, extra []v1.Descriptor) (v1.Descriptor, error) {
	raw, err := c.src.blob(ctx, artifact.Digest(d.Digest.String()), manifestLimit)
	if err != nil {
		return d, &sourceError{err}
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(raw, &config); err != nil {
		return d, &sourceError{fmt.Errorf("parsing configuration: %w", err)}
	}
	for _, l := range extra {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.Digest) // they are not compressed
		config.History = append(config.History, v1.History{})
	}
	if raw, err = json.Marshal(config); err != nil {
		return d, err
	}
	blob := newBytesLayer(raw, d.MediaType)
	d.Digest, d.Size = blob.desc.Digest, blob.desc.Size
	return d, c.to.session.pusher.Upload(ctx, c.to.name, blob)
}

func containsAll(have, want []v1.Descriptor) bool {
	in := map[v1.Hash]bool{}
	for _, l := range have {
		in[l.Digest] = true
	}
	for _, l := range want {
		if !in[l.Digest] {
			return false
		}
	}
	return true
}

// repoStore reads from a repository.
type repoStore struct{ r *Repo }

func (s repoStore) raw(ctx context.Context, d artifact.Digest, _ types.MediaType) ([]byte, types.MediaType, error) {
	desc, err := s.r.session.puller.Get(ctx, s.r.Ref(d))
	if err != nil {
		return nil, "", &sourceError{err}
	}
	return desc.Manifest, desc.MediaType, nil
}

func (s repoStore) open(ctx context.Context, d artifact.Digest) (io.ReadCloser, error) {
	l, err := s.r.session.puller.Layer(ctx, s.r.Ref(d))
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}
