package promote

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/policy"
	"drydock/modules/registry"
	"drydock/modules/sign"
)

const configLimit = 4 << 20

// Known is everything a registry tells about an image, checked against the
// trusted keys.
type Known struct {
	Subject   artifact.Subject
	Platforms map[artifact.Digest]artifact.Platform
	Users     map[artifact.Digest]string // user of each platform's configuration
	Signers   []string                   // trusted keys that signed the subject itself
	Evidence  []artifact.Evidence        // of the subject and its platforms, each signed by a trusted key
	Rejected  []Rejected
	Trusted   []string // ids of the keys that were trusted
}

// Rejected is a signature or attestation no trusted key made. It is shown, and
// never used.
type Rejected struct {
	Subject       artifact.Digest    `json:"subject"`
	Platform      *artifact.Platform `json:"platform,omitempty"`
	Kind          string             `json:"kind"` // signature, attestation
	PredicateType string             `json:"predicateType,omitempty"`
	Reason        string             `json:"reason"`
}

// Read collects what the registry at l knows about the subject.
func Read(ctx context.Context, c *registry.Client, l registry.Location, s artifact.Subject, trusted []sign.Key) (*Known, error) {
	repo, _, err := open(c, l, s)
	if err != nil {
		return nil, err
	}
	return read(ctx, repo, s.Digest, trusted)
}

func read(ctx context.Context, repo *registry.Repo, d artifact.Digest, trusted []sign.Key) (*Known, error) {
	m, err := repo.Manifest(ctx, d)
	if registry.NotFound(err) {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "finding image", Place: repo.Subject(d).String(),
			Message: fmt.Sprintf("stage %s does not have it", repo.Location().Name),
			Remedy:  "give the digest drydock run printed for that stage", Err: err,
		}
	}
	if err != nil {
		return nil, err
	}
	k := &Known{
		Subject:   repo.Subject(d),
		Platforms: map[artifact.Digest]artifact.Platform{},
		Users:     map[artifact.Digest]string{},
	}
	for _, key := range trusted {
		k.Trusted = append(k.Trusted, key.ID)
	}
	v, err := sign.Verify(ctx, repo, d, trusted)
	if err != nil {
		return nil, err
	}
	k.Signers = v.Signers
	if len(m.Children) == 0 {
		if err := k.platform(ctx, repo, m); err != nil {
			return nil, err
		}
		k.add(v, d, nil)
		return k, nil
	}
	k.add(v, d, nil)
	for i := range m.Children {
		if err := k.child(ctx, repo, &m.Children[i], trusted); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *Known) child(ctx context.Context, repo *registry.Repo, m *registry.Manifest, trusted []sign.Key) error {
	if p := m.Platform; p != nil && p.OS == "unknown" {
		return nil // how some builders attach their own notes
	}
	if err := k.platform(ctx, repo, m); err != nil {
		return err
	}
	v, err := sign.Verify(ctx, repo, m.Digest, trusted)
	if err != nil {
		return err
	}
	p := k.Platforms[m.Digest]
	k.add(v, m.Digest, &p)
	return nil
}

// platform notes what the image's own configuration says of platform and user.
// An index that calls it something else is not believed.
func (k *Known) platform(ctx context.Context, repo *registry.Repo, m *registry.Manifest) error {
	broken := func(err error) error {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "reading image", Place: repo.Subject(m.Digest).String(),
			Remedy: "build and push the image again", Err: err,
		}
	}
	var manifest struct {
		Config struct {
			Digest artifact.Digest `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(m.Raw, &manifest); err != nil {
		return broken(err)
	}
	raw, err := repo.Blob(ctx, manifest.Config.Digest, configLimit)
	if err != nil {
		return err
	}
	var config struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
		Config       struct {
			User string `json:"User"`
		} `json:"config"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return broken(err)
	}
	p := artifact.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
	if q := m.Platform; q != nil {
		if q.OS != p.OS || q.Architecture != p.Architecture {
			return broken(fmt.Errorf("the index calls %s what the image itself calls %s", q, p))
		}
		p = *q
	}
	k.Platforms[m.Digest] = p
	k.Users[m.Digest] = config.Config.User
	return nil
}

func (k *Known) add(v *sign.Verified, d artifact.Digest, p *artifact.Platform) {
	for _, e := range v.Evidence {
		e.Platform = p
		k.Evidence = append(k.Evidence, e)
	}
	for _, r := range v.Rejected {
		k.Rejected = append(k.Rejected, Rejected{
			Subject: d, Platform: p, Kind: r.Kind, PredicateType: r.PredicateType, Reason: r.Reason,
		})
	}
}

// Judge holds what is known against a policy. Where that does not pass, what
// was not believed is among the reasons.
func (k *Known) Judge(p policy.Policy, now time.Time) artifact.Verdict {
	v := policy.Evaluate(policy.Input{
		Subject: k.Subject, Platforms: k.Platforms, Users: k.Users, Signers: k.Signers,
		Configured: k.Trusted, Evidence: k.Evidence, Policy: p, Now: now,
	})
	if v.Outcome == artifact.Pass {
		return v
	}
	for _, r := range k.Rejected {
		place := string(r.Subject)
		if r.Platform != nil {
			place = r.Platform.String()
		}
		what := "a signature"
		if r.Kind == "attestation" {
			what = "an attestation of type " + r.PredicateType
		}
		v.Reasons = append(v.Reasons, artifact.Reason{
			Rule: "signature/rejected", Place: place,
			Reason: fmt.Sprintf("%s was not believed: %s", what, r.Reason),
			Remedy: "sign it with a trusted key, or trust the key that did",
		})
	}
	return v
}
