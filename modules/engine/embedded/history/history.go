// Package history reads out of a Dockerfile what the frontend would write into
// the history of its image, for engines that tell none.
package history

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/artifact"
)

// Source is a Dockerfile and what it is built with.
type Source struct {
	Dockerfile []byte // every FROM an image by digest in a registry on loopback
	Target     string // stage; "" is the last
	Args       map[string]string
	Platform   artifact.Platform
	Epoch      int64 // seconds
}

// Entry is one of the history (OCI image-spec, config.md).
type Entry struct {
	CreatedBy, Author, Comment string
	EmptyLayer                 bool
}

// Read gives the entries of the base, if it has any, and those of the Dockerfile.
func Read(ctx context.Context, s Source) ([]Entry, error) {
	platform := ocispecs.Platform{OS: s.Platform.OS, Architecture: s.Platform.Architecture, Variant: s.Platform.Variant}
	args := maps.Clone(s.Args)
	if args == nil {
		args = map[string]string{}
	}
	args["SOURCE_DATE_EPOCH"] = strconv.FormatInt(s.Epoch, 10)
	here := llb.Scratch()
	res, err := dockerfile2llb.Dockerfile2LLB(ctx, s.Dockerfile, dockerfile2llb.ConvertOpt{
		Config:      dockerui.Config{BuildArgs: args, Target: s.Target},
		MainContext: &here, TargetPlatform: &platform, MetaResolver: configs{&platform},
	})
	if err != nil {
		return nil, fmt.Errorf("reading the history of an image: %w", err)
	}
	out := []Entry{}
	for _, h := range res.Image.History {
		out = append(out, Entry{CreatedBy: h.CreatedBy, Author: h.Author, Comment: h.Comment, EmptyLayer: h.EmptyLayer})
	}
	return out, nil
}

// configs finds configurations of images by digest, which lie on loopback.
type configs struct{ platform *ocispecs.Platform }

// ResolveImageConfig implements sourceresolver.ImageMetaResolver.
func (c configs) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	p := c.platform
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		p = opt.ImageOpt.Platform
	}
	named, err := name.NewDigest(ref)
	if err != nil {
		return "", "", nil, err
	}
	img, err := remote.Image(named, remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}))
	if err != nil {
		return "", "", nil, err
	}
	raw, err := img.RawConfigFile()
	return ref, digest.Digest(named.DigestStr()), raw, err
}
