package catalogref

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/registry"
)

// fromOCI gives the files of an artifact whose layers are tar archives, as
// crane append and oras push make it. Manifest and layers are kept and held to
// their digests.
func fromOCI(ctx context.Context, r Ref, o Options) (map[string][]byte, error) {
	s := &ociSource{ref: r, options: o, dir: filepath.Join(o.Cache, "catalogs", "oci")}
	raw, err := s.blob(ctx, r.Digest, func(repo *registry.Repo) ([]byte, error) {
		m, err := repo.Manifest(ctx, r.Digest)
		if err != nil {
			return nil, err
		}
		return m.Raw, nil
	})
	if err != nil {
		return nil, err
	}
	var m struct {
		Layers []struct {
			MediaType string          `json:"mediaType"`
			Digest    artifact.Digest `json:"digest"`
		} `json:"layers"`
	}
	bad := func(message string) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "fetching catalog", Place: r.String(), Message: message,
			Remedy: "push the catalog's files as one tar archive: tar -C catalog -cf catalog.tar . && crane append --oci-empty-base -f catalog.tar -t REPOSITORY:TAG",
		}
	}
	if json.Unmarshal(raw, &m) != nil || len(m.Layers) == 0 {
		return nil, bad("it is no artifact with layers")
	}
	files := map[string][]byte{}
	for _, l := range m.Layers {
		if _, err := artifact.ParseDigest(string(l.Digest)); err != nil || !strings.Contains(l.MediaType, "tar") {
			return nil, bad("layer " + string(l.Digest) + " is " + l.MediaType + ", no tar archive")
		}
		data, err := s.blob(ctx, l.Digest, func(repo *registry.Repo) ([]byte, error) { return repo.Blob(ctx, l.Digest, maxBytes) })
		if err != nil {
			return nil, err
		}
		if err := unpack(r, data, files); err != nil {
			return nil, err
		}
	}
	return files, nil
}

type ociSource struct {
	ref     Ref
	options Options
	dir     string
	repo    *registry.Repo
}

// blob is bytes of that digest, from the cache or from the registry.
func (s *ociSource) blob(ctx context.Context, d artifact.Digest, fetch func(*registry.Repo) ([]byte, error)) ([]byte, error) {
	file := filepath.Join(s.dir, d.Hex())
	if raw, err := os.ReadFile(file); err == nil && digestOf(raw) == d {
		return raw, nil
	}
	if s.options.Offline {
		return nil, offline(s.ref)
	}
	if s.repo == nil {
		client, err := registry.NewClient(registry.Options{Environ: s.options.Environ})
		if err != nil {
			return nil, err
		}
		base, name := path.Split(s.ref.OCI)
		if s.repo, err = client.Repo(registry.Location{Name: "catalog", Base: strings.TrimSuffix(base, "/")}, name); err != nil {
			return nil, err
		}
	}
	raw, err := fetch(s.repo)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if digestOf(raw) != d {
		return nil, fault(s.ref, "the registry's answer has not the digest "+string(d), "ask whoever runs the registry", nil)
	}
	if err := keep(file, raw); err != nil {
		return nil, fault(s.ref, "", "give a cache that can be written (--cache)", err)
	}
	return raw, nil
}

func digestOf(raw []byte) artifact.Digest {
	sum := sha256.Sum256(raw)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// unpack adds the files of a tar archive, which may be gzipped.
func unpack(r Ref, data []byte, files map[string][]byte) error {
	in := io.Reader(bytes.NewReader(data))
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fault(r, "a layer is no gzip", "push the catalog anew", err)
		}
		in = z
	}
	total := 0
	for _, f := range files {
		total += len(f)
	}
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault(r, "a layer is no tar archive", "push the catalog anew", err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		switch {
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg || name == ".." || strings.HasPrefix(name, "../") || strings.Contains(name, "\\"):
			return &artifact.Error{Kind: artifact.KindUsage, Op: "fetching catalog", Place: path.Join(r.String(), name), Message: "neither a file nor a folder of a catalog", Remedy: "keep links and special files out"}
		}
		text, err := io.ReadAll(io.LimitReader(tr, maxBytes+1))
		if err != nil {
			return fault(r, "a layer is cut off", "push the catalog anew", err)
		}
		if total += len(text); total > maxBytes || len(files) >= maxFiles {
			return tooLarge(r)
		}
		files[name] = text
	}
}
