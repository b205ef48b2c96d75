package line

import (
	"context"
	"errors"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/modules/promote"
	"drydock/modules/sign"
	"drydock/pipeline/plan"
	"drydock/pipeline/run"
)

// promotedImage is what came of an image's promotion to one stage.
type promotedImage struct {
	Verdict artifact.Verdict
	Stage   string // where it is now; "" if it was refused
}

// promote asks a stage's gates anew, from the evidence in the registry, and
// copies what they admit. A refusal is a result, not a failure of the step.
func (l *Line) promote(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	pushed := run.Input[*pushedImage](in)
	trusted, err := l.trusted("")
	if err != nil {
		return nil, err
	}
	res, err := l.promoteTo(ctx, pushed.Subject, n.Stage, trusted)
	var refused *artifact.Error
	switch {
	case errors.As(err, &refused) && refused.Kind == artifact.KindGate && res != nil:
		return &promotedImage{Verdict: res.Verdict}, nil
	case err != nil:
		return nil, err
	}
	return &promotedImage{Verdict: res.Verdict, Stage: n.Stage}, nil
}

// promoteTo moves a subject from wherever the stage takes images from.
func (l *Line) promoteTo(ctx context.Context, subject artifact.Subject, stage string, trusted []sign.Key) (*promote.Result, error) {
	to, from, pol, err := l.entry(stage)
	if err != nil {
		return nil, err
	}
	client, err := l.stages.get()
	if err != nil {
		return nil, err
	}
	return promote.Promote(ctx, client, promote.Request{
		Subject: subject, From: location(from), To: location(to), Policy: pol, Trusted: trusted, Now: l.cfg.Now,
		Tags: l.tagsOf,
	})
}

// tagsOf is what the catalog publishes a variant under.
func (l *Line) tagsOf(image, variant string) []string {
	if img, ok := l.cfg.Catalog.Image(image); ok {
		for _, v := range img.Variants {
			if v.Name == variant {
				return v.Tags
			}
		}
	}
	return nil
}

// entry is a stage, the one it takes images from and the policy to enter it.
func (l *Line) entry(stage string) (to, from catalog.Stage, pol policy.Policy, err error) {
	if to, err = l.stage(stage); err != nil {
		return to, from, pol, err
	}
	if to.From == "" {
		return to, from, pol, &artifact.Error{
			Kind: artifact.KindUsage, Op: "choosing stage", Place: to.Place,
			Message: stage + " is where images are pushed, nothing is promoted to it", Remedy: "choose a stage that has a from: in stages.yaml",
		}
	}
	if from, err = l.stage(to.From); err != nil {
		return to, from, pol, err
	}
	p, ok := l.cfg.Catalog.Policy(to.Policy)
	if !ok {
		return to, from, pol, &artifact.Error{
			Kind: artifact.KindUsage, Op: "choosing policy", Place: to.Place,
			Message: "stage " + stage + " has no policy", Remedy: "name one under policies/ with policy: in stages.yaml",
		}
	}
	return to, from, *p, nil
}

// Shipped is what came of one subject.
type Shipped struct {
	Subject artifact.Subject  `json:"subject"`
	Verdict artifact.Outcome  `json:"verdict"`
	Reasons []artifact.Reason `json:"reasons"`
	Stage   string            `json:"stage"` // where it is now
	Did     string            `json:"did"`
	OK      bool              `json:"ok"`
}

// Promote moves subjects to a stage, each on its own: one refusal does not
// keep the others back.
func (l *Line) Promote(ctx context.Context, subjects []artifact.Subject, stage, trustKey string) ([]Shipped, error) {
	_, from, _, err := l.entry(stage)
	if err != nil {
		return nil, err
	}
	trusted, err := l.trusted(trustKey)
	if err != nil {
		return nil, err
	}
	out := []Shipped{}
	for _, s := range subjects {
		res, err := l.promoteTo(ctx, l.at(s, from), stage, trusted)
		var refused *artifact.Error
		if errors.As(err, &refused) && refused.Kind == artifact.KindGate && res != nil {
			out = append(out, Shipped{
				Subject: s, Verdict: res.Verdict.Outcome, Reasons: res.Verdict.Reasons, Stage: from.Name,
				Did: "refused, stage " + stage + " is untouched",
			})
			continue
		}
		if err != nil {
			return out, err
		}
		did := "copied to " + res.Target.String()
		if !res.Copied {
			did = "already there as " + res.Target.String()
		}
		if len(res.Tags) > 0 {
			did += ", published as " + strings.Join(res.Tags, ", ")
		}
		out = append(out, Shipped{
			Subject: s, Verdict: res.Verdict.Outcome, Reasons: res.Verdict.Reasons, Stage: stage, Did: did, OK: true,
		})
	}
	return out, nil
}

