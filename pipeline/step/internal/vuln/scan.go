// Package vuln scans bills of materials with grype and prepares the databases
// it scans with. It never uses a network and never judges a database's age.
package vuln

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strings"

	"github.com/anchore/grype/grype"
	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/matcher"
	"github.com/anchore/grype/grype/matcher/dotnet"
	"github.com/anchore/grype/grype/matcher/dpkg"
	"github.com/anchore/grype/grype/matcher/golang"
	"github.com/anchore/grype/grype/matcher/java"
	"github.com/anchore/grype/grype/matcher/javascript"
	"github.com/anchore/grype/grype/matcher/python"
	"github.com/anchore/grype/grype/matcher/rpm"
	"github.com/anchore/grype/grype/matcher/ruby"
	"github.com/anchore/grype/grype/matcher/stock"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/version"
	"github.com/anchore/grype/grype/vulnerability"

	"drydock/modules/artifact"
)

// Options says what is scanned with what.
type Options struct {
	SBOM   string          // syft JSON
	DB     string          // directory with vulnerability.db; may be read-only
	Digest artifact.Digest // of vulnerability.db; computed when ""
	Source string          // where the database came from, for the report
}

// Scan matches every package of the document against the database.
func Scan(ctx context.Context, o Options) (*artifact.ScanReport, error) {
	f, err := os.Open(o.SBOM)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	packages, pkgContext, _, err := pkg.ProvideFromReader(f, pkg.ProviderConfig{})
	if err != nil {
		return nil, fmt.Errorf("reading bill of materials: %w", err)
	}
	reader, err := v6.NewReader(v6.Config{DBDirPath: o.DB})
	if err != nil {
		return nil, databaseError(o.DB, err)
	}
	provider := v6.NewVulnerabilityProvider(reader)
	defer func() { _ = provider.Close() }()
	database, err := describe(reader, o, packages)
	if err != nil {
		return nil, databaseError(o.DB, err)
	}
	vm := grype.VulnerabilityMatcher{VulnerabilityProvider: provider, Matchers: matchers(), NormalizeByCVE: false}
	matches, _, err := vm.FindMatchesContext(ctx, packages, pkgContext)
	if err != nil {
		return nil, fmt.Errorf("matching packages: %w", err)
	}
	r := &artifact.ScanReport{Version: 1, Scanner: scanner(), Database: *database, Packages: map[string]int{}, Findings: []artifact.Finding{}}
	for _, p := range packages {
		r.Packages[string(p.Type)]++
	}
	for m := range matches.Enumerate() {
		finding, err := newFinding(provider, m)
		if err != nil {
			return nil, err
		}
		r.Findings = append(r.Findings, finding)
	}
	artifact.SortFindings(r.Findings)
	for _, f := range r.Findings {
		count(&r.Counts, f.Severity)
	}
	return r, nil
}

// matchers are grype's, with the defaults of its command line.
func matchers() []match.Matcher {
	return matcher.NewDefaultMatchers(matcher.Config{
		Java: java.MatcherConfig{}, Ruby: ruby.MatcherConfig{}, Python: python.MatcherConfig{},
		Dotnet: dotnet.MatcherConfig{}, Javascript: javascript.MatcherConfig{}, Golang: golang.MatcherConfig{},
		Stock: stock.MatcherConfig{UseCPEs: true},
		Dpkg:  dpkg.MatcherConfig{MissingEpochStrategy: version.MissingEpochStrategyZero},
		Rpm:   rpm.MatcherConfig{MissingEpochStrategy: version.MissingEpochStrategyAuto},
	})
}

func newFinding(p vulnerability.MetadataProvider, m match.Match) (artifact.Finding, error) {
	out := artifact.Finding{
		ID: m.Vulnerability.ID, Severity: "unknown",
		Package: m.Package.Name, Version: m.Package.Version, Type: string(m.Package.Type),
		FixState: string(m.Vulnerability.Fix.State), FixedIn: m.Vulnerability.Fix.Versions,
		Namespace: m.Vulnerability.Namespace,
	}
	if out.FixState == "" {
		out.FixState = string(vulnerability.FixStateUnknown)
	}
	sort.Strings(out.FixedIn)
	if l := m.Package.Locations.ToSlice(); len(l) > 0 {
		paths := make([]string, 0, len(l))
		for _, loc := range l {
			paths = append(paths, loc.RealPath)
		}
		sort.Strings(paths)
		out.Location = paths[0]
	}
	meta, err := p.VulnerabilityMetadata(m.Vulnerability.Reference)
	if err != nil {
		return out, fmt.Errorf("reading what the database says of %s: %w", m.Vulnerability.ID, err)
	}
	if meta != nil {
		out.Severity = severity(meta.Severity)
		out.KEV = len(meta.KnownExploited) > 0
	}
	return out, nil
}

// severity is one of the names of package artifact.
func severity(s string) string {
	switch s = strings.ToLower(s); s {
	case "critical", "high", "medium", "low", "negligible":
		return s
	}
	return "unknown"
}

func count(c *artifact.Counts, severity string) {
	switch severity {
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

// scanner is the name and version of grype.
func scanner() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/anchore/grype" {
				return "grype " + d.Version
			}
		}
	}
	return "grype"
}

// fileDigest is the sha256 of a file.
func fileDigest(path string) (artifact.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return artifact.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
}

func databaseError(dir string, err error) error {
	var e *artifact.Error
	if errors.As(err, &e) {
		return err
	}
	return &artifact.Error{Kind: artifact.KindUsage, Op: "opening vulnerability database", Place: filepath.Join(dir, v6.VulnerabilityDBFileName),
		Err: err, Remedy: "point vulndb in mirrors.yaml at a grype database of schema v6"}
}
