package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"drydock/modules/artifact"
)

// Manifest is one manifest as the registry holds it; its bytes match its digest.
type Manifest struct {
	Digest    artifact.Digest
	MediaType string
	Raw       []byte
	Platform  *artifact.Platform // of a child of an index, as the index says; nil otherwise
	Children  []Manifest         // of an index
}

// Manifest reads the manifest d, and those of an index's children.
func (r *Repo) Manifest(ctx context.Context, d artifact.Digest) (*Manifest, error) {
	m, err := r.manifest(ctx, r.Ref(d))
	return m, r.Fail("reading "+string(d)+" from", err)
}

// RawManifest reads the manifest d alone, of at most limit bytes, without an
// index's children.
func (r *Repo) RawManifest(ctx context.Context, d artifact.Digest, limit int64) ([]byte, error) {
	desc, err := r.session.puller.Get(ctx, r.Ref(d))
	if err == nil && int64(len(desc.Manifest)) > limit {
		err = fmt.Errorf("manifest %s has %d bytes: more than %d are not read", d, len(desc.Manifest), limit)
	}
	if err != nil {
		return nil, r.Fail("reading "+string(d)+" from", err)
	}
	return desc.Manifest, nil
}

// Resolve finds the digest a tag points to now.
func (r *Repo) Resolve(ctx context.Context, tag string) (artifact.Digest, error) {
	d, err := r.head(ctx, r.name.Tag(tag))
	if err == nil && d == "" {
		err = fmt.Errorf("tag %s: %w", tag, ErrNotFound)
	}
	return d, r.Fail("resolving tag "+tag+" in", err)
}

// Has says whether the repository holds the manifest d.
func (r *Repo) Has(ctx context.Context, d artifact.Digest) (bool, error) {
	got, err := r.head(ctx, r.Ref(d))
	return got == d, r.Fail("looking for "+string(d)+" in", err)
}

// Blob reads a small blob, such as an image's configuration, checked against d.
func (r *Repo) Blob(ctx context.Context, d artifact.Digest, limit int64) ([]byte, error) {
	b, err := r.blob(ctx, d, limit)
	return b, r.Fail("reading blob "+string(d)+" from", err)
}

// CopyBlob writes a blob of any size to w. What was written counts only when
// there is no error: the digest is known at the end.
func (r *Repo) CopyBlob(ctx context.Context, d artifact.Digest, w io.Writer) error {
	l, err := r.session.puller.Layer(ctx, r.Ref(d))
	if err != nil {
		return r.Fail("reading blob "+string(d)+" from", err)
	}
	rc, err := l.Compressed() // verifies the digest at the end
	if err != nil {
		return r.Fail("reading blob "+string(d)+" from", err)
	}
	_, err = io.Copy(w, rc)
	return r.Fail("reading blob "+string(d)+" from", errors.Join(err, rc.Close()))
}

func (r *Repo) blob(ctx context.Context, d artifact.Digest, limit int64) ([]byte, error) {
	l, err := r.session.puller.Layer(ctx, r.Ref(d))
	if err != nil {
		return nil, err
	}
	rc, err := l.Compressed() // verifies the digest at the end
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	b, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("blob %s has more than %d bytes", d, limit)
	}
	return b, err
}

// manifest reads a manifest and, of an index, the children.
func (r *Repo) manifest(ctx context.Context, ref name.Reference) (*Manifest, error) {
	desc, err := r.session.puller.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Digest: artifact.Digest(desc.Digest.String()), MediaType: string(desc.MediaType), Raw: desc.Manifest}
	if !desc.MediaType.IsIndex() {
		return m, nil
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return nil, fmt.Errorf("parsing index %s: %w", m.Digest, err)
	}
	for _, c := range index.Manifests {
		if !c.MediaType.IsIndex() && !c.MediaType.IsImage() {
			continue
		}
		child, err := r.manifest(ctx, r.name.Digest(c.Digest.String()))
		if err != nil {
			return nil, err
		}
		if c.Platform != nil {
			child.Platform = &artifact.Platform{OS: c.Platform.OS, Architecture: c.Platform.Architecture, Variant: c.Platform.Variant}
		}
		m.Children = append(m.Children, *child)
	}
	return m, nil
}

