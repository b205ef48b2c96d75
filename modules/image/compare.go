package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"dagger.io/dagger"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"drydock/modules/artifact"
	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

// Blobs reads the blobs of an image, each checked against its digest.
type Blobs func(ctx context.Context, d artifact.Digest, w io.Writer) error

// Compare says how an image of one platform differs from one built again. was
// is its manifest as it is, whose blobs are read as far as they are needed; dir
// is a folder of this host for what was read. The archives are looked at by a
// step: what is in them is not trusted.
func Compare(ctx context.Context, c *dagger.Client, stepBin, dir string, was []byte, blobs Blobs, now *Built) (*artifact.ImageDiff, error) {
	f, err := os.CreateTemp(dir, "was-*.tar")
	if err != nil {
		return nil, fmt.Errorf("comparing images: %w", err)
	}
	err = errors.Join(partial(ctx, f, was, blobs, now.Layers), f.Close())
	if err != nil {
		return nil, fmt.Errorf("comparing images: %w", err)
	}
	run := steprun.Container(c, steprun.Call{
		Binary: stepBin, Args: []string{"compare", "--was", "/in/was.tar", "--now", "/in/now.tar", "--out", "/out/diff.json"},
		Files: map[string]*dagger.File{"/in/was.tar": c.Host().File(f.Name()), "/in/now.tar": now.Tar},
	})
	raw, err := run.File("/out/diff.json").Contents(ctx)
	if err != nil {
		return nil, steprun.Explain(ctx, "comparing images", now.Platform.String(), err)
	}
	diff := new(artifact.ImageDiff)
	if err := json.Unmarshal([]byte(raw), diff); err != nil {
		return nil, fmt.Errorf("reading what the compare step wrote: %w", err)
	}
	return diff, nil
}

// partial writes an OCI archive of an image without the layers that the other
// has at the same place.
func partial(ctx context.Context, f *os.File, manifest []byte, blobs Blobs, have []wire.Layer) error {
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return fmt.Errorf("parsing manifest: %w", err)
	}
	w := tar.NewWriter(f)
	top, err := describeManifest(manifest, m)
	if err != nil {
		return err
	}
	index, err := json.Marshal(inOrder(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{top}}))
	if err != nil {
		return err
	}
	for name, raw := range map[string][]byte{"index.json": index, "blobs/sha256/" + top.Digest.Hex: manifest} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(raw))}); err != nil {
			return err
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
	}
	wanted := []v1.Descriptor{m.Config}
	for i, l := range m.Layers {
		if i >= len(have) || have[i].Digest != artifact.Digest(l.Digest.String()) {
			wanted = append(wanted, l)
		}
	}
	written := map[string]bool{}
	for _, d := range wanted {
		if written[d.Digest.Hex] {
			continue
		}
		written[d.Digest.Hex] = true
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + d.Digest.Hex, Mode: 0o644, Size: d.Size}); err != nil {
			return err
		}
		if err := blobs(ctx, artifact.Digest(d.Digest.String()), w); err != nil {
			return err
		}
	}
	return w.Close()
}

func describeManifest(raw []byte, m v1.Manifest) (v1.Descriptor, error) {
	hash, size, err := v1.SHA256(bytes.NewReader(raw))
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = "application/vnd.oci.image.manifest.v1+json"
	}
	return v1.Descriptor{MediaType: mediaType, Digest: hash, Size: size}, err
}
