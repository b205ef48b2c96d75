package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"drydock/modules/artifact"
)

// Folder makes an image of one layer that holds a folder, as an OCI layout in
// dir, for Dockerfiles to copy from under a name. It is the same digest for the
// same content: owner 0, times at the Unix epoch, modes as git knows them. keep says which paths
// (slash-separated, relative) are part of it; what it leaves out of a folder is
// not looked at. Sockets, pipes and devices are left out.
func Folder(dir, folder string, p artifact.Platform, keep func(path string, d fs.DirEntry) bool) (artifact.Digest, error) {
	archive := filepath.Join(dir, "folder.tar")
	if err := writeArchive(archive, folder, keep); err != nil {
		return "", fmt.Errorf("packing %s: %w", folder, err)
	}
	layer, err := tarball.LayerFromFile(archive)
	if err != nil {
		return "", fmt.Errorf("packing %s: %w", folder, err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err == nil {
		img, err = mutate.ConfigFile(img, folderConfig(img, p))
	}
	if err != nil {
		return "", fmt.Errorf("packing %s: %w", folder, err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendImage(img)
	}
	if err != nil {
		return "", fmt.Errorf("packing %s: %w", folder, err)
	}
	d, err := img.Digest()
	return artifact.Digest(d.String()), err
}

func folderConfig(img v1.Image, p artifact.Platform) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		c = &v1.ConfigFile{}
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Variant = p.OS, p.Architecture, p.Variant
	return c
}

// writeArchive writes the folder's tar; WalkDir is in lexical order.
func writeArchive(to, folder string, keep func(string, fs.DirEntry) bool) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, path)
		if err != nil || rel == "." {
			return err
		}
		if rel = filepath.ToSlash(rel); !keep(rel, d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return addEntry(w, path, rel, d)
	})
	if err != nil {
		return err
	}
	return w.Close()
}

func addEntry(w *tar.Writer, path, rel string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: rel, Mode: int64(steadyMode(info)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	var content io.Reader = bytes.NewReader(nil)
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, rel+"/"
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h.Typeflag, h.Size, content = tar.TypeReg, info.Size(), f
	default:
		return nil
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, content)
	return err
}
