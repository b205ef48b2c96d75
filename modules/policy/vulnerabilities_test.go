package policy

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
)

func TestVulnerabilities(t *testing.T) {
	high := artifact.Finding{ID: "CVE-2", Severity: "High", Package: "openssl", Version: "3", Type: "deb", FixState: "not-fixed"}
	rule := func(change func(*Vulnerabilities), then func(*Input)) func(*Input) {
		return func(in *Input) {
			change(&in.Policy.Rules.Vulnerabilities)
			then(in)
		}
	}
	edit := func(change func(*artifact.Finding)) artifact.Finding {
		f := high
		change(&f)
		return f
	}
	check(t, []verdictCase{
		{"missing", func(in *Input) { *in = without(*in, artifact.PredicateScan) }, artifact.Unknown, "vulnerabilities/missing", "no vulnerability scan"},
		{"high", add(high), artifact.Fail, "vulnerabilities/severity", "CVE-2: high; no fix yet"},
		{"high, only critical fails", rule(func(v *Vulnerabilities) { v.FailOn = "critical" }, add(high)), artifact.Pass, "", ""},
		{"low, low fails", rule(func(v *Vulnerabilities) { v.FailOn = "low" }, func(*Input) {}), artifact.Fail, "vulnerabilities/severity", "CVE-1"},
		{"unfixed, only fixed count", rule(func(v *Vulnerabilities) { v.OnlyFixed = true }, add(high)), artifact.Pass, "", ""},
		{"fixed, only fixed count", rule(func(v *Vulnerabilities) { v.OnlyFixed = true }, add(edit(func(f *artifact.Finding) { f.FixedIn = []string{"4"} }))), artifact.Fail, "vulnerabilities/severity", "fixed in 4"},
		{"known exploited, though low and unfixed", rule(func(v *Vulnerabilities) { v.OnlyFixed = true }, add(edit(func(f *artifact.Finding) { f.Severity, f.KEV = "low", true }))), artifact.Fail, "vulnerabilities/known-exploited", "exploited"},
		{"unknown severity is high", add(edit(func(f *artifact.Finding) { f.Severity = "unknown" })), artifact.Fail, "vulnerabilities/severity", "counted as high"},
		{"unknown severity is low", rule(func(v *Vulnerabilities) { v.UnknownSeverityAs = "low" }, add(edit(func(f *artifact.Finding) { f.Severity = "unknown" }))), artifact.Pass, "", ""},
		{"a severity nobody knows", add(edit(func(f *artifact.Finding) { f.Severity = "awful" })), artifact.Fail, "vulnerabilities/severity", "unknown severity"},
		{"old database", scanned(func(r *artifact.ScanReport) { r.Database.Built = now.Add(-6 * 24 * time.Hour) }), artifact.Unknown, "vulnerabilities/database-age", "more than 5d old"},
		{"old database allowed", rule(func(v *Vulnerabilities) { v.MaxDatabaseAge = Duration(30 * 24 * time.Hour) }, scanned(func(r *artifact.ScanReport) { r.Database.Built = now.Add(-6 * 24 * time.Hour) })), artifact.Pass, "", ""},
		{"database of no date", scanned(func(r *artifact.ScanReport) { r.Database.Built = time.Time{} }), artifact.Unknown, "vulnerabilities/database-age", "does not say"},
		{"database of the future", scanned(func(r *artifact.ScanReport) { r.Database.Built = now.Add(48 * time.Hour) }), artifact.Unknown, "vulnerabilities/database-age", "future"},
		{"database without unfixed", scanned(func(r *artifact.ScanReport) {
			r.Database.Knowledge["deb"] = artifact.Knowledge{Covered: true, Severities: true}
		}), artifact.Unknown, "vulnerabilities/database-unfixed", "deb"},
		{"database without unfixed still fails", func(in *Input) {
			add(high)(in)
			r := scanReport()
			r.Database.Knowledge["deb"] = artifact.Knowledge{Covered: true}
			r.Findings = append(r.Findings, high)
			r.Counts = count(r.Findings)
			*in = with(*in, artifact.PredicateScan, r)
		}, artifact.Fail, "vulnerabilities/severity", "CVE-2"},
		{"ecosystem not covered", scanned(func(r *artifact.ScanReport) { r.Packages["go-module"] = 3 }), artifact.Unknown, "vulnerabilities/coverage", "go-module"},
		{"ecosystem ignored", rule(func(v *Vulnerabilities) { v.IgnoreTypes = []string{"go-module"} }, scanned(func(r *artifact.ScanReport) { r.Packages["go-module"] = 3 })), artifact.Pass, "", ""},
		{"counts lie", func(in *Input) {
			r := scanReport()
			r.Findings = nil
			*in = with(*in, artifact.PredicateScan, r)
		}, artifact.Unknown, "vulnerabilities/partial", "disagree"},
		{"newer report", scanned(func(r *artifact.ScanReport) { r.Version = 3 }), artifact.Unknown, "vulnerabilities/unreadable", "version 3"},
	})
}

