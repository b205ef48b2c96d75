package line

import (
	"runtime"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/base"
	"drydock/modules/engine"
	"drydock/pipeline/results"
)

// reader is what reads a Dockerfile in place of the built-in frontend, made
// ready; the zero value is the built-in one.
type reader struct {
	spelling  string // as the engine is told it
	materials []artifact.Material
}

// reader makes the frontend of an image ready that names one of its own, once
// however many builds it reads for.
func (l *Line) reader(e *engine.Engine, img *catalog.Image) (reader, error) {
	f := img.Frontend
	if f == nil {
		return reader{}, nil
	}
	if e.Kind != engine.KindEmbedded {
		_, place := img.Parsed.Frontend()
		return reader{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "building", Place: place,
			Message: "the " + e.Kind + " engine reads Dockerfiles with its own frontend only, not with " + f.Syntax,
			Remedy:  "build with the embedded engine, or remove the syntax directive",
		}
	}
	l.mu.Lock()
	s, ok := l.readers[f.Image]
	if !ok {
		s = share(func() (reader, error) { return l.makeReader(e, f) })
		l.readers[f.Image] = s
	}
	l.mu.Unlock()
	return s.get()
}

// makeReader fetches a frontend's image, as that of a base, and puts it among
// them. Its manifest for this machine's platform follows from the digest in the
// catalog, which is all the lock it has.
func (l *Line) makeReader(e *engine.Engine, f *catalog.Frontend) (reader, error) {
	fail := func(err error) (reader, error) {
		return reader{}, &artifact.Error{
			Kind: kindOf(err), Op: "fetching the frontend " + f.Syntax, Place: f.Place, Err: err,
			Remedy: "see that the oci mirror answers and has " + f.Image,
		}
	}
	set, err := l.mirrors.get()
	if err != nil {
		return reader{}, err
	}
	spec := base.Spec{
		Name: engine.FrontendFolder + f.Repository(), Kind: base.KindOCI, Image: f.Image, Place: f.Place,
		Platforms: []artifact.Platform{{OS: "linux", Architecture: runtime.GOARCH}},
	}
	lock, err := base.Resolve(l.ctx, set, spec)
	if err != nil {
		return fail(err)
	}
	builder := l.builder()
	builder.Locked = false // it is: by the digest in the catalog
	res, err := builder.Build(l.ctx, spec, lock)
	if err != nil {
		return fail(err)
	}
	bases, err := l.basesReg.get()
	if err != nil {
		return reader{}, err
	}
	repo, err := bases.client.Repo(bases.where, spec.Name)
	if err != nil {
		return reader{}, err
	}
	if _, err := repo.PushLayout(l.ctx, res.Layout, res.Digest); err != nil {
		return reader{}, err
	}
	return reader{spelling: e.ImageRef(spec.Name, res.Digest), materials: res.Materials}, nil
}

// addFrontend makes what reads an image's Dockerfile part of what its result
// follows from.
func addFrontend(k *results.Key, img *catalog.Image) {
	if img.Frontend != nil {
		k.Text("frontend", img.Frontend.Image)
	}
}
