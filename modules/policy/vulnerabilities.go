package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"drydock/modules/artifact"
)

const (
	remedyDatabase = "set vulndb in mirrors.yaml to a database that knows more, or update it, and run drydock again"
	remedyUpgrade  = "update the package or the base it comes from, or add a waiver with owner, reason and expiry"
)

// judgeVulnerabilities asks for a scan of every platform, against a database
// that knows enough, with no finding at or above the policy's severity.
func (e *evaluation) judgeVulnerabilities() []finding {
	var out []finding
	hits := map[string]*hit{}
	doubts := map[string]*finding{}
	for i := range e.platforms {
		t := &e.platforms[i]
		r, f := e.scan(t)
		if r == nil {
			out = append(out, f)
			continue
		}
		e.collect(hits, r, t.platform)
		for _, d := range e.doubts(r) {
			if have, ok := doubts[d.Rule+d.Reason.Reason]; ok {
				have.Place += ", " + t.platform.String()
				continue
			}
			d.Place = strings.TrimSpace(d.Place + " " + t.platform.String())
			doubts[d.Rule+d.Reason.Reason] = &d
		}
	}
	for _, h := range hits {
		out = append(out, h.finding(e.Policy.Rules.Vulnerabilities))
	}
	for _, d := range doubts {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b finding) int {
		return cmp.Or(cmp.Compare(severityOf(b.outcome), severityOf(a.outcome)), cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.Place, b.Place), cmp.Compare(a.id, b.id), cmp.Compare(a.Reason.Reason, b.Reason.Reason))
	})
	return out
}

func severityOf(o artifact.Outcome) int {
	if o == artifact.Fail {
		return 1
	}
	return 0
}

// scan gives the newest readable scan of a platform, or why there is none.
func (e *evaluation) scan(t *target) (*artifact.ScanReport, finding) {
	evs := e.evidence(artifact.PredicateScan, t)
	if len(evs) == 0 {
		return nil, unknown("vulnerabilities/missing", t.platform.String(), remedyRun, "no vulnerability scan")
	}
	var newest *artifact.ScanReport
	for _, ev := range evs {
		var r artifact.ScanReport
		if err := decode(ev.Predicate, &r, &r.Version); err != nil {
			return nil, unknown("vulnerabilities/unreadable", t.platform.String(), remedyRun, "the scan: %v", err)
		}
		if newest == nil || r.Database.Built.After(newest.Database.Built) {
			newest = &r
		}
	}
	if count(newest.Findings) != newest.Counts {
		return nil, unknown("vulnerabilities/partial", t.platform.String(), remedyRun, "the scan's counts and findings disagree")
	}
	return newest, finding{}
}

func count(fs []artifact.Finding) artifact.Counts {
	var c artifact.Counts
	for _, f := range fs {
		switch strings.ToLower(f.Severity) {
		case "critical":
			c.Critical++
		case "high":
			c.High++
		case "medium":
			c.Medium++
		case "low":
			c.Low++
		case "negligible":
			c.Negligible++
		default:
			c.Unknown++
		}
	}
	return c
}

// doubts is what keeps a scan from passing whatever it found.
func (e *evaluation) doubts(r *artifact.ScanReport) []finding {
	var out []finding
	rule := e.Policy.Rules.Vulnerabilities
	db := r.Database
	age := e.Now.Sub(db.Built)
	switch {
	case db.Built.IsZero():
		out = append(out, unknown("vulnerabilities/database-age", "", remedyDatabase, "the vulnerability database does not say when it was built"))
	case age < -24*time.Hour:
		out = append(out, unknown("vulnerabilities/database-age", "", remedyDatabase, "the vulnerability database says it was built in the future, on %s", db.Built.UTC().Format(time.DateOnly)))
	case age > time.Duration(rule.MaxDatabaseAge):
		out = append(out, unknown("vulnerabilities/database-age", "", remedyDatabase,
			"the vulnerability database is of %s, more than %s old", db.Built.UTC().Format(time.DateOnly), rule.MaxDatabaseAge))
	}
	types := make([]string, 0, len(r.Packages))
	for t, n := range r.Packages {
		if n > 0 && !slices.Contains(rule.IgnoreTypes, t) {
			types = append(types, t)
		}
	}
	slices.Sort(types)
	for _, t := range types {
		k := db.Knowledge[t]
		var f finding
		switch {
		case !k.Covered:
			f = unknown("vulnerabilities/coverage", t, remedyDatabase, "the vulnerability database knows nothing of %s packages", t)
		case !k.Unfixed:
			f = unknown("vulnerabilities/database-unfixed", t, remedyDatabase, "the vulnerability database lists no unfixed vulnerabilities of %s packages", t)
		default:
			continue
		}
		f.pkg = t
		out = append(out, f)
	}
	return out
}

// hit is one vulnerability in one package, and the platforms it was found on.
type hit struct {
	artifact.Finding
	rule      string
	platforms []artifact.Platform
}

// collect adds the findings of one scan that the policy does not let through.
func (e *evaluation) collect(hits map[string]*hit, r *artifact.ScanReport, p artifact.Platform) {
	rule := e.Policy.Rules.Vulnerabilities
	for _, f := range r.Findings {
		severity := strings.ToLower(f.Severity)
		if slices.Index(severities[:], severity) < 0 {
			severity = rule.UnknownSeverityAs
		}
		id := "vulnerabilities/severity"
		switch {
		case f.KEV:
			id = "vulnerabilities/known-exploited"
		case slices.Index(severities[:], severity) < slices.Index(severities[:], rule.FailOn):
			continue
		case rule.OnlyFixed && f.FixState != "fixed" && len(f.FixedIn) == 0:
			continue
		}
		key := strings.Join([]string{id, f.ID, f.Package, f.Version}, "\x00")
		h := hits[key]
		if h == nil {
			h = &hit{Finding: f, rule: id}
			hits[key] = h
		}
		if !slices.Contains(h.platforms, p) {
			h.platforms = append(h.platforms, p)
		}
	}
}

func (h *hit) finding(rule Vulnerabilities) finding {
	severity := strings.ToLower(h.Severity)
	why := severity
	if slices.Index(severities[:], severity) < 0 {
		why = fmt.Sprintf("unknown severity, counted as %s", rule.UnknownSeverityAs)
	}
	if h.KEV {
		why += ", known to be exploited"
	}
	fix := "no fix yet"
	if len(h.FixedIn) > 0 {
		fix = "fixed in " + strings.Join(h.FixedIn, ", ")
	}
	f := failed(h.rule, fmt.Sprintf("%s %s@%s %s", h.Type, h.Package, h.Version, join(h.platforms)), remedyUpgrade, "%s: %s; %s", h.ID, why, fix)
	f.id, f.pkg = h.ID, h.Package
	return f
}
