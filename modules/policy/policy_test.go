package policy

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
)

const (
	index = artifact.Digest("sha256:1111111111111111111111111111111111111111111111111111111111111111")
	amd   = artifact.Digest("sha256:2222222222222222222222222222222222222222222222222222222222222222")
	arm   = artifact.Digest("sha256:3333333333333333333333333333333333333333333333333333333333333333")
)

var (
	amd64 = artifact.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = artifact.Platform{OS: "linux", Architecture: "arm64"}
	now   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
)

func raw(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func scanReport() artifact.ScanReport {
	return artifact.ScanReport{
		Version: 1, Scanner: "grype",
		Database: artifact.Database{Built: now.Add(-24 * time.Hour), Knowledge: map[string]artifact.Knowledge{
			"deb": {Covered: true, Unfixed: true, Severities: true},
		}},
		Packages: map[string]int{"deb": 4, "npm": 0},
		Findings: []artifact.Finding{{ID: "CVE-1", Severity: "low", Package: "zlib", Version: "1", Type: "deb"}},
		Counts:   artifact.Counts{Low: 1},
	}
}

func testReport() artifact.TestReport {
	return artifact.TestReport{
		Version: 1, Passed: 1, Results: []artifact.TestResult{{Name: "answers", Kind: "service", Status: "passed"}},
		Confinement: artifact.Confinement{User: "65532:65532"},
	}
}

func provenanceOf(hermetic, dirty bool, tier string) json.RawMessage {
	return raw(map[string]any{
		"buildDefinition": map[string]any{"internalParameters": map[string]any{
			"engine": map[string]any{"kind": "embedded", "tier": tier}, "hermetic": hermetic, "dirty": dirty,
		}},
		"runDetails": map[string]any{"builder": map[string]any{"id": "https://builder.test/one/v1"}},
	})
}

// good is an input every rule is content with: one platform.
func good() Input {
	ev := func(t string, predicate any) artifact.Evidence {
		return artifact.Evidence{Subject: amd, Platform: &amd64, PredicateType: t, Predicate: raw(predicate), Signer: "key-1"}
	}
	return Input{
		Subject:    artifact.Subject{Repository: "quarantine.test/team/app", Digest: index},
		Platforms:  map[artifact.Digest]artifact.Platform{amd: amd64},
		Users:      map[artifact.Digest]string{amd: "65532:65532"},
		Signers:    []string{"key-1"},
		Configured: []string{"key-1"},
		Evidence: []artifact.Evidence{
			ev(artifact.PredicateSPDX, map[string]any{"spdxVersion": "SPDX-2.3"}),
			ev(artifact.PredicateScan, scanReport()),
			ev(artifact.PredicateTest, testReport()),
			{Subject: index, PredicateType: artifact.PredicateProvenance, Predicate: provenanceOf(true, false, "T1"), Signer: "key-1"},
		},
		Policy: Policy{Version: 1, Name: "p", Rules: Rules{Provenance: Provenance{Hermetic: true}}},
		Now:    now,
	}
}

// with replaces the predicate of one type.
func with(in Input, predicateType string, predicate any) Input {
	for i := range in.Evidence {
		if in.Evidence[i].PredicateType == predicateType {
			in.Evidence[i].Predicate = raw(predicate)
		}
	}
	return in
}

// without drops the evidence of one type.
func without(in Input, predicateType string) Input {
	var kept []artifact.Evidence
	for _, e := range in.Evidence {
		if e.PredicateType != predicateType {
			kept = append(kept, e)
		}
	}
	in.Evidence = kept
	return in
}

type verdictCase struct {
	name    string
	change  func(*Input)
	outcome artifact.Outcome
	rule    string // of the first reason; "" no reason at all
	text    string // in the reason
}

func scanned(change func(*artifact.ScanReport)) func(*Input) {
	return func(in *Input) {
		r := scanReport()
		change(&r)
		r.Counts = count(r.Findings)
		*in = with(*in, artifact.PredicateScan, r)
	}
}

func tested(change func(*artifact.TestReport)) func(*Input) {
	return func(in *Input) {
		r := testReport()
		change(&r)
		*in = with(*in, artifact.PredicateTest, r)
	}
}

func add(f artifact.Finding) func(*Input) {
	return scanned(func(r *artifact.ScanReport) { r.Findings = append(r.Findings, f) })
}

func check(t *testing.T, cases []verdictCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := good()
			c.change(&in)
			v := Evaluate(in)
			if v.Outcome != c.outcome {
				t.Errorf("verdict %s, want %s: %+v", v.Outcome, c.outcome, v.Reasons)
			}
			if c.rule == "" {
				if len(v.Reasons) != 0 {
					t.Errorf("reasons %+v, want none", v.Reasons)
				}
				return
			}
			if len(v.Reasons) == 0 {
				t.Fatal("no reason")
			}
			r := v.Reasons[0]
			if r.Rule != c.rule || !strings.Contains(r.Reason, c.text) {
				t.Errorf("reason %+v, want rule %s with %q", r, c.rule, c.text)
			}
			for _, r := range v.Reasons {
				if r.Place == "" || r.Remedy == "" {
					t.Errorf("reason without place or remedy: %+v", r)
				}
			}
		})
	}
}

