// Package imagetest makes image archives for tests, broken ones included.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"drydock/modules/artifact"
	"drydock/pipeline/step/internal/ociarchive"
)

// File is one file of a layer. Its type follows from what is set.
type File struct {
	Name, Body string
	Link       string // symbolic link target
	Hard       string // hard link target
	Dir        bool
	Mode       int64 // 0: 0644, or 0755 for a directory
	UID, GID   int
	Time       time.Time
	Xattrs     map[string]string
	Owner      string // uname
}

// Layer is files in the order they are written, and how they are compressed.
type Layer struct {
	Files       []File
	Compression string // "", "gzip" or "zstd"
	Raw         []byte // instead of Files
}

// Image is an image to write.
type Image struct {
	Layers   []Layer
	Config   map[string]any // the "config" object
	Extra    map[string]any // more top-level fields of the configuration
	Platform artifact.Platform
	History  []map[string]any
	// Tamper may change the manifest before it is written.
	Tamper func(*ociarchive.Manifest)
}

// Write writes the image to a new archive and returns its path and the diff
// ids of its layers.
func Write(t testing.TB, img Image) (string, []artifact.Digest) {
	t.Helper()
	var blobs []ociarchive.Content
	var diffIDs []artifact.Digest
	m := ociarchive.Manifest{SchemaVersion: 2, MediaType: ociarchive.MediaTypeManifest}
	for _, l := range img.Layers {
		raw := l.Raw
		if raw == nil {
			raw = Tar(t, l.Files)
		}
		diffIDs = append(diffIDs, digest(raw))
		packed, mediaType := compress(t, raw, l.Compression)
		d := ociarchive.Descriptor{MediaType: mediaType, Digest: digest(packed), Size: int64(len(packed))}
		m.Layers = append(m.Layers, d)
		blobs = append(blobs, ociarchive.Content{Descriptor: d, Bytes: packed})
	}
	if img.Platform.OS == "" {
		img.Platform = artifact.Platform{OS: "linux", Architecture: "amd64"}
	}
	cfg := map[string]any{
		"os": img.Platform.OS, "architecture": img.Platform.Architecture, "config": img.Config,
		"created": "2026-01-02T03:04:05.678Z", "history": img.History,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}
	for k, v := range img.Extra {
		cfg[k] = v
	}
	c, err := ociarchive.Document(ociarchive.MediaTypeConfig, cfg)
	must(t, err)
	m.Config = c.Descriptor
	if img.Tamper != nil {
		img.Tamper(&m)
	}
	md, err := ociarchive.Document(ociarchive.MediaTypeManifest, m)
	must(t, err)
	path := filepath.Join(t.TempDir(), "image.tar")
	must(t, ociarchive.Write(path, md.Descriptor, append(blobs, c, md)))
	return path, diffIDs
}

// Tar is the tar of files.
func Tar(t testing.TB, files []File) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Uid: f.UID, Gid: f.GID, ModTime: f.Time, Typeflag: tar.TypeReg, Size: int64(len(f.Body)), Uname: f.Owner, Gname: f.Owner}
		switch {
		case f.Dir:
			h.Typeflag, h.Mode = tar.TypeDir, max(f.Mode, 0o755*b2i(f.Mode == 0))
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		case f.Hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, f.Hard
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if !f.Time.IsZero() {
			h.Format, h.AccessTime, h.ChangeTime = tar.FormatPAX, f.Time, f.Time
		}
		for k, v := range f.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		must(t, w.WriteHeader(h))
		_, err := w.Write([]byte(f.Body))
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func compress(t testing.TB, raw []byte, how string) ([]byte, string) {
	t.Helper()
	var buf bytes.Buffer
	switch how {
	case "gzip":
		w := gzip.NewWriter(&buf)
		_, err := w.Write(raw)
		must(t, err)
		must(t, w.Close())
		return buf.Bytes(), ociarchive.MediaTypeLayerGzip
	case "zstd":
		w, err := zstd.NewWriter(&buf)
		must(t, err)
		_, err = w.Write(raw)
		must(t, err)
		must(t, w.Close())
		return buf.Bytes(), ociarchive.MediaTypeLayerZstd
	}
	return raw, ociarchive.MediaTypeLayer
}

func digest(raw []byte) artifact.Digest {
	sum := sha256.Sum256(raw)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// JSON is a value's JSON, for messages.
func JSON(v any) string {
	raw, _ := json.Marshal(v)
	return string(raw)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