// A scan made again supersedes the older one.
func TestNewestScanCounts(t *testing.T) {
	in := good()
	old := scanReport()
	old.Database.Built = now.Add(-48 * time.Hour)
	old.Findings = []artifact.Finding{{ID: "CVE-9", Severity: "critical", Package: "p", Type: "deb"}}
	old.Counts = count(old.Findings)
	again := in.Evidence[1]
	again.Predicate = raw(old)
	in.Evidence = append(in.Evidence, again)
	if v := Evaluate(in); v.Outcome != artifact.Pass {
		t.Errorf("%+v", v)
	}
}

// One vulnerability on two platforms is one reason that names both.
func TestPlatformsShareReasons(t *testing.T) {
	in := good()
	in.Platforms[arm] = arm64
	in.Users[arm] = "1"
	r := scanReport()
	r.Findings = append(r.Findings, artifact.Finding{ID: "CVE-2", Severity: "critical", Package: "p", Version: "1", Type: "deb"})
	r.Counts = count(r.Findings)
	in = with(in, artifact.PredicateScan, r)
	for _, e := range in.Evidence[:3] {
		e.Subject, e.Platform = arm, &arm64
		in.Evidence = append(in.Evidence, e)
	}
	v := Evaluate(in)
	if len(v.Reasons) != 1 || v.Reasons[0].Place != "deb p@1 (linux/amd64, linux/arm64)" {
		t.Errorf("%+v", v)
	}
	for range 20 {
		if again := Evaluate(in); !reflect.DeepEqual(v, again) {
			t.Fatalf("not the same twice: %+v %+v", v, again)
		}
	}
}