// head returns the digest of what ref points to, "" if nothing is there.
func (r *Repo) head(ctx context.Context, ref name.Reference) (artifact.Digest, error) {
	desc, err := r.session.puller.Head(ctx, ref)
	if NotFound(err) {
		return "", nil
	}
	var te *transport.Error
	if errors.As(err, &te) && te.StatusCode >= http.StatusInternalServerError {
		if _, said := r.session.puller.Get(ctx, ref); said != nil {
			err = said // the answer to HEAD has no body to say why
		}
	}
	if err != nil {
		return "", err
	}
	return artifact.Digest(desc.Digest.String()), nil
}

// NotFound says whether err means that the registry does not have it.
func NotFound(err error) bool {
	var te *transport.Error
	return errors.Is(err, ErrNotFound) || errors.As(err, &te) && te.StatusCode == http.StatusNotFound
}

// referrers lists the manifests whose subject is d: by the referrers API, or by
// its tag where the registry has none.
func (r *Repo) referrers(ctx context.Context, d artifact.Digest) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(r.Ref(d), r.Options(ctx)...)
	if err != nil {
		return nil, err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return m.Manifests, nil
}

// Images lists the images of the repository that something is known about:
// what a tag names, and what signatures or attestations hang on. Children of a
// listed index are not listed by themselves.
func (r *Repo) Images(ctx context.Context) ([]artifact.Digest, error) {
	out, err := r.images(ctx)
	return out, r.Fail("listing", err)
}

func (r *Repo) images(ctx context.Context) ([]artifact.Digest, error) {
	tags, err := r.session.puller.List(ctx, r.name)
	if NotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := map[artifact.Digest]bool{}
	for _, tag := range tags {
		d, attached := attachedTo(tag)
		if !attached {
			if d, err = r.head(ctx, r.name.Tag(tag)); err != nil {
				return nil, err
			}
		} else if there, err := r.head(ctx, r.Ref(d)); err != nil || there == "" {
			if err != nil {
				return nil, err
			}
			continue
		}
		if d != "" {
			found[d] = true
		}
	}
	for d := range found {
		if err := r.dropChildren(ctx, d, found); err != nil {
			return nil, err
		}
	}
	out := make([]artifact.Digest, 0, len(found))
	for d, listed := range found {
		if listed {
			out = append(out, d)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out, nil
}

func (r *Repo) dropChildren(ctx context.Context, d artifact.Digest, found map[artifact.Digest]bool) error {
	desc, err := r.session.puller.Get(ctx, r.Ref(d))
	if err != nil || !desc.MediaType.IsIndex() {
		return err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(desc.Manifest, &index); err != nil {
		return fmt.Errorf("parsing index %s: %w", d, err)
	}
	for _, c := range index.Manifests {
		if _, ok := found[artifact.Digest(c.Digest.String())]; ok {
			found[artifact.Digest(c.Digest.String())] = false
		}
	}
	return nil
}

// attachedTo says which digest a tag of cosign's or of the referrers fallback
// speaks of.
func attachedTo(tag string) (artifact.Digest, bool) {
	hex, ok := strings.CutPrefix(tag, "sha256-")
	if !ok {
		return "", false
	}
	hex, _, _ = strings.Cut(hex, ".")
	d, err := artifact.ParseDigest("sha256:" + hex)
	return d, err == nil
}

// Repositories lists what is at l below prefix. Many registries do not tell;
// the embedded one does.
func (c *Client) Repositories(ctx context.Context, l Location) ([]string, error) {
	r, err := c.Repo(l, "x") // any path: only the registry matters
	if err != nil {
		return nil, err
	}
	var out []string
	lister, err := r.session.puller.Catalogger(ctx, r.name.Registry)
	if err != nil {
		return nil, r.Fail("listing the repositories beside", err)
	}
	for lister.HasNext() {
		page, err := lister.Next(ctx)
		if err != nil {
			return nil, r.Fail("listing the repositories beside", err)
		}
		for _, repo := range page.Repos {
			if path, ok := l.Path(r.name.RegistryStr() + "/" + repo); ok {
				out = append(out, path)
			}
		}
	}
	sort.Strings(out)
	return out, nil
}

// isDistributable says whether a layer is copied; foreign ones are fetched from
// where their URL says.
func isDistributable(d v1.Descriptor) bool {
	return d.MediaType.IsDistributable() && len(d.URLs) == 0
}
