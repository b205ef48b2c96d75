package base

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
	"drydock/modules/base/layout"
	"drydock/modules/mirror"
)

// Docker's names for what OCI calls manifest and index; mirrors serve both.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"

	maxManifest = 4 << 20
)

// imageName is an oci base's image, taken apart.
func imageName(image, base, place string) (repository string, d artifact.Digest, err error) {
	repository, rest, ok := strings.Cut(image, "@")
	d, derr := artifact.ParseDigest(rest)
	if !ok || derr != nil || !plainPath(repository) {
		return "", "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading base " + base, Place: place,
			Message: fmt.Sprintf("image %q is not a path with a digest", image),
			Remedy:  "write path@sha256:…, without registry and tag",
		}
	}
	return repository, d, nil
}

// puller reads one repository of the OCI mirror by digest.
type puller struct {
	mirrors    *mirror.Set
	repository string
	materials  []artifact.Material
}

func (p *puller) fetch(ctx context.Context, kind string, d artifact.Digest, size int64) (string, error) {
	blob, err := p.mirrors.Fetch(ctx, mirror.Request{
		Ecosystem: mirror.OCI, Path: path.Join("v2", p.repository, kind, string(d)), SHA256: d, Size: size,
	})
	if err != nil {
		return "", fmt.Errorf("fetching %s@%s: %w", p.repository, d, err)
	}
	p.materials = append(p.materials, blob.Material)
	return blob.Path, nil
}

// document fetches a small JSON document: manifest, index or configuration.
func (p *puller) document(ctx context.Context, kind string, d artifact.Digest, size int64, into any) (string, error) {
	if size > maxManifest {
		return "", fmt.Errorf("%s@%s: %d bytes are too many for a %s", p.repository, d, size, kind)
	}
	at, err := p.fetch(ctx, kind, d, size)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(at)
	if err != nil {
		return "", fmt.Errorf("reading %s@%s: %w", p.repository, d, err)
	}
	if info.Size() > maxManifest {
		return "", fmt.Errorf("%s@%s: %d bytes are too many for a %s", p.repository, d, info.Size(), kind)
	}
	data, err := os.ReadFile(at)
	if err != nil {
		return "", fmt.Errorf("reading %s@%s: %w", p.repository, d, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return "", fmt.Errorf("reading %s@%s: %w", p.repository, d, err)
	}
	return at, nil
}

// pulled is one platform of an upstream image.
type pulled struct {
	desc     v1.Descriptor // of the manifest, with its platform
	path     string
	manifest v1.Manifest
	config   v1.Image
}

// upstream reads the manifests and configurations an oci base consists of:
// those of the platforms wanted, or all when none is named.
func (p *puller) upstream(ctx context.Context, d artifact.Digest, want []artifact.Platform) ([]pulled, error) {
	var root v1.Index
	at, err := p.document(ctx, "manifests", d, 0, &root)
	if err != nil {
		return nil, err
	}
	if len(root.Manifests) == 0 {
		info, err := os.Stat(at)
		if err != nil {
			return nil, fmt.Errorf("reading %s@%s: %w", p.repository, d, err)
		}
		mediaType := root.MediaType
		if mediaType == "" {
			mediaType = v1.MediaTypeImageManifest
		}
		one, err := p.image(ctx, v1.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: info.Size()})
		if err != nil {
			return nil, err
		}
		return only([]pulled{one}, want, p.repository)
	}
	var out []pulled
	for _, m := range root.Manifests {
		if m.MediaType != v1.MediaTypeImageManifest && m.MediaType != dockerManifest {
			continue
		}
		if m.Platform == nil || m.Platform.OS != "linux" || !wanted(*m.Platform, want) {
			continue // attestations call themselves unknown/unknown
		}
		one, err := p.image(ctx, m)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return only(out, want, p.repository)
}

func wanted(have v1.Platform, want []artifact.Platform) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(w artifact.Platform) bool { return matches(w, have) })
}

// matches treats arm64/v8 as arm64: v8 is what arm64 means (image-spec,
// image-index.md).
func matches(want artifact.Platform, have v1.Platform) bool {
	v := have.Variant
	if have.Architecture == "arm64" && v == "v8" {
		v = ""
	}
	return want.OS == have.OS && want.Architecture == have.Architecture && want.Variant == v
}

