package ociarchive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"

	"drydock/modules/artifact"
)

// Content is a blob to write: bytes in memory, or a reader opened when needed.
type Content struct {
	Descriptor
	Bytes []byte
	Open  func() (io.ReadCloser, error)
}

// Document makes a blob of a value's JSON.
func Document(mediaType string, v any) (Content, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Content{}, err
	}
	sum := sha256.Sum256(raw)
	d := artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
	return Content{Descriptor: Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}, Bytes: raw}, nil
}

// Write writes an archive with one image: the same blobs give the same bytes.
func Write(path string, manifest Descriptor, blobs []Content) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	index, err := Document(MediaTypeIndex, Index{SchemaVersion: 2, MediaType: MediaTypeIndex, Manifests: []Descriptor{manifest}})
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}); err != nil {
			return err
		}
	}
	blobs = append([]Content{}, blobs...)
	sort.Slice(blobs, func(i, j int) bool { return blobs[i].Digest < blobs[j].Digest })
	for i, b := range blobs {
		if i > 0 && blobs[i-1].Digest == b.Digest {
			continue
		}
		if err := writeFile(w, "blobs/sha256/"+b.Digest.Hex(), b); err != nil {
			return fmt.Errorf("writing blob %s: %w", b.Digest, err)
		}
	}
	layout := []byte(`{"imageLayoutVersion":"1.0.0"}`)
	for _, file := range []struct {
		name string
		raw  []byte
	}{{"index.json", index.Bytes}, {"oci-layout", layout}} {
		if err := writeFile(w, file.name, Content{Descriptor: Descriptor{Size: int64(len(file.raw))}, Bytes: file.raw}); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeFile(w *tar.Writer, name string, c Content) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: c.Size}); err != nil {
		return err
	}
	var r io.Reader = bytes.NewReader(c.Bytes)
	if c.Open != nil {
		rc, err := c.Open()
		if err != nil {
			return err
		}
		defer func() { _ = rc.Close() }()
		r = rc
	}
	n, err := io.Copy(w, r)
	if err == nil && n != c.Size {
		err = fmt.Errorf("%d bytes, want %d", n, c.Size)
	}
	return err
}
