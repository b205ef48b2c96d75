// Package layout writes OCI image layouts (image-spec, image-layout.md) whose
// bytes depend on nothing but what is put in.
package layout

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	// Not compress/gzip: its output changes with the Go release, this one's
	// with go.mod.
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

const gzipLevel = 6

// Layer is a compressed layer in a file.
type Layer struct {
	Path   string          `json:"-"`
	Digest artifact.Digest `json:"digest"`          // of the compressed bytes
	DiffID artifact.Digest `json:"diffID"`          // of the tar
	Size   int64           `json:"size"`            // as stored
	Plain  bool            `json:"plain,omitempty"` // not compressed: Digest is DiffID
}

// CompressLayer writes what fill produces, gzipped, to the file at path. The
// file appears whole or not at all.
func CompressLayer(path string, fill func(io.Writer) error) (Layer, error) {
	return storeLayer(path, fill, compressTo)
}

// StoreLayer is CompressLayer without compression, for layers that go no
// further than this machine.
func StoreLayer(path string, fill func(io.Writer) error) (Layer, error) {
	return storeLayer(path, fill, copyTo)
}

func storeLayer(path string, fill func(io.Writer) error, store func(*os.File, func(io.Writer) error) (Layer, error)) (Layer, error) {
	f, err := wholefile.Begin(filepath.Dir(path), wholefile.Options{Mode: 0o644, Pattern: ".layer-*"})
	if err != nil {
		return Layer{}, fmt.Errorf("writing layer: %w", err)
	}
	defer f.Discard()
	layer, err := store(f.File, fill)
	if err == nil {
		err = f.Commit(path)
	}
	if err != nil {
		return Layer{}, fmt.Errorf("writing layer: %w", err)
	}
	layer.Path = path
	return layer, nil
}

func compressTo(f *os.File, fill func(io.Writer) error) (Layer, error) {
	compressed, plain := sha256.New(), sha256.New()
	counted := &counter{w: io.MultiWriter(f, compressed)}
	z, err := gzip.NewWriterLevel(counted, gzipLevel)
	if err != nil {
		return Layer{}, err
	}
	if err := fill(io.MultiWriter(z, plain)); err != nil {
		return Layer{}, err
	}
	if err := z.Close(); err != nil {
		return Layer{}, err
	}
	return Layer{Digest: hashed(compressed.Sum(nil)), DiffID: hashed(plain.Sum(nil)), Size: counted.n}, nil
}

func copyTo(f *os.File, fill func(io.Writer) error) (Layer, error) {
	sum := sha256.New()
	counted := &counter{w: io.MultiWriter(f, sum)}
	if err := fill(counted); err != nil {
		return Layer{}, err
	}
	d := hashed(sum.Sum(nil))
	return Layer{Digest: d, DiffID: d, Size: counted.n, Plain: true}, nil
}

func hashed(sum []byte) artifact.Digest { return artifact.Digest("sha256:" + hex.EncodeToString(sum)) }

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Writer fills one layout directory.
type Writer struct {
	Annotations map[string]string // of every manifest, and of the index over several

	dir string
}

// NewWriter starts a layout in an empty or missing directory.
func NewWriter(dir string) (*Writer, error) {
	if err := os.MkdirAll(filepath.Join(dir, v1.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("writing layout: %w", err)
	}
	w := &Writer{dir: dir}
	return w, w.file(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion})
}

func (w *Writer) file(name string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, name), data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing layout: %w", err)
	}
	return nil
}

func (w *Writer) blobPath(d artifact.Digest) string {
	return filepath.Join(w.dir, v1.ImageBlobsDir, "sha256", d.Hex())
}

// AddBlob stores bytes.
func (w *Writer) AddBlob(data []byte) (artifact.Digest, error) {
	sum := sha256.Sum256(data)
	d := hashed(sum[:])
	if err := os.WriteFile(w.blobPath(d), data, 0o644); err != nil {
		return "", fmt.Errorf("writing layout: %w", err)
	}
	return d, nil
}

// AddFile stores a file whose digest is known, by hard link where it can.
func (w *Writer) AddFile(path string, d artifact.Digest) error {
	to := w.blobPath(d)
	if err := os.Link(path, to); err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	if err := copyFile(path, to); err != nil {
		return fmt.Errorf("writing layout: %w", err)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// AddImage stores layers, configuration and manifest of one platform. The
// manifest says of itself what Annotations has.
func (w *Writer) AddImage(config v1.Image, layers []Layer) (v1.Descriptor, error) {
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Annotations: w.Annotations,
	}
	config.RootFS = v1.RootFS{Type: "layers"}
	for _, l := range layers {
		if err := w.AddFile(l.Path, l.Digest); err != nil {
			return v1.Descriptor{}, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(l.DiffID))
		mediaType := v1.MediaTypeImageLayerGzip
		if l.Plain {
			mediaType = v1.MediaTypeImageLayer
		}
		manifest.Layers = append(manifest.Layers, v1.Descriptor{
			MediaType: mediaType, Digest: digest.Digest(l.Digest), Size: l.Size,
		})
	}
	var err error
	if manifest.Config, err = w.addJSON(v1.MediaTypeImageConfig, config); err != nil {
		return v1.Descriptor{}, err
	}
	desc, err := w.addJSON(v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	desc.Platform = &v1.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
	return desc, nil
}

func (w *Writer) addJSON(mediaType string, value any) (v1.Descriptor, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return v1.Descriptor{}, fmt.Errorf("writing layout: %w", err)
	}
	data := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	d, err := w.AddBlob(data)
	return v1.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: int64(len(data))}, err
}

// Finish writes index.json over the images. Several are put under one index,
// so that the layout always has exactly one root, whose digest it gives.
func (w *Writer) Finish(images []v1.Descriptor) (artifact.Digest, error) {
	root := images[0]
	if len(images) > 1 {
		var err error
		root, err = w.addJSON(v1.MediaTypeImageIndex, v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: images, Annotations: w.Annotations,
		})
		if err != nil {
			return "", err
		}
	}
	return artifact.Digest(root.Digest), w.file(v1.ImageIndexFile, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{root},
	})
}

// Archive packs a layout directory as an OCI archive (a tar of the layout).
func Archive(dir, to string) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	tw := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return archiveFile(tw, dir, p)
	})
	if err == nil {
		err = tw.Close()
	}
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}

func archiveFile(tw *tar.Writer, dir, p string) (err error) {
	name, err := filepath.Rel(dir, p)
	if err != nil {
		return err
	}
	in, err := os.Open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size()}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, in)
	return err
}
