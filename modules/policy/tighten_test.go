package policy

import (
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"

	"gopkg.in/yaml.v3"
)

// What a project may write, what it may not, and that the one changes the
// verdict and the other nothing.
func TestTighten(t *testing.T) {
	amd, arm := artifact.Platform{OS: "linux", Architecture: "amd64"}, artifact.Platform{OS: "linux", Architecture: "arm64"}
	p := Policy{AllowUnknown: true}
	p.Rules.Signature.Signers = []string{Configured, "ops"}
	p.Rules.Provenance.Tiers = []string{"T1", "T2"}
	p.Rules.Vulnerabilities = Vulnerabilities{OnlyFixed: true, FailOn: "high", UnknownSeverityAs: "medium", MaxDatabaseAge: Duration(48 * time.Hour), IgnoreTypes: []string{"npm"}}
	p.Rules.Tests = Tests{Mode: Warn, StaticOnly: []artifact.Platform{amd, arm}}
	for name, c := range map[string]struct{ text, loosens string }{
		"unknown refused":   {"allowUnknown: false", ""},
		"the same":          {"allowUnknown: true", ""},
		"a lower severity":  {"rules: {vulnerabilities: {failOn: low}}", ""},
		"a higher severity": {"rules: {vulnerabilities: {failOn: critical}}", "rule vulnerabilities.failOn: critical is no tightening of high"},
		"no severity":       {"rules: {vulnerabilities: {failOn: awful}}", "failOn"},
		"unknown is high":   {"rules: {vulnerabilities: {unknownSeverityAs: critical}}", ""},
		"unknown is low":    {"rules: {vulnerabilities: {unknownSeverityAs: low}}", "unknownSeverityAs"},
		"unfixed too":       {"rules: {vulnerabilities: {onlyFixed: false}}", ""},
		"younger":           {"rules: {vulnerabilities: {maxDatabaseAge: 1d}}", ""},
		"older":             {"rules: {vulnerabilities: {maxDatabaseAge: 3d}}", "at most 2d"},
		"no age":            {"rules: {vulnerabilities: {maxDatabaseAge: 0s}}", "maxDatabaseAge"},
		"nothing ignored":   {"rules: {vulnerabilities: {ignorePackageTypes: []}}", ""},
		"more ignored":      {"rules: {vulnerabilities: {ignorePackageTypes: [npm, deb]}}", "ignorePackageTypes"},
		"enforced":          {"rules: {tests: {mode: enforce}}", ""},
		"switched off":      {"rules: {tests: {mode: off}}", "rule tests.mode: off is no tightening of warn"},
		"no mode":           {"rules: {sbom: {mode: maybe}}", "sbom.mode"},
		"fewer static":      {"rules: {tests: {staticOnly: [linux/arm64]}}", ""},
		"more static":       {"rules: {tests: {staticOnly: [linux/riscv64]}}", "staticOnly"},
		"one signer":        {"rules: {signature: {signers: [ops]}}", ""},
		"another signer":    {"rules: {signature: {signers: [me]}}", "some of configured, ops"},
		"no signer":         {"rules: {signature: {signers: []}}", "signers"},
		"one tier":          {"rules: {provenance: {tiers: [T1]}}", ""},
		"any tier":          {"rules: {provenance: {tiers: []}}", "tiers"},
		"a builder":         {"rules: {provenance: {builders: [ours], hermetic: true}}", ""},
		"root":              {"rules: {nonRoot: {mode: warn}}", "nonRoot.mode"},
		"a dirty tree":      {"rules: {provenance: {allowDirty: true}}", "allowDirty"},
	} {
		t.Run(name, func(t *testing.T) {
			var by Tightening
			if err := yaml.Unmarshal([]byte(c.text), &by); err != nil {
				t.Fatal(err)
			}
			got, changed, problems := p.Tighten(by)
			if c.loosens == "" {
				if len(problems) > 0 {
					t.Fatal("refused:", problems)
				}
				if name != "the same" && len(changed) == 0 {
					t.Error("nothing changed")
				}
				return
			}
			if len(problems) != 1 || !strings.Contains(problems[0].Message+problems[0].Remedy, c.loosens) {
				t.Errorf("%v, want one about %q", problems, c.loosens)
			}
			if len(changed) != 0 || shown(got) != shown(p.WithDefaults()) {
				t.Error("a loosening changed the policy")
			}
		})
	}
}

// A policy that admits any tier is tightened to those there are.
func TestTightenTiers(t *testing.T) {
	for want, refused := range map[string]bool{"T1": false, "T3": false, "t1": true} {
		var by Tightening
		by.Rules.Provenance.Tiers = &[]string{want}
		if _, changed, problems := (Policy{}).Tighten(by); refused != (len(problems) > 0) || refused == (len(changed) > 0) {
			t.Errorf("%s: %v, %v", want, changed, problems)
		}
	}
}
