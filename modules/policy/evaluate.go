package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// Evaluate holds evidence against a policy. The verdict is the worst of what
// the enforced rules say; reasons of rules in mode warn begin with "warning:".
func Evaluate(in Input) artifact.Verdict {
	in.Policy = in.Policy.WithDefaults()
	e := &evaluation{Input: in, platforms: sortedPlatforms(in.Platforms)}
	rules := in.Policy.Rules
	steps := []struct {
		mode  Mode
		judge func() []finding
	}{
		{Enforce, e.judgeSubject},
		{Enforce, e.judgeObserved},
		{rules.Signature.Mode, e.judgeSignature},
		{rules.Provenance.Mode, e.judgeProvenance},
		{rules.SBOM.Mode, e.judgeSBOM},
		{rules.Vulnerabilities.Mode, e.judgeVulnerabilities},
		{rules.Tests.Mode, e.judgeTests},
		{rules.NonRoot.Mode, e.judgeNonRoot},
	}
	v := artifact.Verdict{Outcome: artifact.Pass, Reasons: []artifact.Reason{}}
	for _, s := range steps {
		if s.mode == Off {
			continue
		}
		for _, f := range s.judge() {
			f = e.waive(f)
			if s.mode == Warn {
				f.Reason.Reason = "warning: " + f.Reason.Reason
			} else {
				v.Outcome = artifact.Worse(v.Outcome, f.outcome)
			}
			v.Reasons = append(v.Reasons, f.Reason)
		}
	}
	return v
}

// Admits says whether a verdict under a policy lets an image in. An unknown
// verdict does where the policy allows it, but never on account of a missing
// or untrusted signature.
func Admits(p Policy, v artifact.Verdict) bool {
	switch v.Outcome {
	case artifact.Pass, artifact.Waived:
		return true
	case artifact.Unknown:
		unsigned := slices.ContainsFunc(v.Reasons, func(r artifact.Reason) bool {
			return strings.HasPrefix(r.Rule, "signature/") || strings.HasPrefix(r.Rule, "subject/")
		})
		enforced := p.WithDefaults().Rules.Signature.Mode == Enforce
		return p.AllowUnknown && !(unsigned && enforced)
	default:
		return false
	}
}

// finding is a reason, what it amounts to, and what a waiver can name.
type finding struct {
	artifact.Reason
	outcome artifact.Outcome
	id, pkg string
}

func unknown(rule, place, remedy, format string, args ...any) finding {
	return finding{Reason: artifact.Reason{Rule: rule, Place: place, Reason: fmt.Sprintf(format, args...), Remedy: remedy}, outcome: artifact.Unknown}
}

func failed(rule, place, remedy, format string, args ...any) finding {
	f := unknown(rule, place, remedy, format, args...)
	f.outcome = artifact.Fail
	return f
}

// target is one platform of the subject.
type target struct {
	digest   artifact.Digest
	platform artifact.Platform
}

func sortedPlatforms(m map[artifact.Digest]artifact.Platform) []target {
	out := make([]target, 0, len(m))
	for d, p := range m {
		out = append(out, target{d, p})
	}
	slices.SortFunc(out, func(a, b target) int {
		return strings.Compare(a.platform.String()+string(a.digest), b.platform.String()+string(b.digest))
	})
	return out
}

// evaluation is one call of Evaluate.
type evaluation struct {
	Input
	platforms []target
}

// judgeSubject refuses to judge what has no platforms: every rule below would
// hold vacuously.
func (e *evaluation) judgeSubject() []finding {
	if len(e.platforms) > 0 && e.Subject.Digest != "" {
		return nil
	}
	return []finding{unknown("subject/platforms", e.Subject.String(), "read the image from its registry again",
		"no platform of the image is known")}
}

// judgeObserved keeps what was built with a way out where it is, whatever the
// policy says of provenance: such a build is for finding out what one needs.
func (e *evaluation) judgeObserved() []finding {
	if e.Held {
		return nil
	}
	statements := e.statements(nil)
	for i := range e.platforms {
		statements = append(statements, e.statements(&e.platforms[i])...)
	}
	for _, ev := range statements {
		if observed(ev) {
			return []finding{failed("subject/observed", e.Subject.String(), "build it again with --egress=mirrors, once the catalog has what it needs",
				"it was built with --egress=observe: its steps reached more than the mirrors")}
		}
	}
	return nil
}

// trusted says whether a signer is one the policy allows.
func (e *evaluation) trusted(signer string) bool {
	if signer == "" {
		return false
	}
	for _, s := range e.Policy.Rules.Signature.Signers {
		if s == Configured {
			if slices.Contains(e.Configured, signer) {
				return true
			}
		} else if glob(s, signer) {
			return true
		}
	}
	return false
}

// evidence gives what is known of one platform, or of the subject as a whole
// (nil): from trusted signers if there is any such, else from anyone (rule
// signature then says so).
func (e *evaluation) evidence(predicateType string, t *target) []artifact.Evidence {
	var good, rest []artifact.Evidence
	for _, ev := range e.Evidence {
		if ev.PredicateType != predicateType || !e.speaksOf(ev, t) {
			continue
		}
		if e.trusted(ev.Signer) {
			good = append(good, ev)
		} else {
			rest = append(rest, ev)
		}
	}
	if len(good) > 0 {
		return good
	}
	return rest
}

func (e *evaluation) speaksOf(ev artifact.Evidence, t *target) bool {
	if t == nil {
		return ev.Subject == e.Subject.Digest && (ev.Platform == nil || len(e.platforms) == 1)
	}
	if ev.Subject == t.digest {
		return ev.Platform == nil || *ev.Platform == t.platform
	}
	return ev.Subject == e.Subject.Digest && ev.Platform != nil && *ev.Platform == t.platform
}

// waive applies the waivers to a finding; one that has expired does not count
// and says so.
func (e *evaluation) waive(f finding) finding {
	for _, w := range e.Policy.Waivers {
		if !w.covers(f, e.Subject.Repository) {
			continue
		}
		day := w.Expires.Format(time.DateOnly)
		if !e.Now.Before(w.Expires.AddDate(0, 0, 1)) {
			f.Reason.Reason += fmt.Sprintf(" (a waiver by %s expired on %s)", w.Owner, day)
			continue
		}
		f.outcome = artifact.Waived
		f.Reason.Reason += fmt.Sprintf(" (waived by %s until %s: %s)", w.Owner, day, w.Reason)
		f.Reason.Remedy = "mend it before the waiver expires: " + f.Reason.Remedy
		return f
	}
	return f
}

func (w Waiver) covers(f finding, repository string) bool {
	if w.Rule == "" || (f.Rule != w.Rule && !strings.HasPrefix(f.Rule, w.Rule+"/")) {
		return false
	}
	if strings.HasPrefix(f.Rule, "signature/") || strings.HasPrefix(f.Rule, "subject/") {
		return false
	}
	_, path, _ := strings.Cut(repository, "/")
	image := path[strings.LastIndex(path, "/")+1:]
	return (w.ID == "" || w.ID == f.id) && (w.Package == "" || w.Package == f.pkg) &&
		(w.Image == "" || glob(w.Image, path) || glob(w.Image, image))
}

// glob matches s against a pattern in which * stands for any text.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// decode reads a predicate of ours and refuses one of a newer version.
func decode(raw json.RawMessage, into any, version *int) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	if *version != 1 {
		return fmt.Errorf("it has version %d, this program reads version 1", *version)
	}
	return nil
}
