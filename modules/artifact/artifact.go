// Package artifact holds the nouns every room of Drydock shares: what an image
// is called, where it runs, what is known about it and what was decided.
//
// It imports the standard library only and does no I/O.
package artifact

import (
	"encoding/json"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"time"
)

var (
	digestPattern     = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
	repositoryPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:-]*(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)
)

// Digest is an OCI content digest, "sha256:" and 64 lower-case hex digits
// (OCI image-spec, descriptor.md#digests). Only sha256 is produced or accepted.
type Digest string

// ParseDigest checks s and returns it as a Digest.
func ParseDigest(s string) (Digest, error) {
	if !digestPattern.MatchString(s) {
		return "", &Error{
			Kind: KindUsage, Op: "parsing digest", Place: s,
			Message: "not a sha256 digest", Remedy: "give sha256: and 64 hex digits",
		}
	}
	return Digest(s), nil
}

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Subject names one image for good: repository and digest, never a tag.
type Subject struct {
	Repository string // registry host (with port if any) and path
	Digest     Digest
}

// ParseSubject reads "repository@sha256:…". A tag in place of the digest is
// refused: everything after the first resolve is by digest.
func ParseSubject(s string) (Subject, error) {
	repo, dig, ok := strings.Cut(s, "@")
	if !ok {
		return Subject{}, &Error{
			Kind: KindUsage, Op: "parsing subject", Place: s,
			Message: "a digest is required, a tag can move",
			Remedy:  "write repository@sha256:…",
		}
	}
	if !repositoryPattern.MatchString(repo) {
		return Subject{}, &Error{
			Kind: KindUsage, Op: "parsing subject", Place: s,
			Message: "not a repository name with its registry (and a tag is not part of one)",
			Remedy:  "write registry/path@sha256:…",
		}
	}
	d, err := ParseDigest(dig)
	if err != nil {
		return Subject{}, err
	}
	return Subject{Repository: repo, Digest: d}, nil
}

// String is repository@digest, or "" for the zero Subject.
func (s Subject) String() string {
	if s.Digest == "" {
		return ""
	}
	return s.Repository + "@" + string(s.Digest)
}

// MarshalText makes a Subject one string in JSON.
func (s Subject) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Subject) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*s = Subject{}
		return nil
	}
	p, err := ParseSubject(string(b))
	if err != nil {
		return err
	}
	*s = p
	return nil
}

// Platform is an OCI platform: os/architecture[/variant].
type Platform struct {
	OS, Architecture, Variant string
}