func TestAllGood(t *testing.T) {
	check(t, []verdictCase{{"everything there", func(*Input) {}, artifact.Pass, "", ""}})
}

func TestSignature(t *testing.T) {
	sign := func(signer string) func(*Input) {
		return func(in *Input) { in.Signers = []string{signer} }
	}
	check(t, []verdictCase{
		{"unsigned", func(in *Input) { in.Signers = nil }, artifact.Unknown, "signature/unsigned", "unsigned"},
		{"by someone else", sign("key-2"), artifact.Fail, "signature/untrusted", "key-2"},
		{"nobody configured", func(in *Input) { in.Configured = nil }, artifact.Fail, "signature/untrusted", "key-1"},
		{"listed by a glob", func(in *Input) {
			in.Configured = nil
			in.Policy.Rules.Signature.Signers = []string{"key-*"}
		}, artifact.Pass, "", ""},
		{"one more than trusted", func(in *Input) { in.Signers = []string{"key-9", "key-1"} }, artifact.Pass, "", ""},
		{"evidence unsigned", func(in *Input) { in.Evidence[1].Signer = "" }, artifact.Unknown, "signature/evidence", artifact.PredicateScan},
		{"forged evidence beside the real", func(in *Input) {
			r := scanReport()
			r.Findings, r.Counts = nil, artifact.Counts{}
			forged := in.Evidence[1]
			forged.Signer, forged.Predicate = "", raw(r)
			in.Evidence = append([]artifact.Evidence{forged}, in.Evidence...)
			bad := scanReport()
			bad.Findings = append(bad.Findings, artifact.Finding{ID: "CVE-2", Severity: "critical", Package: "p", Type: "deb"})
			bad.Counts.Critical = 1
			in.Evidence[2].Predicate = raw(bad)
		}, artifact.Fail, "vulnerabilities/severity", "CVE-2"},
		{"evidence of no concern", func(in *Input) {
			in.Evidence = append(in.Evidence, artifact.Evidence{Subject: amd, PredicateType: "https://other.test/v1"})
		}, artifact.Pass, "", ""},
		{"switched off", func(in *Input) {
			in.Signers = nil
			in.Policy.Rules.Signature.Mode = Off
		}, artifact.Pass, "", ""},
		{"warned of", func(in *Input) {
			in.Signers = nil
			in.Policy.Rules.Signature.Mode = Warn
		}, artifact.Pass, "signature/unsigned", "warning: unsigned"},
	})
}

