package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Problem is one thing wrong with a policy; Path leads to it by YAML keys.
type Problem struct {
	Path    []string
	Message string
	Remedy  string
}

// severities from mildest to worst, as grype names them.
var severities = [...]string{"negligible", "low", "medium", "high", "critical"}

// tiers are how the embedded engine may have held steps.
var tiers = [...]string{"T1", "T2", "T3"}

// families are the first parts of the rule ids.
var families = [...]string{"signature", "provenance", "sbom", "vulnerabilities", "tests", "nonRoot"}

const defaultDatabaseAge = Duration(5 * 24 * time.Hour)

// WithDefaults fills in what the policy leaves out.
func (p Policy) WithDefaults() Policy {
	r := &p.Rules
	for _, m := range []*Mode{
		&r.Signature.Mode, &r.Provenance.Mode, &r.SBOM.Mode,
		&r.Vulnerabilities.Mode, &r.Tests.Mode, &r.NonRoot.Mode,
	} {
		if *m == "" {
			*m = Enforce
		}
	}
	if len(r.Signature.Signers) == 0 {
		r.Signature.Signers = []string{Configured}
	}
	if r.Vulnerabilities.FailOn == "" {
		r.Vulnerabilities.FailOn = "high"
	}
	if r.Vulnerabilities.UnknownSeverityAs == "" {
		r.Vulnerabilities.UnknownSeverityAs = "high"
	}
	if r.Vulnerabilities.MaxDatabaseAge == 0 {
		r.Vulnerabilities.MaxDatabaseAge = defaultDatabaseAge
	}
	return p
}

// Validate lists what is wrong with a policy.
func (p Policy) Validate() []Problem {
	var out []Problem
	add := func(message, remedy string, path ...string) {
		out = append(out, Problem{Path: path, Message: message, Remedy: remedy})
	}
	r := p.Rules
	for i, m := range []Mode{
		r.Signature.Mode, r.Provenance.Mode, r.SBOM.Mode,
		r.Vulnerabilities.Mode, r.Tests.Mode, r.NonRoot.Mode,
	} {
		if !slices.Contains([]Mode{"", Enforce, Warn, Off}, m) {
			add(fmt.Sprintf("%q is not a mode", m), "write enforce, warn or off", "rules", families[i], "mode")
		}
	}
	for key, s := range map[string]string{"failOn": r.Vulnerabilities.FailOn, "unknownSeverityAs": r.Vulnerabilities.UnknownSeverityAs} {
		if s != "" && !slices.Contains(severities[:], s) {
			add(fmt.Sprintf("%q is not a severity", s), "write "+strings.Join(severities[:], ", "), "rules", "vulnerabilities", key)
		}
	}
	for i, t := range r.Provenance.Tiers {
		if !slices.Contains(tiers[:], t) {
			add(fmt.Sprintf("%q is not a tier", t), "write "+strings.Join(tiers[:], ", "), "rules", "provenance", "tiers", fmt.Sprint(i))
		}
	}
	for i, w := range p.Waivers {
		at := []string{"waivers", fmt.Sprint(i)}
		for _, problem := range w.validate() {
			problem.Path = append(at, problem.Path...)
			out = append(out, problem)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		return strings.Compare(strings.Join(a.Path, "/")+a.Message, strings.Join(b.Path, "/")+b.Message)
	})
	return out
}

func (w Waiver) validate() []Problem {
	var out []Problem
	family, _, _ := strings.Cut(w.Rule, "/")
	switch {
	case !slices.Contains(families[:], family):
		out = append(out, Problem{[]string{"rule"}, fmt.Sprintf("%q is not a rule", w.Rule),
			"name one of " + strings.Join(families[:], ", ") + ", or a rule id a verdict printed"})
	case family == "signature":
		out = append(out, Problem{[]string{"rule"}, "a signature cannot be waived",
			"sign the image, or set the mode of rule signature"})
	}
	for key, v := range map[string]string{"owner": w.Owner, "reason": w.Reason} {
		if strings.TrimSpace(v) == "" {
			out = append(out, Problem{nil, "a waiver without " + key, "say who answers for it, why, and until when: owner, reason, expires"})
		}
	}
	if w.Expires.IsZero() {
		out = append(out, Problem{nil, "a waiver without expires", "give the last day it counts, for example expires: 2027-01-31"})
	}
	return out
}