// ParsePlatform reads os/architecture[/variant]; only linux is built.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	bad := len(parts) < 2 || len(parts) > 3
	for _, p := range parts {
		bad = bad || p == ""
	}
	if bad {
		return Platform{}, &Error{
			Kind: KindUsage, Op: "parsing platform", Place: s,
			Message: "not os/architecture", Remedy: "write for example linux/amd64",
		}
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// String is os/architecture[/variant].
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// MarshalText makes a Platform one string in JSON and YAML.
func (p Platform) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (p *Platform) UnmarshalText(b []byte) error {
	q, err := ParsePlatform(string(b))
	if err != nil {
		return err
	}
	*p = q
	return nil
}

// Predicate types of the evidence Drydock writes. Each is a versioned URI.
const (
	PredicateSPDX       = "https://spdx.dev/Document"
	PredicateCycloneDX  = "https://cyclonedx.org/bom"
	PredicateProvenance = "https://slsa.dev/provenance/v1"
	PredicateScan       = "https://drydock.dev/attestation/scan/v1"
	PredicateTest       = "https://drydock.dev/attestation/test/v1"
)

// Evidence is one typed fact about a subject: an in-toto statement and who
// signed it.
type Evidence struct {
	Subject       Digest          `json:"subject"`            // the image manifest or index it speaks of
	Platform      *Platform       `json:"platform,omitempty"` // nil where it speaks of the whole index
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
	Signer        string          `json:"signer,omitempty"` // key id or identity that signed it and was verified; "" unsigned
}

// Material is anything a build fetched.
type Material struct {
	Ecosystem string `json:"ecosystem"`        // debian, go, npm, oci
	URL       string `json:"url"`              // without credentials
	Path      string `json:"path,omitempty"`   // below the mirror, as a lock names it; "" for what came by URL
	Digest    Digest `json:"digest,omitempty"` // of the bytes served
	Size      int64  `json:"size"`             // bytes
	PURL      string `json:"purl,omitempty"`
	Public    bool   `json:"public,omitempty"` // the mirror was reached over the public internet
	Step      string `json:"step,omitempty"`
}

// Outcome is what a gate says.
type Outcome string

// The four outcomes. Missing, stale or partial evidence is Unknown, never Pass.
const (
	Pass    Outcome = "pass"
	Fail    Outcome = "fail"
	Unknown Outcome = "unknown"
	Waived  Outcome = "waived"
)

// Reason says why, by which rule, where and what to do.
type Reason struct {
	Rule   string `json:"rule"`
	Place  string `json:"place"` // file:line, package or platform
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

// Verdict is what one rule, or a whole policy, says about a subject.
type Verdict struct {
	Outcome Outcome  `json:"verdict"`
	Reasons []Reason `json:"reasons"`
}

// Worse returns the more severe of two outcomes: fail, unknown, waived, pass.
func Worse(a, b Outcome) Outcome {
	rank := map[Outcome]int{Pass: 0, Waived: 1, Unknown: 2, Fail: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// Counts is findings by severity, as grype names them.
type Counts struct {
	Critical   int `json:"critical"`
	High       int `json:"high"`
	Medium     int `json:"medium"`
	Low        int `json:"low"`
	Negligible int `json:"negligible"`
	Unknown    int `json:"unknown"`
}

// Add sums two counts.
func (c Counts) Add(d Counts) Counts {
	return Counts{
		c.Critical + d.Critical, c.High + d.High, c.Medium + d.Medium,
		c.Low + d.Low, c.Negligible + d.Negligible, c.Unknown + d.Unknown,
	}
}

// Finding is one known vulnerability in one package.
type Finding struct {
	ID        string   `json:"id"`
	Severity  string   `json:"severity"` // critical, high, medium, low, negligible, unknown
	Package   string   `json:"package"`
	Version   string   `json:"version"`
	Type      string   `json:"type"` // deb, go-module, npm, …
	FixState  string   `json:"fixState"`
	FixedIn   []string `json:"fixedIn,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	KEV       bool     `json:"kev,omitempty"` // in CISA's known exploited list
	Location  string   `json:"location,omitempty"`
}

// Knowledge is what a vulnerability database knows of one ecosystem.
type Knowledge struct {
	Covered    bool `json:"covered"`    // it has any data at all
	Unfixed    bool `json:"unfixed"`    // it lists vulnerabilities without a fix
	Severities bool `json:"severities"` // it rates them
}

// Database identifies a vulnerability database and what it knows.
type Database struct {
	Source    string               `json:"source"` // mirror, file, cache, built
	Schema    string               `json:"schema"`
	Built     time.Time            `json:"built"`
	Digest    Digest               `json:"digest"`    // of the database file as used
	Knowledge map[string]Knowledge `json:"knowledge"` // by package type: deb, go-module, npm, …
}

// ScanReport is the predicate of PredicateScan.
type ScanReport struct {
	Version  int            `json:"version"` // 1
	Scanner  string         `json:"scanner"` // name and version
	Database Database       `json:"database"`
	Packages map[string]int `json:"packages"` // how many of each type were looked at
	Counts   Counts         `json:"counts"`
	Findings []Finding      `json:"findings"`
}

// TestResult is one black-box test.
type TestResult struct {
	Name    string  `json:"name"`
	Kind    string  `json:"kind"`   // command, fileExistence, fileContent, metadata, service
	Status  string  `json:"status"` // passed, failed, skipped
	Message string  `json:"message,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Confinement is what really held while the tests ran, as the init saw it.
type Confinement struct {
	Network       string   `json:"network"` // "loopback" or what else was there
	User          string   `json:"user"`    // uid:gid
	NoNewPrivs    bool     `json:"noNewPrivileges"`
	ReadOnlyRoot  bool     `json:"readOnlyRoot"`
	Capabilities  []string `json:"capabilities"` // effective ones
	Seccomp       bool     `json:"seccomp"`
	LandlockABI   int      `json:"landlockABI"` // 0: none
	NotExecutable bool     `json:"notExecutable,omitempty"`
}

// TestReport is the predicate of PredicateTest.
type TestReport struct {
	Version     int          `json:"version"` // 1
	StaticOnly  bool         `json:"staticOnly"`
	Emulated    bool         `json:"emulated,omitempty"` // what ran of the image ran in an emulator of its processor
	Passed      int          `json:"passed"`
	Failed      int          `json:"failed"`
	Skipped     int          `json:"skipped"`
	Results     []TestResult `json:"results"`
	Confinement Confinement  `json:"confinement"`
}

// SortFindings orders findings by severity (worst first), id, package.
func SortFindings(f []Finding) {
	rank := map[string]int{"critical": 0, "high": 1, "medium": 2, "low": 3, "negligible": 4, "unknown": 5}
	sort.Slice(f, func(i, j int) bool {
		a, b := f[i], f[j]
		if rank[a.Severity] != rank[b.Severity] {
			return rank[a.Severity] < rank[b.Severity]
		}
		return fmt.Sprint(a.ID, a.Package, a.Version, a.Location) < fmt.Sprint(b.ID, b.Package, b.Version, b.Location)
	})
}
