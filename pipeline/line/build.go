package line

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/base"
	"drydock/modules/engine"
	"drydock/modules/image"
	"drydock/modules/mirror"
	"drydock/modules/mirror/lockfile"
	"drydock/modules/provenance"
	"drydock/modules/sign"
	"drydock/pipeline/plan"
	"drydock/pipeline/results"
	"drydock/pipeline/run"
)

// baseReady is a base the engine can pull.
type baseReady struct {
	Name      string
	Digest    artifact.Digest
	Epoch     int64
	Labels    map[string]string // what it says of itself; what is built on it would inherit them
	Layers    []artifact.Digest // diff ids, all platforms
	Materials []artifact.Material
	Lock      artifact.Digest // of what it was built from, "" where that is no lock
}

// baseSpec is what modules/base knows of a base of the catalog.
func baseSpec(b catalog.Base) (base.Spec, error) {
	trust, err := baseTrust(b)
	return base.Spec{
		Name: b.Name, Kind: b.Kind, Variant: b.Variant, Suite: b.Suite, Packages: b.Packages, Go: b.Go, Node: b.Node,
		Image: b.Image, User: b.User, Platforms: b.Platforms, Env: b.Env, Place: b.Place,
		Trust: trust,
	}, err
}

// baseTrust is whose signatures a base must carry; nil where it need not.
func baseTrust(b catalog.Base) (*base.Trust, error) {
	if b.Verify == nil {
		return nil, nil
	}
	t := &base.Trust{Threshold: b.Verify.Threshold}
	if b.Verify.Expires != nil {
		t.Expires = b.Verify.Expires.Time
	}
	var keys []sign.Key
	for _, f := range b.Verify.Files {
		k, err := sign.ParseKey(f.PEM, f.Place)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
		t.Signers = append(t.Signers, k.ID)
	}
	var root *sign.TrustedRoot
	var who []sign.Identity
	if len(b.Verify.Identities) > 0 {
		var err error
		if root, err = sign.ParseTrustedRoot(b.Verify.Root.PEM, b.Verify.Root.Place); err != nil {
			return nil, err
		}
	}
	for _, i := range b.Verify.Identities {
		one := sign.Identity{Subject: i.Subject, Issuer: i.Issuer}
		who = append(who, one)
		t.Signers = append(t.Signers, root.ID(one))
	}
	t.Check = func(ctx context.Context, s base.Signature, image artifact.Digest) (string, error) {
		if s.Certificate != "" && root != nil {
			return root.SignedBy(ctx, sign.Detached(s), image, who)
		}
		return sign.Signed(ctx, s.Text, s.Signature, image, keys)
	}
	return t, nil
}

// base makes a base ready, once however many nodes want it.
func (l *Line) base(_ context.Context, n plan.Node, _ run.Inputs) (any, error) {
	l.mu.Lock()
	s, ok := l.bases[n.Base]
	if !ok {
		s = share(func() (baseReady, error) { return l.makeBase(l.ctx, n.Base) })
		l.bases[n.Base] = s
	}
	l.mu.Unlock()
	return s.get()
}

func (l *Line) makeBase(ctx context.Context, name string) (baseReady, error) {
	b, ok := l.cfg.Catalog.Base(name)
	if !ok {
		return baseReady{}, &artifact.Error{Kind: artifact.KindUsage, Op: "resolving base", Place: name, Message: "not in the catalog"}
	}
	lock, err := l.lockOf(*b)
	if err != nil {
		return baseReady{}, err
	}
	if _, err := l.mirrors.get(); err != nil {
		return baseReady{}, err
	}
	if lock == nil {
		if lock, err = l.lockAnew(ctx, *b); err != nil {
			return baseReady{}, err
		}
	}
	spec, err := baseSpec(*b)
	if err != nil {
		return baseReady{}, err
	}
	res, err := l.builder().Build(ctx, spec, lock)
	if err != nil {
		return baseReady{}, err
	}
	if len(res.Changed) > 0 {
		if err := l.recordDrift(*b, res); err != nil {
			return baseReady{}, err
		}
	}
	bases, err := l.basesReg.get()
	if err != nil {
		return baseReady{}, err
	}
	repo, err := bases.client.Repo(bases.where, name)
	if err != nil {
		return baseReady{}, err
	}
	if _, err := repo.PushLayout(ctx, res.Layout, res.Digest); err != nil {
		return baseReady{}, err
	}
	layers, err := diffIDs(res.Layout, res.Platforms)
	if err != nil {
		return baseReady{}, err
	}
	raw, err := res.Lock.Marshal()
	if err != nil {
		return baseReady{}, err
	}
	sum, err := results.NewContent(raw)
	return baseReady{
		Name: name, Digest: res.Digest, Epoch: res.Lock.Epoch, Labels: base.Labels(res.Lock), Layers: layers, Materials: res.Materials, Lock: sum,
	}, err
}

