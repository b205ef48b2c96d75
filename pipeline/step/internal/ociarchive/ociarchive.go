// Package ociarchive reads and writes OCI image layouts in one tar file,
// holding one image. What it reads is not trusted: every blob it hands out is
// checked against its digest, every document and every layer has a bound.
package ociarchive

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"strings"

	"drydock/modules/artifact"
)

const (
	// MaxDocument bounds an index, a manifest and a configuration.
	MaxDocument = 8 << 20
	// maxEntries bounds the files in the archive itself (not in its layers).
	maxEntries = 10000
	// maxLayers bounds the layers of an image; overlay mounts take 500 at most.
	maxLayers = 500
	// maxDepth bounds indexes within indexes.
	maxDepth = 4
)

// Descriptor is an OCI descriptor as far as it is used here.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      artifact.Digest   `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Platform is the platform of a descriptor.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

// Manifest is an OCI or Docker image manifest.
type Manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Config        Descriptor   `json:"config"`
	Layers        []Descriptor `json:"layers"`

	Annotations map[string]string `json:"annotations,omitempty"`
}

// Index is an OCI index.
type Index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Manifests     []Descriptor `json:"manifests"`
}

// Archive is an open archive.
type Archive struct {
	file    *os.File
	entries map[string]span
}

type span struct{ offset, size int64 }

// Open indexes the archive at path without reading its blobs.
func Open(path string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a := &Archive{file: f, entries: map[string]span{}}
	if err := a.scan(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("reading image archive: %w", err)
	}
	return a, nil
}

func (a *Archive) scan() error {
	for r := tar.NewReader(a.file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		offset, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if len(a.entries) >= maxEntries {
			return fmt.Errorf("more than %d files", maxEntries)
		}
		a.entries[path.Clean(strings.TrimPrefix(h.Name, "./"))] = span{offset, h.Size}
	}
}

// Close closes the file.
func (a *Archive) Close() error { return a.file.Close() }

func (a *Archive) section(name string) (*io.SectionReader, error) {
	s, ok := a.entries[name]
	if !ok {
		return nil, fmt.Errorf("image archive has no %s", name)
	}
	return io.NewSectionReader(a.file, s.offset, s.size), nil
}

// Blob is the blob of a descriptor. Reading it to the end fails when its
// bytes are not what the digest says.
func (a *Archive) Blob(d Descriptor) (io.Reader, error) {
	if _, err := artifact.ParseDigest(string(d.Digest)); err != nil {
		return nil, err
	}
	s, err := a.section("blobs/sha256/" + d.Digest.Hex())
	if err != nil {
		return nil, err
	}
	if s.Size() != d.Size {
		return nil, fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, s.Size(), d.Size)
	}
	return &verified{r: s, sum: sha256.New(), want: d.Digest}, nil
}

// Document is a small blob, read whole.
func (a *Archive) Document(d Descriptor) ([]byte, error) {
	if d.Size > MaxDocument {
		return nil, fmt.Errorf("document %s has %d bytes, more than %d", d.Digest, d.Size, MaxDocument)
	}
	r, err := a.Blob(d)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Image finds the only image in the archive, passing by attestations.
func (a *Archive) Image() (Descriptor, *Manifest, error) {
	s, err := a.section("index.json")
	if err != nil {
		return Descriptor{}, nil, err
	}
	if s.Size() > MaxDocument {
		return Descriptor{}, nil, fmt.Errorf("index.json has %d bytes, more than %d", s.Size(), MaxDocument)
	}
	raw, err := io.ReadAll(s)
	if err != nil {
		return Descriptor{}, nil, err
	}
	found, err := a.images(raw, 0)
	if err != nil {
		return Descriptor{}, nil, err
	}
	if len(found) != 1 {
		return Descriptor{}, nil, fmt.Errorf("image archive holds %d images, want one", len(found))
	}
	m, err := a.manifest(found[0])
	return found[0], m, err
}

func (a *Archive) manifest(d Descriptor) (*Manifest, error) {
	raw, err := a.Document(d)
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("parsing manifest %s: %w", d.Digest, err)
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("manifest %s has %d layers, more than %d", d.Digest, len(m.Layers), maxLayers)
	}
	return m, nil
}

func (a *Archive) images(raw []byte, depth int) ([]Descriptor, error) {
	if depth > maxDepth {
		return nil, errors.New("indexes are nested too deep")
	}
	var index Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("parsing index: %w", err)
	}
	var out []Descriptor
	seen := map[artifact.Digest]bool{}
	for _, d := range index.Manifests {
		unknown := d.Platform != nil && d.Platform.OS == "unknown"
		if unknown || d.Annotations["vnd.docker.reference.type"] != "" || seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		switch d.MediaType {
		case MediaTypeIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
			nested, err := a.Document(d)
			if err != nil {
				return nil, err
			}
			more, err := a.images(nested, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		case MediaTypeManifest, "application/vnd.docker.distribution.manifest.v2+json":
			out = append(out, d)
		}
		if len(out) > maxLayers {
			return nil, errors.New("too many images in one archive")
		}
	}
	return out, nil
}

// verified fails at the end of a blob whose digest is not the wanted one.
type verified struct {
	r    io.Reader
	sum  hash.Hash
	want artifact.Digest
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := "sha256:" + hex.EncodeToString(v.sum.Sum(nil)); got != string(v.want) {
			return n, fmt.Errorf("blob %s has digest %s", v.want, got)
		}
	}
	return n, err
}
