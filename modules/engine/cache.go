package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/registry"
	"drydock/modules/wholefile"
)

// Cache is a place beyond this machine that results of builds are imported from
// or exported to, as an OCI layout or a tag in a registry.
type Cache struct {
	Dir      string // a directory, or
	Registry string // a repository with a tag: registry.example/team/cache:main
}

// String is how a user wrote it.
func (c Cache) String() string {
	if c.Dir != "" {
		return c.Dir
	}
	return c.Registry
}

// StepRecords is what is known of steps besides their results, and goes with
// them: what they fetched.
type StepRecords interface {
	ExportSteps(steps []string) ([]byte, error)
	ImportSteps(b []byte) error
}

// What the index of a cache says its manifests are.
const (
	cacheAnnotation = "internal.drydock.cache"
	cacheResults    = "results"
	cacheSteps      = "steps"
	stepsMediaType  = "application/vnd.drydock.steps.v1+json"
	indexMediaType  = "application/vnd.oci.image.index.v1+json"
	imageMediaType  = "application/vnd.oci.image.manifest.v1+json"
	emptyMediaType  = "application/vnd.oci.empty.v1+json"
	maxCacheIndex   = 4 << 20 // of an index, manifest or configuration; registries take no larger manifest
	maxCacheSteps   = 64 << 20
)

// descriptor is an OCI descriptor.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      artifact.Digest   `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type cacheIndex struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// find is the manifest of a kind.
func (i cacheIndex) find(kind string) (descriptor, bool) {
	for _, m := range i.Manifests {
		if _, err := artifact.ParseDigest(string(m.Digest)); err == nil && m.Annotations[cacheAnnotation] == kind {
			return m, true
		}
	}
	return descriptor{}, false
}

// cacheSource is a cache that is read.
type cacheSource struct {
	name   string
	layout string         // a directory, or
	repo   *registry.Repo // a repository
	index  cacheIndex
	free   int64 // must stay free where blobs go, in bytes; 0 is the default
}

// errNoCache: nothing was exported there yet.
var errNoCache = errors.New("there is no cache yet")

// openCache reads a cache's index.
func openCache(ctx context.Context, c Cache, client *registry.Client) (*cacheSource, error) {
	s := &cacheSource{name: c.String()}
	var raw []byte
	var err error
	if c.Dir != "" {
		s.layout = c.Dir
		raw, err = readLimited(filepath.Join(s.layout, "index.json"), maxCacheIndex)
		if errors.Is(err, fs.ErrNotExist) { // the moment between two renames
			s.layout = oldCache(c.Dir)
			raw, err = readLimited(filepath.Join(s.layout, "index.json"), maxCacheIndex)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errNoCache
		}
	} else {
		raw, err = s.openRegistry(ctx, c, client)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &s.index); err != nil {
		return nil, fmt.Errorf("its index is damaged: %w", err)
	}
	if _, ok := s.index.find(cacheResults); !ok {
		return nil, errors.New("its index names no results")
	}
	return s, nil
}

func (s *cacheSource) openRegistry(ctx context.Context, c Cache, client *registry.Client) ([]byte, error) {
	repo, tag, err := cacheRepo(c, client)
	if err != nil {
		return nil, err
	}
	s.repo = repo
	d, err := repo.Resolve(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, errNoCache
	}
	if err != nil {
		return nil, err
	}
	return repo.RawManifest(ctx, d, maxCacheIndex)
}

// cacheRepo opens the repository of a reference and gives its tag.
func cacheRepo(c Cache, client *registry.Client) (*registry.Repo, string, error) {
	if client == nil {
		return nil, "", errors.New("no registries are configured")
	}
	name, tag := c.Registry, "latest"
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name, tag = name[:i], name[i+1:]
	}
	base, path, ok := strings.Cut(name, "/")
	if !ok || tag == "" {
		return nil, "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "opening the cache", Place: c.Registry, Message: "not a reference",
			Remedy: "write it as registry.example/team/cache:tag",
		}
	}
	repo, err := client.Repo(registry.Location{Name: "cache", Base: base}, path)
	return repo, tag, err
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, _, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

func blobPath(layout string, d artifact.Digest) string {
	return filepath.Join(layout, "blobs", "sha256", d.Hex())
}

// openFile opens a file of a cache: what is none might never answer.
func openFile(path string) (*os.File, fs.FileInfo, error) {
	fi, err := os.Stat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(path)
	return f, fi, err
}

// blob gives a file that holds a blob, verified; downloads is where those of a
// registry go. One that has another size than was said is refused, so that who
// was told the size knows what it takes.
func (s *cacheSource) blob(ctx context.Context, d descriptor, downloads string) (string, error) {
	if _, err := artifact.ParseDigest(string(d.Digest)); err != nil {
		return "", err
	}
	if s.repo == nil {
		path := blobPath(s.layout, d.Digest)
		return path, verifyFile(path, d)
	}
	path := filepath.Join(downloads, d.Digest.Hex())
	if verifyFile(path, d) == nil {
		return path, nil
	}
	if room := roomIn(downloads, s.free); d.Size > room {
		return "", fmt.Errorf("blob %s has %d bytes, and limit free-disk leaves %d where it would be kept (%s)", d.Digest, d.Size, room, downloads)
	}
	f, err := wholefile.Begin(downloads, wholefile.Options{})
	if err != nil {
		return "", err
	}
	defer f.Discard()
	if m, ok := s.index.find(cacheResults); ok && m.Digest == d.Digest {
		var raw []byte
		if raw, err = s.repo.RawManifest(ctx, d.Digest, maxCacheIndex); err == nil {
			_, err = f.Write(raw)
		}
	} else {
		err = s.repo.CopyBlob(ctx, d.Digest, &atMost{w: f, left: d.Size, of: d})
	}
	if err == nil {
		err = verifyFile(f.Name(), d)
	}
	if err != nil {
		return "", err
	}
	return path, f.Commit(path)
}

