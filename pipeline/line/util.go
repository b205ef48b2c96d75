package line

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"drydock/modules/artifact"
)

func hash(d artifact.Digest) (v1.Hash, error) {
	h, err := v1.NewHash(string(d))
	if err != nil {
		return h, fmt.Errorf("reading digest %q: %w", d, err)
	}
	return h, nil
}

// configLayers are the diff ids in the configuration a manifest names.
func configLayers(path layout.Path, manifest []byte) ([]artifact.Digest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, err
	}
	raw, err := path.Bytes(m.Config.Digest)
	if err != nil {
		return nil, err
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	var out []artifact.Digest
	for _, id := range c.RootFS.DiffIDs {
		out = append(out, artifact.Digest(id.String()))
	}
	return out, nil
}

func readFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "reading", Place: path, Err: err}
	}
	return b, nil
}

func removeFile(path string) { _ = os.Remove(path) } // a leftover in the cache does no harm

func sortedDigests[T any](m map[artifact.Digest]T) []artifact.Digest {
	return slices.Sorted(maps.Keys(m))
}

func sortedIDs[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// copyTree puts a copy of the layout at from to where to is, in its place.
func copyTree(from, to string) error {
	parent := filepath.Dir(to)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	whole := filepath.Join(tmp, "tree")
	if err := os.CopyFS(whole, os.DirFS(from)); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.Rename(whole, to)
}