func TestProvenance(t *testing.T) {
	provenance := func(raw json.RawMessage, change func(*Provenance)) func(*Input) {
		return func(in *Input) {
			in.Evidence[3].Predicate = raw
			if change != nil {
				change(&in.Policy.Rules.Provenance)
			}
		}
	}
	check(t, []verdictCase{
		{"missing", func(in *Input) { *in = without(*in, artifact.PredicateProvenance) }, artifact.Unknown, "provenance/missing", "no provenance"},
		{"of another subject", func(in *Input) { in.Evidence[3].Subject = arm }, artifact.Unknown, "provenance/missing", ""},
		{"per platform", func(in *Input) { in.Evidence[3].Subject = amd }, artifact.Pass, "", ""},
		{"unreadable", provenance(json.RawMessage(`[1]`), nil), artifact.Unknown, "provenance/unreadable", "cannot be read"},
		{"not hermetic", provenance(provenanceOf(false, false, "T1"), nil), artifact.Fail, "provenance/hermetic", "not hermetic"},
		{"not hermetic, not asked", provenance(provenanceOf(false, false, "T1"), func(p *Provenance) { p.Hermetic = false }), artifact.Pass, "", ""},
		{"silent", provenance(json.RawMessage(`{}`), nil), artifact.Unknown, "provenance/hermetic", "does not say"},
		{"dirty", provenance(provenanceOf(true, true, "T1"), nil), artifact.Fail, "provenance/dirty", "not a clean commit"},
		{"dirty allowed", provenance(provenanceOf(true, true, "T1"), func(p *Provenance) { p.AllowDirty = true }), artifact.Pass, "", ""},
		{"weaker tier", provenance(provenanceOf(true, false, "T2"), func(p *Provenance) { p.Tiers = []string{"T1"} }), artifact.Fail, "provenance/tier", `"T2"`},
		{"other builder", provenance(provenanceOf(true, false, "T1"), func(p *Provenance) { p.Builders = []string{"https://ci.test/*"} }), artifact.Fail, "provenance/builder", "builder.test"},
		{"right builder", provenance(provenanceOf(true, false, "T1"), func(p *Provenance) { p.Builders = []string{"https://builder.test/*/v1"} }), artifact.Pass, "", ""},
	})
}

func TestSBOM(t *testing.T) {
	check(t, []verdictCase{
		{"missing", func(in *Input) { *in = without(*in, artifact.PredicateSPDX) }, artifact.Unknown, "sbom/missing", "no bill"},
		{"the other format", func(in *Input) { in.Evidence[0].PredicateType = artifact.PredicateCycloneDX }, artifact.Pass, "", ""},
		{"empty", func(in *Input) { in.Evidence[0].Predicate = raw(map[string]any{}) }, artifact.Unknown, "sbom/unreadable", ""},
		{"of one platform of two", func(in *Input) {
			in.Platforms = map[artifact.Digest]artifact.Platform{amd: amd64, arm: arm64}
			in.Policy.Rules = Rules{Provenance: Provenance{Mode: Off}, Tests: Tests{Mode: Off}, Vulnerabilities: Vulnerabilities{Mode: Off}, NonRoot: NonRoot{Mode: Off}}
		}, artifact.Unknown, "sbom/missing", "no bill"},
	})
}

func TestTests(t *testing.T) {
	static := func(r *artifact.TestReport) {
		r.StaticOnly, r.Confinement = true, artifact.Confinement{NotExecutable: true}
		r.Results = append(r.Results, artifact.TestResult{Name: "runs", Kind: "command", Status: "skipped"})
		r.Skipped = 1
	}
	check(t, []verdictCase{
		{"missing", func(in *Input) { *in = without(*in, artifact.PredicateTest) }, artifact.Unknown, "tests/missing", "no test report"},
		{"failed", tested(func(r *artifact.TestReport) {
			r.Failed = 1
			r.Results = append(r.Results, artifact.TestResult{Name: "x", Kind: "command", Status: "failed", Message: "exit 1"})
		}), artifact.Fail, "tests/failed", "exit 1"},
		{"none made", tested(func(r *artifact.TestReport) { r.Passed, r.Results = 0, nil }), artifact.Unknown, "tests/none", "none was made"},
		{"skipped", tested(func(r *artifact.TestReport) {
			r.Skipped = 1
			r.Results = append(r.Results, artifact.TestResult{Status: "skipped"})
		}), artifact.Unknown, "tests/skipped", "1 of 2"},
		{"counts lie", tested(func(r *artifact.TestReport) { r.Passed = 7 }), artifact.Unknown, "tests/partial", "disagree"},
		{"newer report", tested(func(r *artifact.TestReport) { r.Version = 2 }), artifact.Unknown, "tests/unreadable", "version 2"},
		{"static only", tested(static), artifact.Unknown, "tests/static-only", "static"},
		{"static only, listed", func(in *Input) {
			tested(static)(in)
			in.Policy.Rules.Tests.StaticOnly = []artifact.Platform{amd64}
		}, artifact.Pass, "", ""},
	})
}