// at spells a subject as it is called in the stage promotion takes it from: a
// summary names an image where it ended up, which may be further on.
func (l *Line) at(s artifact.Subject, from catalog.Stage) artifact.Subject {
	for _, stage := range l.cfg.Catalog.Stages {
		if path, ok := location(stage).Path(s.Repository); ok && stage.Name != from.Name {
			return artifact.Subject{Repository: location(from).Repository(path), Digest: s.Digest}
		}
	}
	return s
}

// where finds the stage a subject is in and its path there.
func (l *Line) where(s artifact.Subject) (catalog.Stage, string, error) {
	names := []string{}
	for _, stage := range l.cfg.Catalog.Stages {
		if path, ok := location(stage).Path(s.Repository); ok {
			return stage, path, nil
		}
		names = append(names, strings.TrimSuffix(location(stage).Repository(""), "/"))
	}
	return catalog.Stage{}, "", &artifact.Error{
		Kind: artifact.KindUsage, Op: "finding image", Place: s.String(), Message: "it is in no stage of the catalog",
		Remedy: "the stages are at " + strings.Join(names, ", "),
	}
}

// Sign signs subjects and every platform of them.
func (l *Line) Sign(ctx context.Context, subjects []artifact.Subject) ([]Shipped, error) {
	signer, err := l.signer.get()
	if err != nil {
		return nil, err
	}
	if signer == nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "signing", Message: "no signing key is configured, and in CI none is made",
			Remedy: "set " + envSigningKey + " to a cosign private key (a file or its PEM), and COSIGN_PASSWORD",
		}
	}
	out := []Shipped{}
	for _, s := range subjects {
		stage, path, err := l.where(s)
		if err != nil {
			return out, err
		}
		repo, err := l.repo(stage.Name, path)
		if err != nil {
			return out, err
		}
		m, err := repo.Manifest(ctx, s.Digest)
		if err != nil {
			return out, err
		}
		digests := []artifact.Digest{s.Digest}
		for _, child := range m.Children {
			digests = append(digests, child.Digest)
		}
		did := "already signed with this key"
		for _, d := range digests {
			written, err := signer.Sign(ctx, repo, d)
			if err != nil {
				return out, err
			}
			if written {
				did = "signed"
			}
		}
		out = append(out, Shipped{Subject: s, Verdict: artifact.Pass, Reasons: []artifact.Reason{}, Stage: stage.Name, Did: did, OK: true})
	}
	return out, nil
}

// Verify asks a stage's gates about subjects without moving anything.
func (l *Line) Verify(ctx context.Context, subjects []artifact.Subject, stage, trustKey string) ([]Shipped, error) {
	trusted, err := l.trusted(trustKey)
	if err != nil {
		return nil, err
	}
	client, err := l.stages.get()
	if err != nil {
		return nil, err
	}
	out := []Shipped{}
	for _, s := range subjects {
		in, _, err := l.where(s)
		if err != nil {
			return out, err
		}
		pol, name, err := l.askedPolicy(in, stage)
		if err != nil {
			return out, err
		}
		known, err := promote.Read(ctx, client, location(in), s, trusted)
		if err != nil {
			return out, err
		}
		v := known.Judge(pol, l.cfg.Now)
		ok := policy.Admits(pol, v)
		did := "stage " + name + " admits it"
		if !ok {
			did = "stage " + name + " does not admit it"
		}
		out = append(out, Shipped{Subject: s, Verdict: v.Outcome, Reasons: v.Reasons, Stage: in.Name, Did: did, OK: ok})
	}
	return out, nil
}

// askedPolicy is the policy of the stage named, else of the one after the
// image's, else of the image's own.
func (l *Line) askedPolicy(in catalog.Stage, stage string) (policy.Policy, string, error) {
	if stage == "" {
		stage = in.Name
		for _, s := range l.cfg.Catalog.Stages {
			if s.From == in.Name {
				stage = s.Name
				break
			}
		}
	}
	_, _, pol, err := l.entry(stage)
	return pol, stage, err
}

// List names the images of a stage.
func (l *Line) List(ctx context.Context, stage string) ([]artifact.Subject, error) {
	s, err := l.stage(stage)
	if err != nil {
		return nil, err
	}
	client, err := l.stages.get()
	if err != nil {
		return nil, err
	}
	var paths []string
	if s.Registry != "embedded" {
		for _, img := range l.cfg.Catalog.Images {
			paths = append(paths, img.Name)
		}
	}
	out, err := promote.List(ctx, client, location(s), paths)
	if out == nil {
		out = []artifact.Subject{}
	}
	return out, err
}