// atMost writes what is no larger than it says.
type atMost struct {
	w    io.Writer
	left int64
	of   descriptor
}

// Write fails before it writes too much.
func (a *atMost) Write(b []byte) (int, error) {
	if a.left -= int64(len(b)); a.left < 0 {
		return 0, a.of.sizeError("more")
	}
	return a.w.Write(b)
}

func (d descriptor) sizeError(has any) error {
	return fmt.Errorf("blob %s has %v bytes, its cache says %d", d.Digest, has, d.Size)
}

// verifyFile checks that a file is what its digest says.
func verifyFile(path string, d descriptor) error {
	f, fi, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s is missing", d.Digest)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if fi.Size() != d.Size {
		return d.sizeError(fi.Size())
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("reading blob %s: %w", d.Digest, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.Digest.Hex() {
		return fmt.Errorf("blob %s is damaged: its bytes have digest sha256:%s", d.Digest, got)
	}
	return nil
}

// small reads a blob that is to be taken into memory.
func (s *cacheSource) small(ctx context.Context, what string, d descriptor, limit int64, downloads string) ([]byte, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("its %s (%s) has %d bytes: more than %d are not read", what, d.Digest, d.Size, limit)
	}
	path, err := s.blob(ctx, d, downloads)
	if err != nil {
		return nil, err
	}
	return readLimited(path, limit)
}

// steps reads what is known of the steps; nil when the cache says nothing.
func (s *cacheSource) steps(ctx context.Context, downloads string) ([]byte, error) {
	desc, ok := s.index.find(cacheSteps)
	if !ok {
		return nil, nil
	}
	var raw []byte
	var err error
	if s.repo != nil {
		raw, err = s.repo.RawManifest(ctx, desc.Digest, maxCacheIndex)
	} else {
		raw, err = s.small(ctx, "manifest of steps", desc, maxCacheIndex, downloads)
	}
	if err != nil {
		return nil, err
	}
	var m struct{ Layers []descriptor }
	if err := json.Unmarshal(raw, &m); err != nil || len(m.Layers) != 1 {
		return nil, fmt.Errorf("its record of steps is damaged (%d layers): %w", len(m.Layers), err)
	}
	return s.small(ctx, "record of steps", m.Layers[0], maxCacheSteps, downloads)
}

// finishLayout makes an OCI layout of the blobs that the engine exported, adds
// what is known of the steps and returns the index's digest.
func finishLayout(dir string, results descriptor, steps []byte) (artifact.Digest, error) {
	results.Annotations = map[string]string{cacheAnnotation: cacheResults}
	index := cacheIndex{SchemaVersion: 2, MediaType: indexMediaType, Manifests: []descriptor{results}}
	if steps != nil {
		empty, err := putBlob(dir, []byte("{}"), emptyMediaType)
		if err != nil {
			return "", err
		}
		layer, err := putBlob(dir, steps, stepsMediaType)
		if err != nil {
			return "", err
		}
		m, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": imageMediaType, "artifactType": stepsMediaType,
			"config": empty, "layers": []descriptor{layer},
		})
		if err != nil {
			return "", err
		}
		desc, err := putBlob(dir, m, imageMediaType)
		if err != nil {
			return "", err
		}
		desc.Annotations = map[string]string{cacheAnnotation: cacheSteps}
		index.Manifests = append(index.Manifests, desc)
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return "", err
	}
	desc, err := putBlob(dir, b, indexMediaType) // as a blob too: it is pushed by digest
	if err != nil {
		return "", err
	}
	return desc.Digest, errors.Join(
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(filepath.Join(dir, "index.json"), b, 0o644),
	)
}

func putBlob(dir string, b []byte, mediaType string) (descriptor, error) {
	sum := sha256.Sum256(b)
	d := artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
	path := blobPath(dir, d)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return descriptor{}, err
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, b) {
		err = os.WriteFile(path, b, 0o644)
	}
	return descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, err
}

// oldCache is where a directory's former contents are while it is replaced.
func oldCache(dir string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".old")
}

// replaceCache puts a finished layout in the place of a directory. A reader, and
// a kill at any moment, find the old one or the new one.
func replaceCache(from, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	if err := errors.Join(os.Chmod(fresh, 0o755), linkTree(from, fresh)); err != nil {
		return err
	}
	old := oldCache(dir)
	if _, err := os.Lstat(dir); err == nil {
		if err := errors.Join(os.RemoveAll(old), os.Rename(dir, old)); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// linkTree makes a copy of a tree, of links where the file system has them.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case rel == "ingest": // of the content store, empty
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case os.Link(path, target) == nil:
			return nil
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}