func TestNonRoot(t *testing.T) {
	user := func(u string) func(*Input) {
		return func(in *Input) { in.Users[amd] = u }
	}
	check(t, []verdictCase{
		{"none said", user(""), artifact.Fail, "nonRoot/user", "root"},
		{"root", user("root"), artifact.Fail, "nonRoot/user", "root"},
		{"root by number", user("0:1000"), artifact.Fail, "nonRoot/user", "root"},
		{"many noughts", user("000"), artifact.Fail, "nonRoot/user", "root"},
		{"by name", user("redis"), artifact.Pass, "", ""},
		{"a name that is root", func(in *Input) {
			user("toor")(in)
			tested(func(r *artifact.TestReport) { r.Confinement.User = "0:0" })(in)
		}, artifact.Fail, "nonRoot/user", "ran as 0:0"},
		{"config not known, seen by the tests", func(in *Input) { in.Users = nil }, artifact.Pass, "", ""},
		{"not known at all", func(in *Input) {
			in.Users = nil
			tested(func(r *artifact.TestReport) { r.Confinement.User = "" })(in)
		}, artifact.Unknown, "nonRoot/user", "not known"},
	})
}

func TestNoPlatforms(t *testing.T) {
	check(t, []verdictCase{{"nothing to judge", func(in *Input) { in.Platforms = nil }, artifact.Unknown, "subject/platforms", "no platform"}})
}

// What was built with a way out stays where it is, whatever the policy says of
// provenance, until the same image was built without.
func TestObservedStays(t *testing.T) {
	out := `{"buildDefinition":{"internalParameters":{"hermetic":false,"dirty":false,"egress":"observed"}}}`
	in := `{"buildDefinition":{"internalParameters":{"hermetic":true,"dirty":false}}}`
	judge := func(mode Mode, statements ...string) artifact.Verdict {
		d := artifact.Digest("sha256:" + strings.Repeat("a", 64))
		i := Input{
			Subject: artifact.Subject{Repository: "q/x", Digest: d}, Platforms: map[artifact.Digest]artifact.Platform{d: {OS: "linux", Architecture: "amd64"}},
			Policy: Policy{Rules: Rules{
				Provenance: Provenance{Mode: mode}, Signature: Signature{Mode: Off}, SBOM: SBOM{Mode: Off}, Vulnerabilities: Vulnerabilities{Mode: Off}, Tests: Tests{Mode: Off}, NonRoot: NonRoot{Mode: Off},
			}},
		}
		for _, s := range statements {
			i.Evidence = append(i.Evidence, artifact.Evidence{Subject: d, PredicateType: artifact.PredicateProvenance, Predicate: []byte(s)})
		}
		return Evaluate(i)
	}
	for _, mode := range []Mode{Enforce, Warn, Off} {
		if v := judge(mode, out); v.Outcome != artifact.Fail || v.Reasons[0].Rule != "subject/observed" {
			t.Errorf("%s: %+v", mode, v)
		}
		if v := judge(mode, out, in); v.Outcome == artifact.Fail {
			t.Errorf("%s, built without too: %+v", mode, v)
		}
		if v := judge(mode, in); v.Outcome == artifact.Fail {
			t.Errorf("%s, built without: %+v", mode, v)
		}
	}
}
