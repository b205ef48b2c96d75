package policy

import (
	"fmt"
	"slices"
	"strings"

	"drydock/modules/artifact"
)

// Tightening makes a policy stricter. What it leaves out stays as it is; there
// is nothing in it with which a rule could be waived.
type Tightening struct {
	AllowUnknown *bool          `yaml:"allowUnknown"`
	Rules        TightenedRules `yaml:"rules"`
}

// TightenedRules are the rules of a Tightening, with the keys of Rules.
type TightenedRules struct {
	Signature struct {
		Mode    *Mode     `yaml:"mode"`
		Signers *[]string `yaml:"signers"` // some of the policy's
	} `yaml:"signature"`
	Provenance struct {
		Mode       *Mode     `yaml:"mode"`
		Builders   *[]string `yaml:"builders"` // some of the policy's, any where it names none
		Hermetic   *bool     `yaml:"hermetic"`
		AllowDirty *bool     `yaml:"allowDirty"`
		Tiers      *[]string `yaml:"tiers"` // some of the policy's, any where it names none
	} `yaml:"provenance"`
	SBOM struct {
		Mode *Mode `yaml:"mode"`
	} `yaml:"sbom"`
	Vulnerabilities struct {
		Mode              *Mode     `yaml:"mode"`
		FailOn            *string   `yaml:"failOn"`
		UnknownSeverityAs *string   `yaml:"unknownSeverityAs"`
		OnlyFixed         *bool     `yaml:"onlyFixed"`
		MaxDatabaseAge    *Duration `yaml:"maxDatabaseAge"`
		IgnoreTypes       *[]string `yaml:"ignorePackageTypes"` // some of the policy's
	} `yaml:"vulnerabilities"`
	Tests struct {
		Mode       *Mode                `yaml:"mode"`
		StaticOnly *[]artifact.Platform `yaml:"staticOnly"` // some of the policy's
	} `yaml:"tests"`
	NonRoot struct {
		Mode *Mode `yaml:"mode"`
	} `yaml:"nonRoot"`
}

// Tightened is one value of a policy that became stricter.
type Tightened struct {
	Path []string // YAML keys
	Was  string
	Is   string
}

// Tighten gives the policy, defaults filled in, made stricter by t; what
// changed; and what t would loosen, or names that there is not.
func (p Policy) Tighten(t Tightening) (Policy, []Tightened, []Problem) {
	p = p.WithDefaults()
	r, by, c := &p.Rules, &t.Rules, &comparer{}
	apply(c, "allowUnknown", &p.AllowUnknown, t.AllowUnknown, mustBe(false))
	apply(c, "rules/signature/mode", &r.Signature.Mode, by.Signature.Mode, stricterMode)
	apply(c, "rules/signature/signers", &r.Signature.Signers, by.Signature.Signers, someOf[string])
	apply(c, "rules/provenance/mode", &r.Provenance.Mode, by.Provenance.Mode, stricterMode)
	apply(c, "rules/provenance/builders", &r.Provenance.Builders, by.Provenance.Builders, someOfAny)
	apply(c, "rules/provenance/hermetic", &r.Provenance.Hermetic, by.Provenance.Hermetic, mustBe(true))
	apply(c, "rules/provenance/allowDirty", &r.Provenance.AllowDirty, by.Provenance.AllowDirty, mustBe(false))
	apply(c, "rules/provenance/tiers", &r.Provenance.Tiers, by.Provenance.Tiers, someTiers)
	apply(c, "rules/sbom/mode", &r.SBOM.Mode, by.SBOM.Mode, stricterMode)
	v, vby := &r.Vulnerabilities, &by.Vulnerabilities
	apply(c, "rules/vulnerabilities/mode", &v.Mode, vby.Mode, stricterMode)
	apply(c, "rules/vulnerabilities/failOn", &v.FailOn, vby.FailOn, milder)
	apply(c, "rules/vulnerabilities/unknownSeverityAs", &v.UnknownSeverityAs, vby.UnknownSeverityAs, worse)
	apply(c, "rules/vulnerabilities/onlyFixed", &v.OnlyFixed, vby.OnlyFixed, mustBe(false))
	apply(c, "rules/vulnerabilities/maxDatabaseAge", &v.MaxDatabaseAge, vby.MaxDatabaseAge, shorter)
	apply(c, "rules/vulnerabilities/ignorePackageTypes", &v.IgnoreTypes, vby.IgnoreTypes, fewerOf[string])
	apply(c, "rules/tests/mode", &r.Tests.Mode, by.Tests.Mode, stricterMode)
	apply(c, "rules/tests/staticOnly", &r.Tests.StaticOnly, by.Tests.StaticOnly, fewerOf[artifact.Platform])
	apply(c, "rules/nonRoot/mode", &r.NonRoot.Mode, by.NonRoot.Mode, stricterMode)
	return p, c.changed, c.problems
}