// lockOf reads a base's committed lock, or gives the one it is being moved to;
// nil when there is none yet.
func (l *Line) lockOf(b catalog.Base) (*base.Lock, error) {
	l.mu.Lock()
	moved := l.moved[b.Name]
	l.mu.Unlock()
	if moved != nil {
		return moved, nil
	}
	path := filepath.Join(l.cfg.CatalogDir, b.LockPath)
	lock, err := base.LoadLock(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return lock, err
}

func (l *Line) lockAnew(ctx context.Context, b catalog.Base) (*base.Lock, error) {
	if l.cfg.Locked {
		return nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "resolving base", Place: b.Place, Message: b.Name + " has no lock and --locked forbids to make one",
			Remedy: "run drydock base update " + b.Name + " and commit " + b.LockPath,
		}
	}
	set, err := l.mirrors.get()
	if err != nil {
		return nil, err
	}
	l.driftNote(b.Name, "base %s has no lock: resolved to the newest packages (commit one with drydock base update %s)", b.Name, b.Name)
	spec, err := baseSpec(b)
	if err != nil {
		return nil, err
	}
	return base.Resolve(ctx, set, spec)
}

// recordDrift tells that a locked base could not be had, and writes the lock
// of what was built in its place to out/.
func (l *Line) recordDrift(b catalog.Base, res *base.Result) error {
	raw, err := res.Lock.Marshal()
	if err != nil {
		return err
	}
	path := filepath.Join(l.cfg.Out, "locks", b.Name+".json")
	if err := results.WriteFile(path, raw); err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "writing lock", Place: path, Err: err, Remedy: "give a folder that can be written with --out"}
	}
	for _, c := range res.Changed {
		l.driftNote(b.Name, "base %s: %s", b.Name, c)
	}
	l.driftNote(b.Name, "base %s was resolved anew, its lock could not be served: see %s, and commit it with drydock base update %s", b.Name, path, b.Name)
	l.mu.Lock()
	l.drifts[b.Name].Lock = raw
	l.mu.Unlock()
	return nil
}

// diffIDs lists the layers of every platform of a layout.
func diffIDs(dir string, platforms map[string]artifact.Digest) ([]artifact.Digest, error) {
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("reading image layout: %w", err)
	}
	var out []artifact.Digest
	for p, d := range platforms {
		h, err := hash(d)
		if err != nil {
			return nil, err
		}
		raw, err := path.Bytes(h)
		if err != nil {
			return nil, fmt.Errorf("reading manifest of %s: %w", p, err)
		}
		ids, err := configLayers(path, raw)
		if err != nil {
			return nil, fmt.Errorf("reading config of %s: %w", p, err)
		}
		out = append(out, ids...)
	}
	return out, nil
}

// builtImage is one platform of an image, built and normalized.
type builtImage struct {
	*image.Built
	Variant   *catalog.Variant
	Platform  artifact.Platform
	Image     string // name
	Name      string // of the build, for its materials
	Epoch     int64
	Bases     []baseReady
	Materials []artifact.Material
	Emulators []artifact.Material // what its steps ran in, part of Materials too
	Absent    []lockfile.Absent
	Complete  bool             // Materials is all the build fetched
	Sealed    bool             // its steps had no network, on an engine that gives them one
	Contacts  []mirror.Contact // hosts that are no mirrors, of an observed build
	Lock      provenance.File  // the lock its steps were held to
}

// standOn takes the epoch of the bases and gives their layers.
func (b *builtImage) standOn() []artifact.Digest {
	var layers []artifact.Digest
	for _, r := range b.Bases {
		b.Epoch = max(b.Epoch, r.Epoch)
		layers = append(layers, r.Layers...)
	}
	return layers
}

// named puts the user's own Dockerfile and its line into an error of its build:
// the engine knows the file under another name.
func (l *Line) named(err error, img *catalog.Image, under *underLock) error {
	e := &artifact.Error{Kind: kindOf(err), Op: "building", Place: img.Parsed.Name, Err: err}
	var told interface{ Extensions() map[string]any }
	var inner *artifact.Error
	if !errors.As(err, &told) || !errors.As(err, &inner) || inner.Err == nil {
		return e
	}
	place, _ := told.Extensions()["place"].(string)
	_, line, ok := strings.Cut(place, ":")
	if !ok {
		return fetching(e, img)
	}
	text := strings.Replace(inner.Err.Error(), place+": ", "", 1)
	e.Place += ":" + line
	e.Err = errors.New(text)
	e.Remedy = "mend the Dockerfile at that line"
	_, ran := told.Extensions()["exitCode"]
	switch {
	case lockRefusal(e, text, under):
	case strings.Contains(text, "by rule egress/"):
		e.Kind, e.Remedy = artifact.KindUsage, "take it from a mirror, or make it part of the build context"
	case strings.Contains(text, "by rule "+mirror.RuleChecksum):
		e.Kind, e.Remedy = artifact.KindUsage, "add its sha256 under files: in mirrors.yaml, or make a lock with drydock mirror lock and build with --locked"
	case ran: // the step itself failed, which may pass: a mirror that was busy
		e.Remedy = "see the step's output; run again if a mirror was at fault, else mend the Dockerfile at that line"
	default:
		e.Kind = artifact.KindUsage
	}
	return e
}

