// Package blackbox evaluates black-box tests: of an image's files and
// configuration from its archive, and of what it does when it runs.
package blackbox

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/ociarchive"
)

const (
	maxUnpacked = 32 << 30
	maxEntries  = 5_000_000
	maxContent  = 8 << 20 // of a file that a test reads
	maxLinks    = 40
)

// Image is an image archive as its tests see it.
type Image struct {
	Config   wire.Config
	Platform artifact.Platform

	archive  *ociarchive.Archive
	manifest *ociarchive.Manifest
	files    map[string]*node // nil until needed
}

// node is one path of the squashed file system.
type node struct {
	header *tar.Header
	layer  int
}

// Open reads an archive's configuration.
func Open(file string) (*Image, error) {
	a, err := ociarchive.Open(file)
	if err != nil {
		return nil, err
	}
	img := &Image{archive: a}
	if err := img.readConfig(); err != nil {
		_ = a.Close()
		return nil, fmt.Errorf("reading image archive: %w", err)
	}
	return img, nil
}

// Close closes the archive.
func (i *Image) Close() error { return i.archive.Close() }

func (i *Image) readConfig() error {
	var err error
	if _, i.manifest, err = i.archive.Image(); err != nil {
		return err
	}
	raw, err := i.archive.Document(i.manifest.Config)
	if err != nil {
		return err
	}
	var c struct {
		OS           string                     `json:"os"`
		Architecture string                     `json:"architecture"`
		Variant      string                     `json:"variant"`
		Config       map[string]json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("parsing configuration: %w", err)
	}
	i.Config = ociarchive.Runtime(c.Config)
	i.Platform = artifact.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}
	return nil
}

// load squashes the layers into one tree of headers.
func (i *Image) load() error {
	if i.files != nil {
		return nil
	}
	files := map[string]*node{}
	budget := &ociarchive.Budget{Left: maxUnpacked}
	for n := range i.manifest.Layers {
		if err := i.walk(n, budget, func(h *tar.Header, _ io.Reader) error {
			name := clean(h.Name)
			dir, base := path.Split(name)
			dir = strings.TrimSuffix(dir, "/")
			switch {
			case base == ".wh..wh..opq":
				remove(files, dir, n)
			case strings.HasPrefix(base, ".wh."):
				gone := path.Join(dir, strings.TrimPrefix(base, ".wh."))
				remove(files, gone, n)
				if f := files[gone]; f != nil && f.layer < n {
					delete(files, gone)
				}
			default:
				if old := files[name]; old != nil && old.header.Typeflag == tar.TypeDir && h.Typeflag != tar.TypeDir {
					remove(files, name, n+1)
				}
				files[name] = &node{h, n}
			}
			if len(files) > maxEntries {
				return fmt.Errorf("more than %d files", maxEntries)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("reading layer %d: %w", n, err)
		}
	}
	i.files = files
	return nil
}

// remove takes away what layers below n put under dir.
func remove(files map[string]*node, dir string, n int) {
	prefix := dir + "/"
	if dir == "" {
		prefix = ""
	}
	for name, f := range files {
		if f.layer < n && strings.HasPrefix(name, prefix) {
			delete(files, name)
		}
	}
}

// walk calls fn for every entry of a layer.
func (i *Image) walk(n int, budget *ociarchive.Budget, fn func(*tar.Header, io.Reader) error) error {
	blob, err := i.archive.Blob(i.manifest.Layers[n])
	if err != nil {
		return err
	}
	r, _, err := ociarchive.Decompress(blob, budget)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(h, tr); err != nil {
			return err
		}
	}
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// resolve follows symbolic links in a path's directories, and in the last
// element too if asked. The second result is false where there is nothing.
func (i *Image) resolve(name string, last bool) (string, bool) {
	todo := strings.Split(clean(name), "/")
	at := ""
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		next := path.Join(at, part)
		f := i.files[next]
		if f != nil && f.header.Typeflag == tar.TypeSymlink && (last || len(todo) > 0) {
			if links++; links > maxLinks {
				return "", false
			}
			target := f.header.Linkname
			if path.IsAbs(target) {
				at = ""
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		at = next
	}
	return at, i.exists(at)
}

// exists says whether there is a path; a directory may be there only by what
// it holds.
func (i *Image) exists(name string) bool {
	if name == "" || i.files[name] != nil {
		return true
	}
	for f := range i.files {
		if strings.HasPrefix(f, name+"/") {
			return true
		}
	}
	return false
}

// header is the header of a resolved path, of a hard link the one of what it
// is linked to.
func (i *Image) header(name string) *tar.Header {
	for range maxLinks {
		f := i.files[name]
		if f == nil {
			return &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755} // implied, or the root
		}
		if f.header.Typeflag != tar.TypeLink {
			return f.header
		}
		name = clean(f.header.Linkname)
	}
	return &tar.Header{}
}

// contents reads files, by resolved path.
func (i *Image) contents(names []string) (map[string]string, error) {
	out := map[string]string{}
	wanted := make([]map[string][]string, len(i.manifest.Layers)) // layer -> path there -> names
	for _, name := range names {
		at := name
		for range maxLinks {
			if f := i.files[at]; f != nil && f.header.Typeflag == tar.TypeLink {
				at = clean(f.header.Linkname)
			}
		}
		f := i.files[at]
		if f == nil || f.header.Typeflag != tar.TypeReg {
			continue
		}
		if f.header.Size > maxContent {
			return nil, fmt.Errorf("/%s has %d bytes, more than a test reads (%d)", name, f.header.Size, maxContent)
		}
		if wanted[f.layer] == nil {
			wanted[f.layer] = map[string][]string{}
		}
		wanted[f.layer][at] = append(wanted[f.layer][at], name)
	}
	budget := &ociarchive.Budget{Left: maxUnpacked}
	for n, want := range wanted {
		if want == nil {
			continue
		}
		if err := i.walk(n, budget, func(h *tar.Header, r io.Reader) error {
			same := want[clean(h.Name)]
			if len(same) == 0 || h.Typeflag != tar.TypeReg {
				return nil
			}
			raw, err := io.ReadAll(io.LimitReader(r, maxContent))
			for _, name := range same {
				out[name] = string(raw)
			}
			return err
		}); err != nil {
			return nil, fmt.Errorf("reading layer %d: %w", n, err)
		}
	}
	return out, nil
}
