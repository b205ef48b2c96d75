//go:build linux

package front

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/wholefile"
)

// containerImageFields are the fields by which images come and go.
func containerImageFields() map[string]field {
	return map[string]field{
		"from":      on("address:s!", containerFrom),
		"import":    on("source:o! tag:s", containerImport),
		"asTarball": on("platformVariants:O forcedCompression:s mediaTypes:s", asTarball),
		"export":    on("path:s! platformVariants:O forcedCompression:s mediaTypes:s expand:b", exportContainer).with(hostPath),
	}
}

var imageRefPattern = regexp.MustCompile(`^([A-Za-z0-9.:\[\]-]+)/([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[a-f0-9]{64})?$`)

var loopbackPattern = regexp.MustCompile(`^(localhost|127(\.[0-9]+){3}|\[::1\])(:[0-9]+)?$`)

// checkRef lets through what a base can be: an image by digest, at the base
// host or on loopback, where a tag will do too. It is given its tag when it
// names neither.
func (s *Server) checkRef(ref string) (string, error) {
	m := imageRefPattern.FindStringSubmatch(ref)
	switch {
	case m != nil && m[1] != s.base && !loopbackPattern.MatchString(m[1]):
		return "", usage(fmt.Sprintf("Container.from: %q: steps and bases come from %s or a loopback registry only", ref, s.base),
			"list the image as a base in the catalog and use its reference")
	case m == nil, m[4] == "" && m[1] == s.base:
		return "", usage(fmt.Sprintf("Container.from: %q is not registry/repository@sha256:…", ref),
			"name the registry, and the image by digest: a tag can move, and is taken from a loopback registry only")
	case m[3] == "" && m[4] == "":
		return ref + ":latest", nil
	}
	return ref, nil
}

// resolved is an image that was found: its reference by digest.
type resolved struct {
	ref    string
	config []byte
}

func containerFrom(ctx context.Context, k *call, c *container) (any, error) {
	ref, err := k.checkRef(k.str("address"))
	if err != nil {
		return nil, err
	}
	found, err := remembered(ctx, k.memo, keyOf("from", ref, c.platform), func() (resolved, error) {
		out := resolved{ref: ref}
		err := k.build(ctx, job{}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
			_, dgst, config, err := gw.ResolveImageConfig(ctx, ref, sourceresolver.Opt{
				ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &c.platform},
			})
			if !strings.Contains(ref, "@") { // as Dagger writes it, without the tag
				out.ref = ref[:strings.LastIndex(ref, ":")] + "@" + dgst.String()
			}
			out.config = config
			return gateway.NewResult(), err
		})
		return out, err
	})
	if err != nil {
		return nil, err
	}
	d := c.clone()
	if err := d.adopt(found.config); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", ref, err)
	}
	d.fs = llb.Image(found.ref, llb.Platform(d.platform), llb.WithCustomName("from "+ref))
	d.imageRef = found.ref
	return d, nil
}

// adopt takes over an image's configuration. As in Dagger, variables, labels
// and ports already set stay unless the image sets them too.
func (c *container) adopt(config []byte) error {
	var image dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &image); err != nil {
		return err
	}
	env := c.image.Config.Env
	for _, pair := range image.Config.Env {
		name, value, _ := strings.Cut(pair, "=")
		env = setEnv(env, name, value)
	}
	for name, value := range c.image.Config.Labels {
		if _, ok := image.Config.Labels[name]; !ok {
			if image.Config.Labels == nil {
				image.Config.Labels = map[string]string{}
			}
			image.Config.Labels[name] = value
		}
	}
	for port := range c.image.Config.ExposedPorts {
		if image.Config.ExposedPorts == nil {
			image.Config.ExposedPorts = map[string]struct{}{}
		}
		image.Config.ExposedPorts[port] = struct{}{}
	}
	image.Config.Env = env
	c.image = image
	if image.OS != "" && image.Architecture != "" {
		c.platform = platforms.Normalize(image.Platform)
	}
	return nil
}

// containerImport reads an image archive, OCI or docker, and picks the image
// for the container's platform.
func containerImport(ctx context.Context, k *call, c *container) (any, error) {
	src, err := objectArg[*file](ctx, k, "source")
	if err != nil {
		return nil, err
	}
	key, err := stateKey(ctx, src.state, src.platform)
	if err != nil {
		return nil, err
	}
	image, err := remembered(ctx, k.memo, keyOf("import", key, src.path, k.str("tag"), c.platform), func() (imported, error) {
		return k.importImage(ctx, src, k.str("tag"), c.platform)
	})
	if err != nil {
		return nil, err
	}
	d := c.clone()
	d.image = dockerspec.DockerOCIImage{}
	if err := d.adopt(image.config); err != nil {
		return nil, fmt.Errorf("reading the imported image's configuration: %w", err)
	}
	d.fs = llb.Scratch()
	if image.layers > 0 {
		d.fs = llb.OCILayout("drydock/import@"+image.digest, llb.OCIStore("", contentStore), llb.WithCustomName("import "+src.base()), llb.Platform(d.platform))
	}
	return d, nil
}