func kindOf(err error) artifact.Kind {
	var e *artifact.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return artifact.KindFault
}

// references gives the engine's spelling of everything the Dockerfile builds on.
func (l *Line) references(ctx context.Context, e *engine.Engine, v *catalog.Variant, in run.Inputs) (map[string]string, []baseReady, error) {
	refs := map[string]string{}
	var bases []baseReady
	ready := map[string]baseReady{}
	for _, b := range run.All[baseReady](in) {
		ready[b.Name] = b
	}
	pushes := map[string]*pushedImage{}
	for _, p := range run.All[*pushedImage](in) {
		pushes[p.ID] = p
	}
	for _, r := range v.Refs {
		if r.Base != "" {
			b, ok := ready[r.Base]
			if !ok {
				return nil, nil, fmt.Errorf("the plan does not make base %q ready", r.Base)
			}
			bases = append(bases, b)
			refs[r.Spelling] = e.ImageRef(r.Base, b.Digest)
			continue
		}
		p, ok := pushes[plan.Image{Image: r.Image, Variant: r.Variant}.ID()]
		if !ok {
			return nil, nil, fmt.Errorf("the plan does not build %q before its user", r.Spelling)
		}
		b, err := l.offer(ctx, p)
		if err != nil {
			return nil, nil, err
		}
		bases = append(bases, b)
		refs[r.Spelling] = e.ImageRef(b.Name, b.Digest)
	}
	return refs, bases, nil
}

// offeredPrefix is what images offered as bases are called among them.
const offeredPrefix = "images/"

// offer puts an image of the catalog among the bases, for images that build on it.
func (l *Line) offer(ctx context.Context, p *pushedImage) (baseReady, error) {
	bases, err := l.basesReg.get()
	if err != nil {
		return baseReady{}, err
	}
	name := offeredPrefix + p.Image
	repo, err := bases.client.Repo(bases.where, name)
	if err != nil {
		return baseReady{}, err
	}
	if _, err := repo.PushLayout(ctx, p.Layout, p.Subject.Digest); err != nil {
		return baseReady{}, err
	}
	layers, err := diffIDs(p.Layout, p.Manifests)
	if err != nil {
		return baseReady{}, err
	}
	return baseReady{
		Name: name, Digest: p.Subject.Digest, Epoch: p.Epoch, Labels: map[string]string{ocispec.AnnotationTitle: p.Image}, Layers: layers,
	}, nil
}

// fetching puts the line of the ADD into an error about what it fetches, which
// the engine does not place.
func fetching(e *artifact.Error, img *catalog.Image) error {
	text := e.Err.Error()
	for _, f := range img.Parsed.Fetches() {
		known, _, _ := strings.Cut(f.URL, "$") // what stands before the first build argument
		summed := f.Checksum != "" && strings.Contains(text, f.Checksum)
		if !strings.Contains(text, known) && !summed {
			continue
		}
		e.Place = fmt.Sprintf("%s:%d", e.Place, f.Line)
		switch {
		case strings.Contains(text, "by rule egress/"):
			e.Kind, e.Remedy = artifact.KindUsage, "take it from a mirror, or make it part of the build context"
		case strings.Contains(text, "digest mismatch"):
			e.Kind, e.Remedy = artifact.KindUsage, "compare the file with what its publisher says, then mend the checksum at that line"
		case strings.Contains(text, ": none is configured ("):
			e.Kind, e.Remedy = artifact.KindUsage, "name the mirror, or take the file from one there is"
		case strings.Contains(text, ": limit disk: "):
			e.Kind, e.Remedy = artifact.KindUsage, "fetch what is needed of it in a RUN, or raise the limit"
		}
		return e
	}
	return e
}

// find is the catalog's entry behind a node.
func (l *Line) find(n plan.Node) (*catalog.Image, *catalog.Variant, error) {
	if img, ok := l.cfg.Catalog.Image(n.Image); ok {
		for i := range img.Variants {
			if img.Variants[i].Name == n.Variant {
				return img, &img.Variants[i], nil
			}
		}
	}
	return nil, nil, fmt.Errorf("plan names %s:%s, the catalog has no such image", n.Image, n.Variant)
}
