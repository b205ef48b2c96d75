package line

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/modules/sandbox"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
	"drydock/pipeline/results"
	"drydock/pipeline/run"
)

// collected is what is reported of one image variant.
type collected struct {
	image      report.Image
	staticOnly *report.StaticOnly
	files      map[string][]byte // below out/
	gate       *judgement
	mirrors    []report.Mirror
	ok         bool // every step succeeded
}

// collect folds the outcomes of an image's steps into one entry.
func (l *Line) collect(p *plan.Plan, part *part, outcomes map[string]run.Outcome) *collected {
	own := mine(p, part.Image, outcomes)
	c := &collected{files: map[string][]byte{}}
	c.image = report.Image{
		Image: part.Image.Image, Variant: part.Variant, Platforms: part.Platforms, Verdict: artifact.Unknown,
	}
	if !part.started.IsZero() {
		c.image.Seconds = part.ended.Sub(part.started).Seconds()
	}
	for _, o := range own {
		if o.Err == nil && o.Blocked == "" {
			l.fold(c, o.Value)
		}
	}
	if err := firstError(own, outcomes); err != nil {
		c.image.Error = report.NewError(err)
		if c.image.Verdict == artifact.Pass {
			c.image.Verdict = artifact.Unknown
		}
	} else {
		c.ok = true
	}
	return c
}

// fold adds what one step found out.
func (l *Line) fold(c *collected, value any) {
	dir := folder(c.image.Image, c.image.Variant)
	switch v := value.(type) {
	case *builtImage:
		materials := append([]artifact.Material{}, v.Materials...)
		for _, b := range v.Bases {
			materials = append(materials, b.Materials...)
		}
		c.mirrors = mergeMirrors(c.mirrors, l.usedMirrors(materials))
	case *inventory:
		for _, n := range v.Packages {
			c.image.Packages += n
		}
		at := path.Join(dir, platformFolder(v.Platform))
		c.files[path.Join(at, "sbom.spdx.json")] = v.SPDX
		c.files[path.Join(at, "sbom.cdx.json")] = v.CycloneDX
	case *scanned:
		c.image.Findings = c.image.Findings.Add(v.Report.Counts)
		c.files[path.Join(dir, platformFolder(v.Platform), "scan.json")] = indented(v.Report)
	case *tested:
		l.foldTests(c, v, path.Join(dir, platformFolder(v.Platform)))
	case *pushedImage:
		c.image.Subject = v.Subject
		c.image.Stage = v.Stage
	case *signedImage:
		c.gate = v.Gate
		c.image.Verdict, c.image.Reasons = v.Verdict.Outcome, v.Verdict.Reasons
		c.files[path.Join(dir, "provenance.json")] = v.Provenance
	case *promotedImage:
		c.image.Verdict, c.image.Reasons = v.Verdict.Outcome, v.Verdict.Reasons
		if v.Stage != "" {
			c.image.Stage = v.Stage
		}
	}
}

func (l *Line) foldTests(c *collected, v *tested, at string) {
	c.image.Tests.Passed += v.Report.Passed
	c.image.Tests.Failed += v.Report.Failed
	c.image.Tests.Skipped += v.Report.Skipped
	name := plan.Image{Image: c.image.Image, Variant: c.image.Variant}.ID() + " " + v.Platform.String()
	c.files[path.Join(at, "junit.xml")] = sandbox.JUnit(name, v.Report)
	c.files[path.Join(at, "tests.json")] = indented(v.Report)
	if v.Report.StaticOnly {
		if c.staticOnly == nil {
			c.staticOnly = &report.StaticOnly{Image: c.image.Image, Variant: c.image.Variant}
		}
		c.staticOnly.Platforms = append(c.staticOnly.Platforms, v.Platform)
	}
}

// keep writes an image's reports and, when it went through the whole line,
// remembers its result.
func (l *Line) keep(part *part, c *collected, whole bool) error {
	for name, content := range c.files {
		if err := results.WriteFile(filepath.Join(l.cfg.Out, filepath.FromSlash(name)), content); err != nil {
			return &artifact.Error{
				Kind: artifact.KindFault, Op: "writing report", Place: filepath.Join(l.cfg.Out, name), Err: err,
				Remedy: "give a folder that can be written and has room with --out",
			}
		}
	}
	if !whole || !c.ok || part.key == "" {
		return nil
	}
	var notes []string
	drifts := l.driftsOf(part.ID())
	for _, base := range sortedIDs(drifts) {
		notes = append(notes, drifts[base].Notes...)
		if lock := drifts[base].Lock; lock != nil {
			c.files[path.Join("locks", base+".json")] = lock
		}
	}
	f := finished{Notes: notes, Image: c.image, StaticOnly: c.staticOnly, Gate: c.gate, Mirrors: c.mirrors, Checked: l.cfg.Now}
	return l.results().Put(part.key, f, c.files, l.traces(part, c))
}

// traces are the files an image's result left in the embedded registries: a
// remembered result counts only while they are there.
func (l *Line) traces(part *part, c *collected) []string {
	var out []string
	for _, name := range part.Stages {
		s, err := l.stage(name)
		if err != nil || s.Registry != "embedded" {
			continue
		}
		file := filepath.Join(l.registryDir(), name, filepath.FromSlash(c.image.Image), "blobs", "sha256", c.image.Subject.Digest.Hex())
		if _, err := os.Stat(file); err == nil {
			out = append(out, file)
		}
		if name == c.image.Stage {
			break
		}
	}
	return out
}

// admitted says whether an image's verdict lets it into the stage after
// quarantine.
func (l *Line) admitted(*plan.Plan) func(report.Image) bool {
	pol, _, ok := l.nextPolicy()
	return func(i report.Image) bool {
		return !ok || policy.Admits(pol, artifact.Verdict{Outcome: i.Verdict, Reasons: i.Reasons})
	}
}

// mergeMirrors adds mirrors to a list that has each ecosystem once.
func mergeMirrors(have, more []report.Mirror) []report.Mirror {
	for _, m := range more {
		if !slices.ContainsFunc(have, func(h report.Mirror) bool { return h.Ecosystem == m.Ecosystem && h.URL == m.URL }) {
			have = append(have, m)
		}
	}
	slices.SortFunc(have, func(a, b report.Mirror) int { return strings.Compare(a.Ecosystem+a.URL, b.Ecosystem+b.URL) })
	return have
}

func folder(image, variant string) string { return path.Join(image, variant) }

func platformFolder(p artifact.Platform) string {
	s := p.OS + "-" + p.Architecture
	if p.Variant != "" {
		s += "-" + p.Variant
	}
	return s
}

func indented(v any) []byte {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return []byte("null\n") // our own types always marshal
	}
	return append(b, '\n')
}
