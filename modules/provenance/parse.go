package provenance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"drydock/modules/artifact"
)

// Parse reads a predicate that Predicate wrote, as far as another build needs
// it: bases, materials with their paths, source and parameters. A field it does
// not know is passed by; another build type is refused.
func Parse(raw json.RawMessage) (Input, error) {
	var p predicate
	if err := json.Unmarshal(raw, &p); err != nil {
		return Input{}, fmt.Errorf("parsing provenance: %w", err)
	}
	def := p.BuildDefinition
	if def.BuildType != BuildType {
		return Input{}, fmt.Errorf("parsing provenance: its build type is %q, want %q", def.BuildType, BuildType)
	}
	ext, internal := def.ExternalParameters, def.InternalParameters
	in := Input{
		Image: ext.Image, Variant: ext.Variant, Context: ext.Context, Target: ext.Target, Args: ext.Args,
		Trigger: ext.Trigger, Folder: ext.Folder, Epoch: internal.Epoch, Engine: internal.Engine, Frontend: internal.Frontend,
		Hermetic: internal.Hermetic, Gaps: internal.Gaps, Absent: internal.Absent,
		Builder: p.RunDetails.Builder.ID, Version: p.RunDetails.Builder.Version["drydock"],
	}
	in.Source.Dirty = internal.Dirty
	if ext.Source != nil {
		in.Source.URI, in.Source.Revision, in.Source.Ref = ext.Source.URI, ext.Source.Revision, ext.Source.Ref
	}
	if ext.Dockerfile != nil {
		in.Dockerfile = *ext.Dockerfile
	}
	if ext.Lock != nil {
		in.Lock = *ext.Lock
	}
	if ext.Platform != "" {
		at, err := artifact.ParsePlatform(ext.Platform)
		if err != nil {
			return Input{}, err
		}
		in.Platform = at
	}
	for _, d := range def.ResolvedDependencies {
		if err := in.addDependency(d); err != nil {
			return Input{}, fmt.Errorf("parsing provenance: %w", err)
		}
	}
	return in, nil
}

// addDependency takes a descriptor for the base or the material it is.
func (in *Input) addDependency(d descriptor) error {
	if d.Name == "source" && d.Digest["gitCommit"] != "" {
		return nil
	}
	var sum artifact.Digest
	if hex := d.Digest["sha256"]; hex != "" {
		var err error
		if sum, err = artifact.ParseDigest("sha256:" + hex); err != nil {
			return err
		}
	}
	text := func(name string) string { s, _ := d.Annotations[name].(string); return s }
	if name, ok := strings.CutPrefix(d.Name, "base:"); ok {
		in.Bases = append(in.Bases, Base{Name: name, Digest: sum, Lock: artifact.Digest(text("lock"))})
		return nil
	}
	size, _ := d.Annotations["size"].(float64)
	public, _ := d.Annotations["public"].(bool)
	in.Materials = append(in.Materials, artifact.Material{
		Ecosystem: text("ecosystem"), URL: d.URI, Path: text("path"), Digest: sum, Size: int64(size), PURL: d.Name, Public: public,
	})
	return nil
}

// Ambiguous is a material whose path has two contents, if there is one: steps
// that ran at different times were given different files.
func (in *Input) Ambiguous() (path string, found bool) {
	seen := map[string]artifact.Digest{}
	for _, m := range in.Materials {
		key := m.Ecosystem + " " + m.Path
		if have, ok := seen[key]; ok && have != m.Digest && m.Path != "" {
			return key, true
		}
		seen[key] = m.Digest
	}
	return "", false
}

// Reproducible says why a build cannot be done again from what is known of it;
// "" when it can.
func (in *Input) Reproducible() string {
	switch {
	case in.Source.Dirty:
		return "it was built from sources that are no commit (dirty)"
	case in.Source.Revision == "":
		return "its provenance names no commit"
	case !in.Hermetic:
		return "its steps had a network of their own (not hermetic): what they fetched is not known"
	case len(in.Gaps) > 0:
		return "what it is made of is not all known: " + strings.Join(slices.Sorted(slices.Values(in.Gaps)), "; ")
	}
	return ""
}
