package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"drydock/modules/artifact"
)

const (
	remedyRun  = "run drydock again for this image, so that the evidence is made and attested"
	remedySign = "configure a signing key and run drydock again"
)

// judged are the predicate types the rules look at; others do no harm.
var judged = [...]string{
	artifact.PredicateSPDX, artifact.PredicateCycloneDX, artifact.PredicateProvenance,
	artifact.PredicateScan, artifact.PredicateTest,
}

// judgeSignature asks that subject and evidence are signed by someone the
// policy trusts.
func (e *evaluation) judgeSignature() []finding {
	place := e.Subject.String()
	if len(e.Signers) == 0 {
		return []finding{unknown("signature/unsigned", place, remedySign, "unsigned")}
	}
	if !slices.ContainsFunc(e.Signers, e.trusted) {
		return []finding{failed("signature/untrusted", place, "sign it with a key the policy lists under signers",
			"signed by %s, which the policy does not trust", strings.Join(e.Signers, ", "))}
	}
	doubtful := map[string]bool{}
	for _, ev := range e.Evidence {
		if !slices.Contains(judged[:], ev.PredicateType) {
			continue
		}
		if slices.ContainsFunc(e.accepted(ev), func(o artifact.Evidence) bool { return !e.trusted(o.Signer) }) {
			doubtful[ev.PredicateType] = true
		}
	}
	if len(doubtful) == 0 {
		return nil
	}
	types := make([]string, 0, len(doubtful))
	for t := range doubtful {
		types = append(types, t)
	}
	slices.Sort(types)
	return []finding{unknown("signature/evidence", place, remedySign,
		"evidence not signed by a trusted signer: %s", strings.Join(types, ", "))}
}

// accepted lists what the rules would judge where ev speaks.
func (e *evaluation) accepted(ev artifact.Evidence) []artifact.Evidence {
	var out []artifact.Evidence
	if e.speaksOf(ev, nil) {
		out = e.evidence(ev.PredicateType, nil)
	}
	for i := range e.platforms {
		if e.speaksOf(ev, &e.platforms[i]) {
			out = append(out, e.evidence(ev.PredicateType, &e.platforms[i])...)
		}
	}
	return out
}

