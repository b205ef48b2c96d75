package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
)

// Resolve finds what a Dockerfile's reference names: a base, an image, or a
// variant of one as image:variant.
func (c *Catalog) Resolve(ref string) (Ref, error) {
	if _, ok := c.Base(ref); ok {
		return Ref{Spelling: ref, Base: ref}, nil
	}
	name, variant, _ := strings.Cut(ref, ":")
	img, ok := c.Image(name)
	if !ok {
		base, err := c.standIn(ref)
		return Ref{Spelling: ref, Base: base}, err
	}
	var names []string
	for _, v := range img.Variants {
		if v.Name == variant {
			return Ref{Spelling: ref, Image: name, Variant: variant}, nil
		}
		names = append(names, v.Name)
	}
	remedy := "leave the variant out: the image has none"
	if !img.Matrix.IsZero() {
		remedy = "write " + name + ": and one of " + strings.Join(names, ", ")
	}
	return Ref{}, &artifact.Error{Kind: artifact.KindUsage, Message: fmt.Sprintf("image %s has no variant %q", name, variant), Remedy: remedy}
}

// buildable lists the names FROM can give.
func (c *Catalog) buildable() []string {
	var out []string
	for _, b := range c.Bases {
		out = append(out, b.Name)
	}
	for _, i := range c.Images {
		out = append(out, i.Name)
	}
	return out
}

// FromArgs is what the FROM lines of a variant are expanded with for one
// platform: its arguments, and those BuildKit sets by itself for the target.
func (i *Image) FromArgs(v Variant, p artifact.Platform) map[string]string {
	args := map[string]string{
		"TARGETPLATFORM": p.String(), "TARGETOS": p.OS, "TARGETARCH": p.Architecture, "TARGETVARIANT": p.Variant,
		"TARGETSTAGE": i.Target,
	}
	if i.Target == "" {
		args["TARGETSTAGE"] = "default"
	}
	maps.Copy(args, v.Args)
	return args
}

// resolveImage finds what every variant builds on, for every platform.
func (l *loader) resolveImage(img *Image) {
	if img.Parsed == nil {
		return
	}
	seen := map[string]bool{}
	known := map[string][]Ref{} // most variants of a family differ in what no FROM depends on
	for i := range img.Variants {
		v := &img.Variants[i]
		v.byPlatform = map[artifact.Platform][]Ref{}
		for _, p := range img.Platforms {
			args := img.FromArgs(*v, p)
			key := img.Parsed.RefKey(args)
			refs, ok := known[key]
			if !ok {
				refs = l.resolveRefs(img, args, p, seen)
				known[key] = refs
			}
			v.byPlatform[p] = slices.Clone(refs)
			for _, ref := range refs {
				if !slices.ContainsFunc(v.Refs, func(o Ref) bool { return same(o, ref) }) {
					v.Refs = append(v.Refs, ref)
				}
			}
		}
	}
}

// resolveRefs finds what the Dockerfile builds on with one set of arguments.
func (l *loader) resolveRefs(img *Image, args map[string]string, p artifact.Platform, seen map[string]bool) []Ref {
	found, err := img.Parsed.Bases(img.Target, args)
	if err != nil {
		l.once(seen, err)
		return nil
	}
	var out []Ref
	for _, b := range found {
		if named, err := l.namedContext(img, b); named {
			if err != nil {
				l.once(seen, err)
			}
			continue
		}
		ref, err := l.resolveRef(img, b, p)
		if err != nil {
			l.once(seen, err)
			continue
		}
		out = append(out, ref)
	}
	return out
}

// same says whether two references lead to the same thing from the same line.
func same(a, b Ref) bool {
	platforms := a.Platform == b.Platform || (a.Platform != nil && b.Platform != nil && *a.Platform == *b.Platform)
	a.Platform, b.Platform = nil, nil
	return platforms && a == b
}

// once keeps an error several variants share.
func (l *loader) once(seen map[string]bool, err error) {
	if !seen[err.Error()] {
		seen[err.Error()] = true
		l.errs = append(l.errs, err)
	}
}

// resolveRef finds one reference and checks that it exists for the platform.
func (l *loader) resolveRef(img *Image, b dockerfile.BaseRef, target artifact.Platform) (Ref, error) {
	place := fmt.Sprintf("%s:%d", img.Parsed.Name, b.Line)
	ref, err := l.cat.Resolve(b.Ref)
	if err != nil {
		return Ref{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading catalog", Place: place,
			Message: b.Instruction + " " + b.Ref, Remedy: strings.Join(artifact.Remedies(err), "; "), Err: err,
		}
	}
	ref.Line = b.Line
	want := target
	switch {
	case b.Platform == "" || b.Platform == target.String():
	case strings.Contains(b.Platform, "$"):
		ref.Build = true
		return ref, nil
	default:
		p, err := artifact.ParsePlatform(b.Platform)
		if err != nil {
			return Ref{}, &artifact.Error{Kind: artifact.KindUsage, Op: "reading catalog", Place: place, Remedy: "write $BUILDPLATFORM, $TARGETPLATFORM or for example linux/amd64", Err: err}
		}
		ref.Platform, want = &p, p
	}
	platforms := l.platformsOf(ref)
	if !slices.Contains(platforms, want) {
		return Ref{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading catalog", Place: place,
			Message: fmt.Sprintf("%s is not there for %s", b.Ref, want),
			Remedy:  "add the platform to " + b.Ref + ", take it out of " + img.Name + ", or build the stage on --platform=$BUILDPLATFORM and cross-compile",
		}
	}
	return ref, nil
}

func (l *loader) platformsOf(r Ref) []artifact.Platform {
	if b, ok := l.cat.Base(r.Base); ok {
		return b.Platforms
	}
	img, _ := l.cat.Image(r.Image)
	return img.Platforms
}

// nearest is a hint at the name most like the one given, and the names there
// are.
func nearest(name string, names []string) string {
	if len(names) == 0 {
		return " (there is none yet)"
	}
	best, distance := "", max(3, len(name)/2)
	for _, n := range names {
		if d := edits(name, n); d < distance {
			best, distance = n, d
		}
	}
	slices.Sort(names)
	hint := ": " + strings.Join(names, ", ")
	if best != "" {
		hint = "; did you mean " + best + "? There are" + hint
	}
	return hint
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
