package mirror

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/ulikunitz/xz"

	"drydock/modules/artifact"
	"drydock/modules/mirror/debian"
)

// Packages is the package index of one suite, component and architecture,
// verified through the suite's Release. An index that exists and is empty is
// an empty list; one the archive does not have is an error.
func (s *Set) Packages(ctx context.Context, src DebianSource, suite, component, arch string) ([]debian.Package, error) {
	a, err := s.archiveOf(src)
	if err != nil {
		return nil, err
	}
	c, err := s.release(ctx, a, suite)
	if err != nil {
		return nil, err
	}
	name, file, err := indexFile(c.release, component, arch)
	if err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading the package index", Place: src.URI + " " + suite, Err: err,
			Remedy: "use a mirror that carries " + component + " for " + arch,
		}
	}
	s.mu.Lock()
	known, ok := s.indexes[file.SHA256]
	s.mu.Unlock()
	if ok {
		return known, nil
	}
	list, err := s.readIndex(ctx, a, suite, name, c.release.AcquireByHash, file)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.indexes[file.SHA256] = list
	for _, p := range list {
		s.pool[a.base.String()+" "+p.Filename] = poolFile{p.SHA256, p.Name, p.Version, p.Architecture, p.Size}
	}
	return list, nil
}

// indexFile chooses gzip before xz: the larger download costs less than the
// slower decoding.
func indexFile(r *Release, component, arch string) (string, debian.File, error) {
	for _, ext := range []string{".gz", ".xz", ""} {
		name := component + "/binary-" + arch + "/Packages" + ext
		if f, ok := r.Files[name]; ok {
			return name, f, nil
		}
	}
	return "", debian.File{}, fmt.Errorf("no index of component %s for %s", component, arch)
}

func (s *Set) readIndex(ctx context.Context, a archive, suite, name string, byHash bool, file debian.File) ([]debian.Package, error) {
	w := s.debianWant(a.upstream, "dists/"+suite+"/"+name)
	w.sha256, w.size = artifact.Digest("sha256:"+file.SHA256), file.Size
	plain := w
	if byHash {
		w.rel = "dists/" + suite + "/" + path.Dir(name) + "/by-hash/SHA256/" + file.SHA256
	}
	blob, err := s.get(ctx, w)
	if byHash && errors.Is(err, ErrNotFound) {
		blob, err = s.get(ctx, plain)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(blob.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := decompress(name, bufio.NewReaderSize(f, 1<<20))
	var list []debian.Package
	if err == nil {
		list, err = debian.ParsePackages(io.LimitReader(r, documentLimit))
	}
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "reading", Place: blob.Material.URL, Err: err}
	}
	return list, nil
}

func decompress(name string, r io.Reader) (io.Reader, error) {
	switch {
	case strings.HasSuffix(name, ".gz"):
		return gzip.NewReader(r)
	case strings.HasSuffix(name, ".xz"):
		return xz.NewReader(r)
	}
	return r, nil
}

// gunzip decodes a body that was sent compressed.
type gunzip struct {
	body io.ReadCloser
	z    *gzip.Reader
}

// Read implements io.Reader.
func (g *gunzip) Read(p []byte) (int, error) {
	if g.z == nil {
		z, err := gzip.NewReader(g.body)
		if err != nil {
			return 0, err
		}
		g.z = z
	}
	return g.z.Read(p)
}

// Close implements io.Closer.
func (g *gunzip) Close() error { return g.body.Close() }