func TestWaivers(t *testing.T) {
	day := func(s string) (d Date) {
		if err := d.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	w := Waiver{Rule: "vulnerabilities", ID: "CVE-2", Image: "app", Owner: "ops", Reason: "not reachable", Expires: day("2026-11-22")}
	bad := artifact.Finding{ID: "CVE-2", Severity: "critical", Package: "openssl", Version: "3", Type: "deb"}
	waived := func(w Waiver) func(*Input) {
		return func(in *Input) {
			add(bad)(in)
			in.Policy.Waivers = []Waiver{w}
		}
	}
	edit := func(change func(*Waiver)) Waiver {
		x := w
		change(&x)
		return x
	}
	check(t, []verdictCase{
		{"on its last day", waived(w), artifact.Waived, "vulnerabilities/severity", "waived by ops until 2026-11-22: not reachable"},
		{"the day after", waived(edit(func(w *Waiver) { w.Expires = day("2026-11-21") })), artifact.Fail, "vulnerabilities/severity", "a waiver by ops expired on 2026-11-21"},
		{"another image", waived(edit(func(w *Waiver) { w.Image = "other" })), artifact.Fail, "vulnerabilities/severity", ""},
		{"the image by its path", waived(edit(func(w *Waiver) { w.Image = "team/*" })), artifact.Waived, "vulnerabilities/severity", ""},
		{"another vulnerability", waived(edit(func(w *Waiver) { w.ID = "CVE-3" })), artifact.Fail, "vulnerabilities/severity", ""},
		{"another package", waived(edit(func(w *Waiver) { w.Package = "zlib" })), artifact.Fail, "vulnerabilities/severity", ""},
		{"a rule that begins alike", waived(edit(func(w *Waiver) { w.Rule = "vuln" })), artifact.Fail, "vulnerabilities/severity", ""},
		{"a signature cannot be waived", func(in *Input) {
			in.Signers = nil
			in.Policy.Waivers = []Waiver{edit(func(w *Waiver) { w.Rule, w.ID = "signature", "" })}
		}, artifact.Unknown, "signature/unsigned", "unsigned"},
	})
}

func TestAdmits(t *testing.T) {
	reasons := func(rule string) []artifact.Reason { return []artifact.Reason{{Rule: rule}} }
	lenient, strict := Policy{AllowUnknown: true}, Policy{}
	careless := Policy{AllowUnknown: true, Rules: Rules{Signature: Signature{Mode: Warn}}}
	for _, c := range []struct {
		name string
		p    Policy
		v    artifact.Verdict
		want bool
	}{
		{"pass", strict, artifact.Verdict{Outcome: artifact.Pass}, true},
		{"waived", strict, artifact.Verdict{Outcome: artifact.Waived}, true},
		{"fail", lenient, artifact.Verdict{Outcome: artifact.Fail}, false},
		{"unknown", strict, artifact.Verdict{Outcome: artifact.Unknown, Reasons: reasons("tests/missing")}, false},
		{"unknown allowed", lenient, artifact.Verdict{Outcome: artifact.Unknown, Reasons: reasons("tests/missing")}, true},
		{"unsigned", lenient, artifact.Verdict{Outcome: artifact.Unknown, Reasons: reasons("signature/unsigned")}, false},
		{"unsigned, signatures only warned of", careless, artifact.Verdict{Outcome: artifact.Unknown, Reasons: reasons("signature/unsigned")}, true},
		{"no verdict", lenient, artifact.Verdict{}, false},
	} {
		if got := Admits(c.p, c.v); got != c.want {
			t.Errorf("%s: admitted %v", c.name, got)
		}
	}
}

func TestValidate(t *testing.T) {
	p := Policy{
		Rules:   Rules{SBOM: SBOM{Mode: "maybe"}, Provenance: Provenance{Tiers: []string{"T3", "t2"}}, Vulnerabilities: Vulnerabilities{FailOn: "awful"}},
		Waivers: []Waiver{{Rule: "signature"}, {Rule: "nothing", Owner: "o", Reason: "r", Expires: Date{now}}},
	}
	var got []string
	for _, problem := range p.Validate() {
		if problem.Remedy == "" {
			t.Errorf("no remedy: %+v", problem)
		}
		got = append(got, strings.Join(problem.Path, "/")+": "+problem.Message)
	}
	want := []string{
		`rules/provenance/tiers/1: "t2" is not a tier`,
		`rules/sbom/mode: "maybe" is not a mode`,
		`rules/vulnerabilities/failOn: "awful" is not a severity`,
		"waivers/0/rule: a signature cannot be waived",
		"waivers/0: a waiver without expires",
		"waivers/0: a waiver without owner",
		"waivers/0: a waiver without reason",
		`waivers/1/rule: "nothing" is not a rule`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if problems := (Policy{}).Validate(); len(problems) != 0 {
		t.Errorf("the zero policy is fine: %+v", problems)
	}
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]string{"5d": "5d", "120h": "5d", "90m": "1h30m0s", "0d": "0s", "30s": "30s"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err != nil || d.String() != want {
			t.Errorf("%s: %s, %v", in, d, err)
		}
	}
	for _, in := range []string{"", "d", "-1d", "5", "1.5d", "-3h", "99999999999d", "soon"} {
		var d Duration
		if err := d.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q is read as %s", in, d)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"a*", "abc", true}, {"*c", "abc", true},
		{"a*b*c", "axxbyyc", true}, {"a*b*c", "acb", false}, {"a*a", "a", false}, {"", "", true}, {"*/x", "a/b/x", true},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("%q %q: %v", c.pattern, c.s, got)
		}
	}
}
