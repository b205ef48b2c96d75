//go:build linux

package front

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/wholefile"
)

func newSum() hash.Hash { return sha256.New() }

// asTarball makes the image and keeps it as a file of the engine.
func asTarball(ctx context.Context, k *call, c *container) (any, error) {
	variants, attrs, err := exportArgs(ctx, k, c)
	if err != nil {
		return nil, err
	}
	path, err := k.tarball(ctx, variants, attrs)
	if err != nil {
		return nil, err
	}
	kept, err := k.host.file(ctx, path)
	if err != nil {
		return nil, hostFault("keeping an image archive", err)
	}
	f := &file{state: kept.state, path: "/" + baseName(path), platform: c.platform, artifact: artifact{path: path}}
	return f, nil
}

func baseName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// exportContainer makes the image and writes it to the host.
func exportContainer(ctx context.Context, k *call, c *container) (any, error) {
	dest, err := c.expand(k, k.str("path"))
	if err != nil {
		return nil, err
	}
	variants, attrs, err := exportArgs(ctx, k, c)
	if err != nil {
		return nil, err
	}
	path, err := k.tarball(ctx, variants, attrs)
	if err != nil {
		return nil, err
	}
	return k.exportFile(ctx, &file{path: "/image.tar", artifact: artifact{path: path}}, dest, false)
}

// exportArgs are the containers of all platforms and the exporter's attributes.
func exportArgs(ctx context.Context, k *call, c *container) ([]*container, map[string]string, error) {
	more, err := objectArgs[*container](ctx, k, "platformVariants")
	if err != nil {
		return nil, nil, err
	}
	variants := more
	if len(more) == 0 || c.fs.Output() != nil {
		variants = append([]*container{c}, more...)
	}
	seen := map[string]bool{}
	for _, v := range variants {
		p := platforms.Format(v.platform)
		if seen[p] {
			return nil, nil, usage(fmt.Sprintf("%s.%s: %s is there twice", k.typ, k.field, p), "")
		}
		seen[p] = true
	}
	attrs := map[string]string{"oci-mediatypes": "true"}
	switch k.str("mediaTypes") {
	case "", "OCIMediaTypes", "OCI":
	case "DockerMediaTypes", "DOCKER":
		attrs["oci-mediatypes"] = "false"
	default:
		return nil, nil, usage(fmt.Sprintf("%q is not a kind of media types", k.str("mediaTypes")), "")
	}
	names := map[string]string{"Gzip": "gzip", "Zstd": "zstd", "EStarGZ": "estargz", "ESTARGZ": "estargz", "Uncompressed": "uncompressed"}
	if forced := k.str("forcedCompression"); forced != "" {
		name, ok := names[forced]
		if !ok {
			return nil, nil, usage(fmt.Sprintf("%q is not a compression", forced), "")
		}
		attrs["compression"], attrs["force-compression"] = name, "true"
	}
	return variants, attrs, nil
}

// tarball is the path of the image archive of some containers.
func (s *Server) tarball(ctx context.Context, variants []*container, attrs map[string]string) (string, error) {
	parts := []any{"tarball", attrs}
	for _, v := range variants {
		key, err := stateKey(ctx, v.fs, v.platform)
		if err != nil {
			return "", err
		}
		parts = append(parts, key, v.image, v.annotations, v.platform)
	}
	return remembered(ctx, s.memo, keyOf(parts...), func() (string, error) { return s.makeTarball(ctx, variants, attrs) })
}

// makeTarball writes an OCI layout with, of a single image, docker's manifest.json
// beside its index.
func (s *Server) makeTarball(ctx context.Context, variants []*container, attrs map[string]string) (string, error) {
	temp, err := wholefile.Begin(s.scratch(), wholefile.Options{Mode: 0o644, Pattern: "image-*.tar"})
	if err != nil {
		return "", hostFault("exporting an image", err)
	}
	defer temp.Discard()
	// for docker load and podman load; they know no index of several platforms
	kind := client.ExporterDocker
	if len(variants) > 1 {
		kind = client.ExporterOCI
	}
	export := client.ExportEntry{
		Type: kind, Attrs: attrs,
		Output: func(map[string]string) (io.WriteCloser, error) { return keepOpen{temp}, nil },
	}
	err = s.build(ctx, job{exports: []client.ExportEntry{export}}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		return imageResult(ctx, gw, variants)
	})
	if err != nil {
		return "", err
	}
	path, err := s.keepTarball(temp)
	return path, hostFault("exporting an image", err)
}

// keepOpen leaves closing to the owner of the file.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// imageResult is what the exporter exports: one reference and configuration,
// or one for each platform.
func imageResult(ctx context.Context, gw gateway.Client, variants []*container) (*gateway.Result, error) {
	res := gateway.NewResult()
	var list exptypes.Platforms
	for _, c := range variants {
		config, err := c.imageConfig()
		if err != nil {
			return nil, err
		}
		var ref gateway.Reference
		if c.fs.Output() != nil {
			if ref, err = solveState(ctx, gw, c.fs, c.platform); err != nil {
				return nil, err
			}
		}
		id := platforms.Format(c.platform)
		for name, value := range c.annotations {
			var p *ocispecs.Platform
			if len(variants) > 1 {
				p = &c.platform
			}
			res.AddMeta(exptypes.AnnotationManifestKey(p, name), []byte(value))
		}
		if len(variants) == 1 {
			res.SetRef(ref)
			res.AddMeta(exptypes.ExporterImageConfigKey, config)
			return res, nil
		}
		if ref == nil {
			return nil, usage("an image without files cannot be one of several platforms", "")
		}
		res.AddRef(id, ref)
		res.AddMeta(exptypes.ExporterImageConfigKey+"/"+id, config)
		list.Platforms = append(list.Platforms, exptypes.Platform{ID: id, Platform: c.platform})
	}
	dt, err := json.Marshal(list)
	if err != nil {
		return nil, errors.Join(errors.New("describing the platforms"), err)
	}
	res.AddMeta(exptypes.ExporterPlatformsKey, dt)
	return res, nil
}

// imageConfig is the configuration as the exporter wants it: its layers and
// the history of layers it adds are the exporter's business.
func (c *container) imageConfig() ([]byte, error) {
	image := c.image
	image.Platform = c.platform
	dt, err := json.Marshal(image)
	if err != nil {
		return nil, fmt.Errorf("writing the image's configuration: %w", err)
	}
	return dt, nil
}