// comparer collects what a tightening does.
type comparer struct {
	changed  []Tightened
	problems []Problem
}

// apply puts want in the place of have where judge finds it no looser; judge
// says what is allowed, "" when want is.
func apply[T any](c *comparer, path string, have, want *T, judge func(have, want T) string) {
	if want == nil {
		return
	}
	keys := strings.Split(path, "/")
	was, is := shown(*have), shown(*want)
	if allowed := judge(*have, *want); allowed != "" {
		where := strings.Join(keys[max(0, len(keys)-2):], ".")
		c.problems = append(c.problems, Problem{
			Path: keys, Message: fmt.Sprintf("rule %s: %s is no tightening of %s", where, is, was), Remedy: "a project may only tighten: " + allowed,
		})
		return
	}
	if was != is {
		c.changed = append(c.changed, Tightened{Path: keys, Was: was, Is: is})
		*have = *want
	}
}

func shown(v any) string { return strings.TrimPrefix(strings.TrimSuffix(fmt.Sprint(v), "]"), "[") }

func mustBe(strict bool) func(have, want bool) string {
	return func(have, want bool) string {
		if want == strict || want == have {
			return ""
		}
		return fmt.Sprintf("write %t, or leave it out", strict)
	}
}

func stricterMode(have, want Mode) string {
	order := []Mode{Off, Warn, Enforce}
	h, w := slices.Index(order, have), slices.Index(order, want)
	if w >= h && w >= 0 {
		return ""
	}
	return "write " + oneOf(order[max(h, 0):])
}

func milder(have, want string) string {
	h, w := slices.Index(severities[:], have), slices.Index(severities[:], want)
	if w >= 0 && w <= h {
		return ""
	}
	return "write " + oneOf(severities[:h+1])
}

func worse(have, want string) string {
	h, w := slices.Index(severities[:], have), slices.Index(severities[:], want)
	if w >= h {
		return ""
	}
	return "write " + oneOf(severities[max(h, 0):])
}

func shorter(have, want Duration) string {
	if want > 0 && want <= have {
		return ""
	}
	return "write at most " + have.String()
}

// someOf wants a part of a list that says what is admitted.
func someOf[T comparable](have, want []T) string {
	if len(want) > 0 && fewerOf(have, want) == "" {
		return ""
	}
	return "write some of " + oneOf(have)
}

// someTiers is someOf of the tiers there are where the policy admits any.
func someTiers(have, want []string) string {
	if len(have) > 0 || len(want) == 0 {
		return someOfAny(have, want)
	}
	return someOf(tiers[:], want)
}

// someOfAny is someOf where an empty list admits everything.
func someOfAny(have, want []string) string {
	if len(have) == 0 {
		return ""
	}
	return someOf(have, want)
}

// fewerOf wants a part of a list that says what is let off.
func fewerOf[T comparable](have, want []T) string {
	if !slices.ContainsFunc(want, func(w T) bool { return !slices.Contains(have, w) }) {
		return ""
	}
	if len(have) == 0 {
		return "leave it out"
	}
	return "write some of " + oneOf(have) + ", or []"
}

func oneOf[T any](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ", ")
}
