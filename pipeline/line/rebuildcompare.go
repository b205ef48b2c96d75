package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/image"
	"drydock/modules/promote"
	"drydock/modules/provenance"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
)

// original is an image as its registry has it.
type original struct {
	*promote.Known
	line *Line
}

func (o *original) manifest(ctx context.Context, d artifact.Digest) ([]byte, error) {
	repo, _, err := o.line.repoOf(o.Subject)
	if err != nil {
		return nil, err
	}
	m, err := repo.Manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	return m.Raw, nil
}

func (o *original) blob(ctx context.Context, d artifact.Digest, w io.Writer) error {
	repo, _, err := o.line.repoOf(o.Subject)
	if err != nil {
		return err
	}
	return repo.CopyBlob(ctx, d, w)
}

// buildAgain builds the image of a plan and says how it differs from the one
// there is. was reads that one's blobs.
func (l *Line) buildAgain(ctx context.Context, p *plan.Plan, was *original, in *provenance.Input, dir string) (*artifact.RebuildReport, error) {
	if err := os.MkdirAll(l.cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("building again: %w", err)
	}
	summary, err := l.Run(ctx, p, Options{Kinds: []plan.Kind{plan.KindBuild}})
	if err != nil {
		return nil, err
	}
	for _, img := range summary.Images {
		if img.Error != nil {
			return nil, notNow(img.Error)
		}
	}
	if summary.Exit == artifact.ExitInterrupted {
		return nil, artifact.ErrInterrupted
	}
	built := map[string]*builtImage{}
	var parts []image.Part
	for _, b := range l.built {
		if b.Image != in.Image || b.Variant.Name != in.Variant {
			continue
		}
		if err := sameBases(b, in); err != nil {
			return nil, err
		}
		built[b.Platform.String()] = b
		file := filepath.Join(dir, platformFolder(b.Platform)+".tar")
		if err := b.Export(ctx, file); err != nil {
			return nil, err
		}
		parts = append(parts, image.Part{Platform: b.Platform, Archive: file, Manifest: b.Manifest})
	}
	made, err := image.Assemble(filepath.Join(dir, "layout"), parts)
	if err != nil {
		return nil, err
	}
	e, err := l.engine.get()
	if err != nil {
		return nil, err
	}
	r := &artifact.RebuildReport{
		Version: 1, Outcome: artifact.RebuildIdentical, Rebuilt: made.Digest, Image: in.Image, Variant: in.Variant, Revision: in.Source.Revision,
		Builder: artifact.RebuildBuilder{Drydock: l.cfg.Version, Engine: e.Kind, Tier: e.Tier, Mode: e.Mode}, Platforms: []artifact.RebuiltOne{},
	}
	if made.Digest != was.Subject.Digest {
		r.Outcome = artifact.RebuildDiffers
	}
	return r, l.compare(ctx, r, was, built, in, dir)
}

// notNow is the failure of a build whose lock is all right: what it needs is
// there no more, or it fails where it once did not.
func notNow(e *report.Error) error {
	kind := artifact.KindFault
	if e.Exit == artifact.ExitInternal {
		kind = artifact.KindInternal
	}
	return &artifact.Error{
		Kind: kind, Op: "building again", Message: "it cannot be built now", Err: errors.New(e.Message), Remedy: strings.Join(e.Remedies, "; "),
	}
}

// sameBases refuses to compare what stands on something else.
func sameBases(b *builtImage, in *provenance.Input) error {
	was := map[string]artifact.Digest{}
	for _, base := range in.Bases {
		was[base.Name] = base.Digest
	}
	for _, now := range b.Bases {
		if was[now.Name] != now.Digest {
			return &artifact.Error{
				Kind: artifact.KindFault, Op: "building again", Place: now.Name,
				Message: fmt.Sprintf("it was built on %s, which now comes out as %s", was[now.Name], now.Digest),
				Remedy:  "verify --rebuild that one first, by its own digest, and see how it differs",
			}
		}
	}
	return nil
}

// platforms are the manifests of the image as it was, by platform, and the names
// of those and of the ones built again.
func (o *original) platforms(built map[string]*builtImage) (map[string]artifact.Digest, []string) {
	before, names := map[string]artifact.Digest{}, map[string]bool{}
	for d, p := range o.Platforms {
		before[p.String()] = d
		names[p.String()] = true
	}
	for name := range built {
		names[name] = true
	}
	return before, sortedIDs(names)
}

// compare fills in what differs, platform by platform.
func (l *Line) compare(ctx context.Context, r *artifact.RebuildReport, was *original, built map[string]*builtImage, in *provenance.Input, dir string) error {
	_, step, err := l.worker()
	if err != nil {
		return err
	}
	client, err := l.client()
	if err != nil {
		return err
	}
	before, names := was.platforms(built)
	differ := false
	for _, name := range names {
		p, err := artifact.ParsePlatform(name)
		if err != nil {
			return err
		}
		one := artifact.RebuiltOne{Platform: p, Was: before[name]}
		if b := built[name]; b != nil {
			one.Now = b.Manifest
		}
		if one.Was != "" && one.Now != "" && one.Was != one.Now {
			manifest, err := was.manifest(ctx, one.Was)
			if err != nil {
				return err
			}
			if one.Diff, err = image.Compare(ctx, client, step, dir, manifest, was.blob, built[name].Built); err != nil {
				return err
			}
		}
		differ = differ || one.Was != one.Now
		r.Platforms = append(r.Platforms, one)
	}
	if r.Outcome == artifact.RebuildDiffers {
		if !differ {
			r.Index = []artifact.FieldDiff{{Field: "index", Was: string(was.Subject.Digest), Now: string(r.Rebuilt)}}
		}
		r.Notes = l.suspects(r, in)
	}
	return nil
}

// suspects are differences in what built the image, which may be why it
// differs.
func (l *Line) suspects(r *artifact.RebuildReport, in *provenance.Input) []string {
	var out []string
	note := func(what, was, now string) {
		if was != now {
			out = append(out, what+" was "+orUnknown(was)+", now it is "+orUnknown(now))
		}
	}
	note("drydock", in.Version, r.Builder.Drydock)
	note("the engine", in.Engine.Kind, r.Builder.Engine)
	note("the tier", in.Engine.Tier, r.Builder.Tier)
	if img, ok := l.cfg.Catalog.Image(in.Image); ok && in.Context != "" {
		if now, err := l.contextSum(img); err == nil && now != in.Context {
			out = append(out, "the build context was "+string(in.Context)+", in the commit it is "+string(now)+
				": files that git ignores or does not know were part of it")
		}
	}
	return out
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
