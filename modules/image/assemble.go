package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
)

// Part is one platform's archive on this host, as Export wrote it.
type Part struct {
	Platform artifact.Platform
	Archive  string          // OCI archive
	Manifest artifact.Digest // the manifest it must hold
}

// Assembled is the subject of a build: a manifest, or an index of them.
type Assembled struct {
	Digest    artifact.Digest
	MediaType string
	Size      int64
	Platforms map[string]artifact.Digest // manifest by platform
}

var blobName = regexp.MustCompile(`^blobs/sha256/([a-f0-9]{64})$`)

// maxDocument bounds a manifest or an index.
const maxDocument = 4 << 20

// Assemble joins archives into one OCI layout at dir, which it makes or
// replaces whole. One part gives the manifest itself; more give an index with
// the platforms in their order as text, so that the same parts are the same
// digest. Every blob is checked against its digest as it is copied.
func Assemble(dir string, parts []Part) (*Assembled, error) {
	if len(parts) == 0 {
		return nil, errors.New("assembling image: no platforms")
	}
	parts = append([]Part{}, parts...)
	sort.Slice(parts, func(i, j int) bool { return parts[i].Platform.String() < parts[j].Platform.String() })
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".layout-")
	if err != nil {
		return nil, fmt.Errorf("assembling image: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.MkdirAll(filepath.Join(tmp, "blobs", "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("assembling image: %w", err)
	}
	out := &Assembled{Platforms: map[string]artifact.Digest{}}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, p := range parts {
		if _, twice := out.Platforms[p.Platform.String()]; twice {
			return nil, fmt.Errorf("assembling image: platform %s given twice", p.Platform)
		}
		d, said, err := unpackPart(tmp, p)
		if err != nil {
			return nil, fmt.Errorf("assembling image from %s: %w", p.Archive, err)
		}
		index.Annotations = common(index.Annotations, said, len(index.Manifests) == 0)
		out.Platforms[p.Platform.String()] = p.Manifest
		index.Manifests = append(index.Manifests, *d)
	}
	top := index.Manifests[0]
	if len(parts) > 1 {
		if top, err = writeIndex(tmp, index); err != nil {
			return nil, fmt.Errorf("assembling image: %w", err)
		}
	}
	out.Digest, out.MediaType, out.Size = artifact.Digest(top.Digest.String()), string(top.MediaType), top.Size
	if err := finishLayout(tmp, dir, top); err != nil {
		return nil, fmt.Errorf("assembling image: %w", err)
	}
	return out, nil
}

// common are the annotations that hold for all platforms, so for their index.
func common(have, more map[string]string, first bool) map[string]string {
	if first {
		return maps.Clone(more)
	}
	maps.DeleteFunc(have, func(k, v string) bool { return more[k] != v })
	return have
}

// unpackPart copies an archive's blobs, describes its manifest and gives the
// annotations that has.
func unpackPart(dir string, p Part) (*v1.Descriptor, map[string]string, error) {
	f, err := os.Open(p.Archive)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	seen := map[string]bool{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		m := blobName.FindStringSubmatch(h.Name)
		if m == nil || h.Typeflag != tar.TypeReg {
			continue
		}
		seen[m[1]] = true
		if err := copyBlob(filepath.Join(dir, h.Name), m[1], r); err != nil {
			return nil, nil, err
		}
	}
	if !seen[p.Manifest.Hex()] {
		return nil, nil, fmt.Errorf("it does not hold manifest %s", p.Manifest)
	}
	raw, err := readDocument(filepath.Join(dir, "blobs", "sha256", p.Manifest.Hex()))
	if err != nil {
		return nil, nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, nil, fmt.Errorf("parsing manifest: %w", err)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if !seen[d.Digest.Hex] {
			return nil, nil, fmt.Errorf("it lacks blob %s of its manifest", d.Digest)
		}
	}
	hash, err := v1.NewHash(string(p.Manifest))
	if err != nil {
		return nil, nil, err
	}
	d := &v1.Descriptor{MediaType: m.MediaType, Digest: hash, Size: int64(len(raw))}
	if p.Platform.OS != "" {
		d.Platform = &v1.Platform{OS: p.Platform.OS, Architecture: p.Platform.Architecture, Variant: p.Platform.Variant}
	}
	return d, m.Annotations, nil
}

func copyBlob(path, want string, r io.Reader) error {
	if _, err := os.Stat(path); err == nil {
		return nil // another platform brought it, checked
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), r)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("blob sha256:%s has digest sha256:%s", want, got)
	}
	return nil
}

func readDocument(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = fmt.Errorf("document over %d bytes", maxDocument)
	}
	return raw, err
}

// inOrder is the index with its fields in the order of the OCI image-spec's own
// types (descriptor: mediaType, digest, size). Clients that decode and encode
// an index as they copy it, as skopeo does, would change its digest otherwise.
func inOrder(index v1.IndexManifest) ocispec.Index {
	out := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: string(index.MediaType), Annotations: index.Annotations,
	}
	for _, d := range index.Manifests {
		o := ocispec.Descriptor{
			MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size, Annotations: d.Annotations,
		}
		if d.Platform != nil {
			o.Platform = &ocispec.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}
		}
		out.Manifests = append(out.Manifests, o)
	}
	return out
}

func writeIndex(dir string, index v1.IndexManifest) (v1.Descriptor, error) {
	raw, err := json.Marshal(inOrder(index))
	if err != nil {
		return v1.Descriptor{}, err
	}
	sum := sha256.Sum256(raw)
	hash := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	err = os.WriteFile(filepath.Join(dir, "blobs", "sha256", hash.Hex), raw, 0o644)
	return v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hash, Size: int64(len(raw))}, err
}

// finishLayout writes the layout's entry files and moves it into place.
func finishLayout(tmp, dir string, top v1.Descriptor) error {
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{top}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "index.json"), raw, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return replace(tmp, dir)
}

// replace puts a directory in another's place, whole; another process may do
// the same at the same time.
func replace(tmp, dir string) error {
	for range 100 {
		err := os.Rename(tmp, dir)
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
		old := tmp + ".old"
		if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.RemoveAll(old); err != nil {
			return err
		}
	}
	return fmt.Errorf("replacing %s: others replace it all the time", dir)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
