// Package frontendtest makes images of Dockerfile frontends, for tests of the
// frontends a catalog lists: BuildKit's own, built from the module this program
// links it from, or any folder with a program in it.
package frontendtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	program = "github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend"

	// What the images of BuildKit's releases say of themselves: that the
	// frontend takes a build's inputs as they are handed to it.
	capsLabel = "moby.buildkit.frontend.caps"
	caps      = "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts"
)

// BuildKit builds BuildKit's Dockerfile frontend in dir, an empty folder, and
// gives an image of it for this machine. The working directory must be in this
// module, environ is that of the go command. It takes a few seconds where the
// packages are compiled already.
func BuildKit(ctx context.Context, dir string, environ []string) (v1.Image, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "frontend"), program)
	cmd.Env = append(slices.Clone(environ), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the frontend: %w: %s", err, out)
	}
	return Image(dir, "/frontend")
}

// Image is an image of a folder that is a frontend, started by the command.
func Image(dir string, command ...string) (v1.Image, error) {
	archive, err := pack(dir)
	if err != nil {
		return nil, fmt.Errorf("packing the frontend: %w", err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config.Entrypoint = command
	cfg.Config.Labels = map[string]string{capsLabel: caps}
	return mutate.ConfigFile(img, cfg)
}

// pack is a tar archive of a folder, everything owned by root and of no time.
func pack(dir string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target, _ := os.Readlink(path) // "" for what is no link
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		*h = tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode}
		if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}
