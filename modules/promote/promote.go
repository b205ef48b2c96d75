// Package promote moves images between stages. It takes digests only, reads what
// is known about them back from the registry, believes only what trusted keys
// signed, judges anew, and copies with everything attached or not at all.
package promote

import (
	"context"
	"fmt"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/modules/provenance"
	"drydock/modules/registry"
	"drydock/modules/sign"
)

// Request is one image to be moved.
type Request struct {
	Subject  artifact.Subject // as it is called at From
	From, To registry.Location
	Policy   policy.Policy // to enter To; its waivers with it
	Trusted  []sign.Key    // keys whose signatures count; the policy says which of them suffice
	Now      time.Time     // the time of judgement
	// Tags lists what an image's variant is published under at To, beside its
	// digest; nil: nothing. Which image and variant it is, the provenance says
	// that a trusted key signed.
	Tags func(image, variant string) []string
}

// Result is what came of it.
type Result struct {
	Verdict  artifact.Verdict
	Rejected []Rejected       // what hangs on the image and was not believed
	Target   artifact.Subject // the image's name at To; zero if it was refused
	Copied   bool             // anything was written; false if To had it all
	Tags     []string         // that lead to it at To
}

// Promote judges the subject and, if the policy admits it, copies it with
// every signature and attestation. A refusal is an error of KindGate beside the
// Result that has the reasons; To is not touched then.
func Promote(ctx context.Context, c *registry.Client, r Request) (*Result, error) {
	from, path, err := open(c, r.From, r.Subject)
	if err != nil {
		return nil, err
	}
	if r.From.Repository(path) == r.To.Repository(path) {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "promoting", Place: r.Subject.String(),
			Message: fmt.Sprintf("stages %s and %s are the same place", r.From.Name, r.To.Name),
			Remedy:  "give each stage its own registry or path in stages.yaml",
		}
	}
	to, err := c.Repo(r.To, path)
	if err != nil {
		return nil, err
	}
	known, err := read(ctx, from, r.Subject.Digest, r.Trusted)
	if err != nil {
		return nil, err
	}
	res := &Result{Verdict: known.Judge(r.Policy, r.Now), Rejected: known.Rejected}
	if !policy.Admits(r.Policy, res.Verdict) {
		return res, refusal(r, res.Verdict)
	}
	if res.Copied, err = registry.Copy(ctx, from, to, r.Subject.Digest); err != nil {
		return res, err
	}
	res.Target = to.Subject(r.Subject.Digest)
	return res, publish(ctx, to, known, r, path, res)
}

// publish points the tags of the image at To to it: after the copy, so that a
// tag never leads to what is not there.
func publish(ctx context.Context, to *registry.Repo, known *Known, r Request, path string, res *Result) error {
	if r.Tags == nil {
		return nil
	}
	for _, e := range known.Evidence {
		if e.PredicateType != artifact.PredicateProvenance || e.Subject != r.Subject.Digest {
			continue
		}
		image, variant, err := provenance.Of(e.Predicate)
		if err != nil || image != path {
			continue // of something else
		}
		for _, tag := range r.Tags(image, variant) {
			if err := to.Tag(ctx, tag, r.Subject.Digest); err != nil {
				return err
			}
			res.Tags = append(res.Tags, tag)
		}
		return nil
	}
	return nil
}

func open(c *registry.Client, l registry.Location, s artifact.Subject) (*registry.Repo, string, error) {
	if _, err := artifact.ParseSubject(s.String()); err != nil {
		return nil, "", err
	}
	path, ok := l.Path(s.Repository)
	if !ok {
		return nil, "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "finding image", Place: s.String(),
			Message: fmt.Sprintf("it is not in stage %s, which is at %s", l.Name, strings.TrimSuffix(l.Repository(""), "/")),
			Remedy:  "give the digest drydock run printed for that stage",
		}
	}
	repo, err := c.Repo(l, path)
	return repo, path, err
}

// refusal is the gate's no: the first reason in the message, its remedy, the
// others in the Result.
func refusal(r Request, v artifact.Verdict) error {
	e := &artifact.Error{
		Kind: artifact.KindGate, Op: "promoting", Place: r.Subject.String(),
		Message: fmt.Sprintf("stage %s does not admit it: %s", r.To.Name, v.Outcome),
	}
	if len(v.Reasons) > 0 {
		first := v.Reasons[0]
		e.Message += fmt.Sprintf(": %s: %s: %s", first.Rule, first.Place, first.Reason)
		e.Remedy = first.Remedy
		if n := len(v.Reasons) - 1; n > 0 {
			e.Message += fmt.Sprintf(" (and %d more)", n)
		}
	}
	return e
}

// List names the images at l: of the repositories in paths, or of all where the
// registry tells them (the embedded one does).
func List(ctx context.Context, c *registry.Client, l registry.Location, paths []string) ([]artifact.Subject, error) {
	if paths == nil {
		var err error
		if paths, err = c.Repositories(ctx, l); err != nil {
			return nil, err
		}
	}
	var out []artifact.Subject
	for _, p := range paths {
		repo, err := c.Repo(l, p)
		if err != nil {
			return nil, err
		}
		digests, err := repo.Images(ctx)
		if err != nil {
			return nil, err
		}
		for _, d := range digests {
			out = append(out, repo.Subject(d))
		}
	}
	return out, nil
}
