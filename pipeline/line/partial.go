package line

import (
	"context"
	"path/filepath"
	"slices"

	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/pipeline/plan"
	"drydock/pipeline/run"
)

// judgePart asks the next stage's rules about what a partial run found out: verbs
// that run a part of the line get the verdict of that part's own rules.
func (l *Line) judgePart(kinds []plan.Kind, img plan.Image, own []run.Outcome) artifact.Verdict {
	pol, _, ok := l.nextPolicy()
	in := policy.Input{
		Subject:   artifact.Subject{Repository: "local/" + img.Image},
		Platforms: map[artifact.Digest]artifact.Platform{}, Policy: pol, Now: l.cfg.Now,
	}
	rules := &in.Policy.Rules
	rules.Signature.Mode, rules.Provenance.Mode, rules.SBOM.Mode, rules.NonRoot.Mode = policy.Off, policy.Off, policy.Off, policy.Off
	if !slices.Contains(kinds, plan.KindScan) {
		rules.Vulnerabilities.Mode = policy.Off
	}
	if !slices.Contains(kinds, plan.KindTest) {
		rules.Tests.Mode = policy.Off
	}
	for _, o := range own {
		var e artifact.Evidence
		var err error
		switch v := o.Value.(type) {
		case *builtImage:
			in.Platforms[v.Manifest] = v.Platform
			in.Subject.Digest = v.Manifest
			continue
		case *scanned:
			e, err = evidenceOf(artifact.PredicateScan, v.Platform, v.Manifest, v.Report)
		case *tested:
			e, err = evidenceOf(artifact.PredicateTest, v.Platform, v.Manifest, v.Report)
		default:
			continue
		}
		if err == nil {
			in.Evidence = append(in.Evidence, e)
		}
	}
	if !ok || len(in.Platforms) == 0 || slices.Equal(kinds, []plan.Kind{plan.KindBuild}) {
		return artifact.Verdict{Outcome: artifact.Pass}
	}
	return policy.Evaluate(in)
}

// writeLayout joins an image's platforms into an OCI layout below out/ and
// returns its digest.
func (l *Line) writeLayout(ctx context.Context, p *plan.Plan, img plan.Image, outcomes map[string]run.Outcome) (artifact.Digest, error) {
	in := run.Inputs{}
	for _, n := range p.Nodes {
		if o, ok := outcomes[n.ID]; ok && o.Value != nil && n.Image == img.Image && n.Variant == img.Variant {
			in[n.ID] = o.Value
		}
	}
	pushed, err := l.assemble(ctx, plan.Node{Image: img.Image, Variant: img.Variant}, in)
	if err != nil {
		return "", err
	}
	to := filepath.Join(l.cfg.Out, img.Image, img.Variant, "oci")
	return pushed.Subject.Digest, copyTree(pushed.Layout, to)
}
