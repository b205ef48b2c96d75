package line

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/engine"
)

// labels are what an image says of itself and of what it stands on, and the
// labels of the latter, which would speak of it if they were inherited. refs is
// the engine's spelling of what the Dockerfile builds on.
func (l *Line) labels(img *catalog.Image, v *catalog.Variant, p artifact.Platform, refs map[string]string, bases []baseReady) (own, inherited map[string]string, err error) {
	own = map[string]string{ocispec.AnnotationTitle: img.Name}
	ref, ok, err := img.Parsed.StandsOn(img.Target, img.FromArgs(*v, p))
	if err != nil || !ok {
		return own, nil, err
	}
	for _, b := range bases {
		if !strings.HasSuffix(refs[ref.Ref], "/"+b.Name+"@"+string(b.Digest)) {
			continue
		}
		// The name it has for builds, which no address of a registry is in.
		own[ocispec.AnnotationBaseImageName] = engine.BaseHost + "/" + b.Name
		own[ocispec.AnnotationBaseImageDigest] = string(b.Digest)
		return own, b.Labels, nil
	}
	return own, nil, nil
}
