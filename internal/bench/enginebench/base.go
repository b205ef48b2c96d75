//go:build linux

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

// base is the image every build starts from, served on loopback.
type base struct {
	address string
	digest  artifact.Digest
	image   v1.Image
	bytes   int64 // of its files
}

const baseName = "full"

// openBase serves the bases registry of a cache.
func openBase(ctx context.Context, dir string) (*base, error) {
	path, err := layout.FromPath(filepath.Join(dir, "bases", baseName))
	if err != nil {
		return nil, fmt.Errorf("finding base %s in %s (build an image on it first: mage bench:engine does): %w", baseName, dir, err)
	}
	b := &base{}
	if err := b.choose(path); err != nil {
		return nil, err
	}
	embedded, err := registry.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	ready := make(chan net.Addr, 1)
	failed := make(chan error, 1)
	go func() {
		failed <- embedded.Serve(ctx, registry.ServeOptions{
			Address: "127.0.0.1:0", Stage: "bases", ReadOnly: true, Ready: func(a net.Addr) { ready <- a },
		})
	}()
	select {
	case a := <-ready:
		b.address = a.String()
		return b, nil
	case err := <-failed:
		return nil, err
	}
}

// choose takes the newest manifest, or the one of this platform in an index.
func (b *base) choose(path layout.Path) error {
	index, err := path.ImageIndex()
	if err != nil {
		return err
	}
	m, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for i := len(m.Manifests) - 1; i >= 0; i-- {
		d := m.Manifests[i]
		if !d.MediaType.IsImage() {
			continue
		}
		img, err := path.Image(d.Digest)
		if err != nil {
			return err
		}
		c, err := img.ConfigFile()
		if err != nil || len(c.RootFS.DiffIDs) == 0 {
			continue
		}
		b.digest, b.image = artifact.Digest(d.Digest.String()), img
		return nil
	}
	return errors.New("the bases registry holds no image of " + baseName)
}

// unpack writes the base's files to dir and counts their bytes.
func (b *base) unpack(dir string) error {
	r := mutate.Extract(b.image)
	defer r.Close()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b.bytes += h.Size
		if err := unpackEntry(dir, h, t); err != nil {
			return fmt.Errorf("unpacking %s: %w", h.Name, err)
		}
	}
}

// unpackEntry writes one file; owners do not matter to what is measured.
func unpackEntry(dir string, h *tar.Header, content io.Reader) error {
	path := filepath.Join(dir, filepath.Clean("/"+h.Name))
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, path)
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, filepath.Clean("/"+h.Linkname)), path)
	case tar.TypeReg:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
	return nil
}