// imported is one image of an archive, its blobs in the content store.
type imported struct {
	digest string
	config []byte
	layers int
}

func (s *Server) importImage(ctx context.Context, src *file, tag string, p ocispecs.Platform) (imported, error) {
	tarball, drop, err := s.onDisk(ctx, src)
	if err != nil {
		return imported{}, err
	}
	defer drop()
	index, err := s.importTar(ctx, tarball)
	if err != nil {
		return imported{}, usage(fmt.Sprintf("Container.import: %s is not an image archive: %v", src.base(), err), "")
	}
	desc, err := pickTag(ctx, s.content, index, tag)
	if err != nil {
		return imported{}, err
	}
	match := platforms.OnlyStrict(p)
	manifest, err := images.Manifest(ctx, s.content, desc, match)
	if err != nil {
		return imported{}, usage(fmt.Sprintf("Container.import: %s has no image for %s: %v", src.base(), platforms.Format(p), err), "")
	}
	config, err := content.ReadBlob(ctx, s.content, manifest.Config)
	if err != nil {
		return imported{}, fmt.Errorf("reading the imported image's configuration: %w", err)
	}
	digest, err := manifestDigest(ctx, s.content, desc, match)
	return imported{digest: digest, config: config, layers: len(manifest.Layers)}, err
}

// onDisk is a path at which a file's bytes can be read, and what removes it.
func (s *Server) onDisk(ctx context.Context, f *file) (string, func(), error) {
	in, err := f.artifact.open()
	if err != nil {
		return "", nil, hostFault("importing an image", err)
	}
	if in != nil {
		return f.artifact.path, func() { _ = in.Close() }, nil
	}
	temp, err := os.CreateTemp(s.scratch(), "import-*.tar")
	if err != nil {
		return "", nil, hostFault("importing an image", err)
	}
	drop := func() { _ = os.Remove(temp.Name()) }
	if err := errors.Join(s.copyOut(ctx, f, temp), temp.Close()); err != nil {
		drop()
		return "", nil, err
	}
	return temp.Name(), drop, nil
}

func (s *Server) importTar(ctx context.Context, path string) (ocispecs.Descriptor, error) {
	f, err := os.Open(path)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	defer f.Close()
	return archive.ImportIndex(ctx, s.content, f)
}

// pickTag picks one entry of the archive's index by the name it has there.
// Without a tag the platform decides among all of them.
func pickTag(ctx context.Context, store content.Provider, desc ocispecs.Descriptor, tag string) (ocispecs.Descriptor, error) {
	if tag == "" || !images.IsIndexType(desc.MediaType) {
		return desc, nil
	}
	dt, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		return desc, err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(dt, &index); err != nil {
		return desc, err
	}
	for _, m := range index.Manifests {
		for _, name := range []string{m.Annotations[ocispecs.AnnotationRefName], m.Annotations[images.AnnotationImageName]} {
			if name == tag || strings.HasSuffix(name, ":"+tag) {
				return m, nil
			}
		}
	}
	return desc, usage(fmt.Sprintf("Container.import: the archive has no tag %q", tag), "")
}

// manifestDigest is the digest of the manifest that images.Manifest reads.
func manifestDigest(ctx context.Context, store content.Provider, desc ocispecs.Descriptor, match platforms.MatchComparer) (string, error) {
	if images.IsManifestType(desc.MediaType) {
		return string(desc.Digest), nil
	}
	found := ""
	walk := images.HandlerFunc(func(ctx context.Context, d ocispecs.Descriptor) ([]ocispecs.Descriptor, error) {
		if images.IsManifestType(d.MediaType) {
			if found == "" {
				found = string(d.Digest)
			}
			return nil, images.ErrSkipDesc
		}
		return images.Children(ctx, store, d)
	})
	handler := images.LimitManifests(images.FilterPlatforms(walk, match), match, 1)
	if err := images.Walk(ctx, handler, desc); err != nil {
		return "", fmt.Errorf("finding the imported image's manifest: %w", err)
	}
	if found == "" {
		return "", errors.New("finding the imported image's manifest: there is none for the platform")
	}
	return found, nil
}

// keepTarball puts an archive under the digest of its bytes.
func (s *Server) keepTarball(temp *wholefile.File) (string, error) {
	if _, err := temp.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	sum := newSum()
	if _, err := io.Copy(sum, temp); err != nil {
		return "", err
	}
	path := filepath.Join(s.tarballs(), fmt.Sprintf("%x.tar", sum.Sum(nil)))
	return path, temp.Commit(path)
}