// only checks that every platform wanted was found once.
func only(found []pulled, want []artifact.Platform, repository string) ([]pulled, error) {
	for _, w := range want {
		if !slices.ContainsFunc(found, func(f pulled) bool { return matches(w, f.config.Platform) }) {
			return nil, fmt.Errorf("image %s has no platform %s", repository, w)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("image %s has no linux platform", repository)
	}
	if len(want) > 0 && len(found) != len(want) {
		return nil, fmt.Errorf("image %s has %d manifests for %d platforms", repository, len(found), len(want))
	}
	return found, nil
}

func (p *puller) image(ctx context.Context, desc v1.Descriptor) (pulled, error) {
	one := pulled{desc: desc}
	var err error
	one.path, err = p.document(ctx, "manifests", artifact.Digest(desc.Digest), desc.Size, &one.manifest)
	if err != nil {
		return one, err
	}
	c := one.manifest.Config
	if c.Digest == "" || len(one.manifest.Layers) == 0 {
		return one, fmt.Errorf("%s@%s is not an image manifest", p.repository, desc.Digest)
	}
	if _, err := p.document(ctx, "blobs", artifact.Digest(c.Digest), c.Size, &one.config); err != nil {
		return one, err
	}
	one.desc.Platform = &v1.Platform{
		OS: one.config.OS, Architecture: one.config.Architecture, Variant: one.config.Variant,
	}
	return one, nil
}

// resolveImage locks an oci base: which manifests it has, and the newest
// creation time in it as the epoch.
func resolveImage(ctx context.Context, m *mirror.Set, spec Spec, lock *Lock) error {
	repository, d, err := imageName(spec.Image, spec.Name, spec.Place)
	if err != nil {
		return err
	}
	p := &puller{mirrors: m, repository: repository}
	images, err := p.upstream(ctx, d, spec.Platforms)
	if err != nil {
		return fmt.Errorf("resolving base %s: %w", spec.Name, err)
	}
	for _, one := range images {
		lock.Platforms = append(lock.Platforms, LockedTarget{
			Platform: platformOf(one.config.Platform), Digest: artifact.Digest(one.desc.Digest),
		})
		if one.config.Created != nil && one.config.Created.After(time.Unix(lock.Epoch, 0)) {
			lock.Epoch = one.config.Created.Unix()
		}
	}
	lock.sort()
	return nil
}

func platformOf(p v1.Platform) artifact.Platform {
	if p.Architecture == "arm64" && p.Variant == "v8" {
		p.Variant = ""
	}
	return artifact.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// copyImage copies an upstream image into a layout, byte for byte. One
// manifest stays what it was; several are put under an index of just those.
func (b *Builder) copyImage(ctx context.Context, w *layout.Writer, spec Spec, lock *Lock, r *Result) (artifact.Digest, error) {
	repository, d, err := imageName(lock.Request.Image, lock.Name, "")
	if err != nil {
		return "", err
	}
	p := &puller{mirrors: b.Mirrors, repository: repository}
	if spec.Trust != nil {
		if err := p.verify(ctx, d, spec); err != nil {
			return "", err
		}
	}
	var want []artifact.Platform
	for _, t := range lock.Platforms {
		want = append(want, t.Platform)
	}
	images, err := p.upstream(ctx, d, want)
	if err != nil {
		return "", fmt.Errorf("building base %s: %w", lock.Name, err)
	}
	var roots []v1.Descriptor
	for _, one := range images {
		if err := p.store(ctx, w, one); err != nil {
			return "", fmt.Errorf("building base %s: %w", lock.Name, err)
		}
		roots = append(roots, one.desc)
		r.Platforms[platformOf(one.config.Platform).String()] = artifact.Digest(one.desc.Digest)
	}
	r.Materials = p.materials
	return w.Finish(roots)
}

func (p *puller) store(ctx context.Context, w *layout.Writer, one pulled) error {
	if err := w.AddFile(one.path, artifact.Digest(one.desc.Digest)); err != nil {
		return err
	}
	for _, blob := range append([]v1.Descriptor{one.manifest.Config}, one.manifest.Layers...) {
		at, err := p.fetch(ctx, "blobs", artifact.Digest(blob.Digest), blob.Size)
		if err != nil {
			return err
		}
		if err := w.AddFile(at, artifact.Digest(blob.Digest)); err != nil {
			return err
		}
	}
	return nil
}