// provenance is the part of an SLSA v1 provenance predicate that is judged.
type provenance struct {
	BuildDefinition struct {
		InternalParameters struct {
			Engine struct {
				Kind string `json:"kind"`
				Tier string `json:"tier"`
			} `json:"engine"`
			Hermetic *bool  `json:"hermetic"`
			Dirty    *bool  `json:"dirty"`
			Egress   string `json:"egress"`
		} `json:"internalParameters"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

// statements are the provenance of a platform or of the subject. Where the same
// image was built within the mirrors too, that build speaks for it.
func (e *evaluation) statements(t *target) []artifact.Evidence {
	all := e.evidence(artifact.PredicateProvenance, t)
	if slices.ContainsFunc(all, func(ev artifact.Evidence) bool { return !observed(ev) }) {
		return slices.DeleteFunc(all, observed)
	}
	return all
}

// observed says whether provenance is of a build with --egress=observe.
func observed(ev artifact.Evidence) bool {
	var p provenance
	return json.Unmarshal(ev.Predicate, &p) == nil && p.BuildDefinition.InternalParameters.Egress == "observed"
}

// judgeProvenance asks for provenance of the whole subject, or else of every
// platform of it.
func (e *evaluation) judgeProvenance() []finding {
	if whole := e.statements(nil); len(whole) > 0 {
		return e.judgeStatements(whole, e.Subject.String())
	}
	var out []finding
	for i := range e.platforms {
		t := &e.platforms[i]
		evs := e.statements(t)
		if len(evs) == 0 {
			out = append(out, unknown("provenance/missing", t.platform.String(), remedyRun, "no provenance"))
			continue
		}
		out = append(out, e.judgeStatements(evs, t.platform.String())...)
	}
	return out
}

func (e *evaluation) judgeStatements(evs []artifact.Evidence, place string) []finding {
	var out []finding
	for _, ev := range evs {
		var p provenance
		if err := json.Unmarshal(ev.Predicate, &p); err != nil {
			out = append(out, unknown("provenance/unreadable", place, remedyRun, "the provenance cannot be read: %v", err))
			continue
		}
		out = append(out, e.judgeStatement(p, place)...)
	}
	return out
}

func (e *evaluation) judgeStatement(p provenance, place string) []finding {
	var out []finding
	rule := e.Policy.Rules.Provenance
	internal := p.BuildDefinition.InternalParameters
	builder := p.RunDetails.Builder.ID
	if len(rule.Builders) > 0 && !slices.ContainsFunc(rule.Builders, func(g string) bool { return glob(g, builder) }) {
		out = append(out, failed("provenance/builder", place, "build with one of the builders the policy lists",
			"built by %q, which the policy does not list", builder))
	}
	if rule.Hermetic {
		out = append(out, asks("provenance/hermetic", place, "build with the embedded engine, whose steps reach nothing but the mirrors",
			internal.Hermetic, true, "the build was not hermetic", "the provenance does not say whether the build was hermetic")...)
	}
	if !rule.AllowDirty {
		out = append(out, asks("provenance/dirty", place, "commit the changes and build again",
			internal.Dirty, false, "built from a context that is not a clean commit", "the provenance does not say whether the context was a clean commit")...)
	}
	if tier := internal.Engine.Tier; len(rule.Tiers) > 0 && !slices.Contains(rule.Tiers, tier) {
		out = append(out, failed("provenance/tier", place, "build on an engine of tier "+strings.Join(rule.Tiers, " or "),
			"built on an engine of tier %q", tier))
	}
	return out
}

// asks fails when a stated fact is not the wanted one and is unknown when it
// is not stated.
func asks(rule, place, remedy string, fact *bool, want bool, bad, missing string) []finding {
	switch {
	case fact == nil:
		return []finding{unknown(rule, place, remedy, "%s", missing)}
	case *fact != want:
		return []finding{failed(rule, place, remedy, "%s", bad)}
	}
	return nil
}

// judgeSBOM asks for a bill of materials of every platform, in either format.
func (e *evaluation) judgeSBOM() []finding {
	var out []finding
	for i := range e.platforms {
		t := &e.platforms[i]
		evs := append(e.evidence(artifact.PredicateSPDX, t), e.evidence(artifact.PredicateCycloneDX, t)...)
		if len(evs) == 0 {
			out = append(out, unknown("sbom/missing", t.platform.String(), remedyRun, "no bill of materials"))
		}
		for _, ev := range evs {
			var doc map[string]json.RawMessage
			if err := json.Unmarshal(ev.Predicate, &doc); err != nil || len(doc) == 0 {
				out = append(out, unknown("sbom/unreadable", t.platform.String(), remedyRun, "the bill of materials cannot be read"))
			}
		}
	}
	return out
}

// judgeTests asks that every platform was tested and nothing failed.
func (e *evaluation) judgeTests() []finding {
	var out []finding
	for i := range e.platforms {
		t := &e.platforms[i]
		evs := e.evidence(artifact.PredicateTest, t)
		if len(evs) == 0 {
			out = append(out, unknown("tests/missing", t.platform.String(), remedyRun, "no test report"))
		}
		for _, ev := range evs {
			var r artifact.TestReport
			if err := decode(ev.Predicate, &r, &r.Version); err != nil {
				out = append(out, unknown("tests/unreadable", t.platform.String(), remedyRun, "the test report: %v", err))
				continue
			}
			out = append(out, e.judgeReport(r, t.platform)...)
		}
	}
	return out
}

func (e *evaluation) judgeReport(r artifact.TestReport, p artifact.Platform) []finding {
	var out []finding
	seen := map[string]int{}
	for _, res := range r.Results {
		seen[res.Status]++
		if res.Status == "failed" {
			out = append(out, failed("tests/failed", p.String()+" "+res.Name, "see the test's output in the report", "%s test failed: %s", res.Kind, res.Message))
		}
	}
	static := slices.Contains(e.Policy.Rules.Tests.StaticOnly, p)
	switch {
	case !consistent(r, seen):
		out = append(out, unknown("tests/partial", p.String(), remedyRun, "the test report's counts and results disagree"))
	case r.Failed > 0:
	case r.StaticOnly && !static:
		out = append(out, unknown("tests/static-only", p.String(), "run the tests where the platform can be executed, or list it under staticOnly",
			"only static tests were made, the engine cannot execute this platform"))
	case r.Passed == 0 && !(r.StaticOnly && static && r.Skipped > 0):
		out = append(out, unknown("tests/none", p.String(), "give the image tests in the catalog", "no test passed, because none was made"))
	case r.Skipped > 0 && !r.StaticOnly:
		out = append(out, unknown("tests/skipped", p.String(), "run the tests where none is skipped", "%d of %d tests were skipped", r.Skipped, len(r.Results)))
	}
	return out
}

// consistent says whether a report's counts are those of its results.
func consistent(r artifact.TestReport, seen map[string]int) bool {
	return seen["failed"] == r.Failed && seen["passed"] == r.Passed && seen["skipped"] == r.Skipped &&
		len(r.Results) == r.Failed+r.Passed+r.Skipped
}

// judgeNonRoot asks that the image's config names an ordinary user, and that
// the tests, where they ran, saw one.
func (e *evaluation) judgeNonRoot() []finding {
	const remedy = "end the Dockerfile's last stage with USER and an ordinary user, or name one as user: of the image"
	var out []finding
	for i := range e.platforms {
		t := &e.platforms[i]
		seen := e.seenUser(t)
		user, known := e.Users[t.digest]
		switch {
		case known && isRoot(user):
			out = append(out, failed("nonRoot/user", t.platform.String(), remedy, "the image runs as root (user %q)", user))
		case seen != "" && isRoot(seen):
			out = append(out, failed("nonRoot/user", t.platform.String(), remedy, "the image ran as %s when it was tested", seen))
		case !known && seen == "":
			out = append(out, unknown("nonRoot/user", t.platform.String(), remedyRun, "it is not known which user the image runs as"))
		}
	}
	return out
}

// seenUser is the uid:gid the tests ran as, "" where none ran.
func (e *evaluation) seenUser(t *target) string {
	for _, ev := range e.evidence(artifact.PredicateTest, t) {
		var r artifact.TestReport
		if decode(ev.Predicate, &r, &r.Version) == nil && !r.StaticOnly && r.Confinement.User != "" {
			return r.Confinement.User
		}
	}
	return ""
}

func isRoot(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	name = strings.TrimSpace(name)
	return name == "root" || strings.Trim(name, "0") == ""
}

// join names platforms in a place.
func join(ps []artifact.Platform) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return fmt.Sprintf("(%s)", strings.Join(s, ", "))
}
