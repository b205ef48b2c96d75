// Package policy decides, from evidence alone, whether an image may enter a
// stage.
//
// Evaluate is pure: the same input gives the same verdict, on any machine, at
// any later time (the time is part of the input). Missing, stale or partial
// evidence is unknown, never pass.
package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// Version is the version of the policy format this program reads and writes.
const Version = 1

// Configured is the word that, in a list of signers, stands for whichever
// signers the program itself was configured with.
const Configured = "configured"

// Mode says how much a rule counts.
type Mode string

// The modes of a rule. The zero Mode is Enforce: a rule must be switched off
// in words.
const (
	Enforce Mode = "enforce" // its outcome is part of the verdict
	Warn    Mode = "warn"    // its reasons are printed, its outcome is not counted
	Off     Mode = "off"     // it is not evaluated
)

// Duration is a time span written as Go writes it, or in whole days ("5d").
type Duration time.Duration

// String is the span in days when it is whole days, as Go writes it otherwise.
func (d Duration) String() string {
	t := time.Duration(d)
	if t >= 24*time.Hour && t%(24*time.Hour) == 0 {
		return strconv.Itoa(int(t/(24*time.Hour))) + "d"
	}
	return t.String()
}

// MarshalText makes a Duration one string in JSON and YAML.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.Atoi(n)
		if err != nil || days < 0 || days > 36500 {
			return fmt.Errorf("%q is not a duration (write for example 5d, 120h or 30s)", s)
		}
		*d = Duration(time.Duration(days) * 24 * time.Hour)
		return nil
	}
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		return fmt.Errorf("%q is not a duration (write for example 5d, 120h or 30s)", s)
	}
	*d = Duration(t)
	return nil
}

// Policy is what an image must show to enter a stage.
type Policy struct {
	Version      int      `yaml:"version" json:"version"`
	Name         string   `yaml:"name" json:"name"`
	Description  string   `yaml:"description,omitempty" json:"description,omitempty"`
	AllowUnknown bool     `yaml:"allowUnknown" json:"allowUnknown"` // admit an unknown verdict, unless the signature is what is unknown
	Rules        Rules    `yaml:"rules" json:"rules"`
	Waivers      []Waiver `yaml:"waivers,omitempty" json:"waivers,omitempty"`
}

// Rules are the rules of a policy. A rule that is not mentioned is enforced
// with its defaults.
type Rules struct {
	Signature       Signature       `yaml:"signature" json:"signature"`
	Provenance      Provenance      `yaml:"provenance" json:"provenance"`
	SBOM            SBOM            `yaml:"sbom" json:"sbom"`
	Vulnerabilities Vulnerabilities `yaml:"vulnerabilities" json:"vulnerabilities"`
	Tests           Tests           `yaml:"tests" json:"tests"`
	NonRoot         NonRoot         `yaml:"nonRoot" json:"nonRoot"`
}

// Signature asks that the image and its evidence are signed by a trusted signer.
type Signature struct {
	Mode    Mode     `yaml:"mode" json:"mode"`
	Signers []string `yaml:"signers" json:"signers"` // key ids or identities, globs; default [configured]
}

// Provenance asks for SLSA provenance and judges what it says.
type Provenance struct {
	Mode       Mode     `yaml:"mode" json:"mode"`
	Builders   []string `yaml:"builders,omitempty" json:"builders,omitempty"` // globs of builder ids; none: any
	Hermetic   bool     `yaml:"hermetic" json:"hermetic"`                     // a build that was not hermetic fails
	AllowDirty bool     `yaml:"allowDirty" json:"allowDirty"`                 // admit a context that was not a clean commit
	Tiers      []string `yaml:"tiers,omitempty" json:"tiers,omitempty"`       // engine tiers admitted; none: any
}

// SBOM asks for a bill of materials of every platform.
type SBOM struct {
	Mode Mode `yaml:"mode" json:"mode"`
}

// Vulnerabilities asks for a scan of every platform and judges its findings.
type Vulnerabilities struct {
	Mode              Mode     `yaml:"mode" json:"mode"`
	FailOn            string   `yaml:"failOn" json:"failOn"`                                             // lowest severity that fails; default high
	UnknownSeverityAs string   `yaml:"unknownSeverityAs" json:"unknownSeverityAs"`                       // default high
	OnlyFixed         bool     `yaml:"onlyFixed" json:"onlyFixed"`                                       // a finding without a fix does not fail (unless known exploited)
	MaxDatabaseAge    Duration `yaml:"maxDatabaseAge,omitempty" json:"maxDatabaseAge,omitempty"`         // default 5d
	IgnoreTypes       []string `yaml:"ignorePackageTypes,omitempty" json:"ignorePackageTypes,omitempty"` // package types no coverage is asked for
}

// Tests asks for black-box tests of every platform.
type Tests struct {
	Mode       Mode                `yaml:"mode" json:"mode"`
	StaticOnly []artifact.Platform `yaml:"staticOnly,omitempty" json:"staticOnly,omitempty"` // platforms for which static tests are enough
}

// NonRoot asks that the image runs as an ordinary user.
type NonRoot struct {
	Mode Mode `yaml:"mode" json:"mode"`
}

// Waiver is an exception to a rule, with an owner, a reason and an end.
type Waiver struct {
	Rule    string `yaml:"rule" json:"rule"`                           // rule id, or its first part: vulnerabilities, vulnerabilities/severity
	ID      string `yaml:"id,omitempty" json:"id,omitempty"`           // vulnerability id, for example CVE-2026-1; "" any
	Image   string `yaml:"image,omitempty" json:"image,omitempty"`     // glob of repository path; "" any
	Package string `yaml:"package,omitempty" json:"package,omitempty"` // package name; "" any
	Owner   string `yaml:"owner" json:"owner"`
	Reason  string `yaml:"reason" json:"reason"`
	Expires Date   `yaml:"expires" json:"expires"` // last day it counts
}

// Date is a calendar day in UTC, written 2006-01-02.
type Date struct{ time.Time }

// MarshalText is the inverse of UnmarshalText.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.Format(time.DateOnly)), nil }

// UnmarshalText reads 2006-01-02.
func (d *Date) UnmarshalText(b []byte) error {
	t, err := time.Parse(time.DateOnly, string(b))
	if err != nil {
		return fmt.Errorf("%q is not a date (write for example 2027-01-31)", string(b))
	}
	d.Time = t
	return nil
}

// Input is all a verdict follows from.
type Input struct {
	Subject    artifact.Subject                      // the image, index or manifest
	Platforms  map[artifact.Digest]artifact.Platform // every platform manifest of it
	Users      map[artifact.Digest]string            // user in each platform manifest's config; "" there means root
	Signers    []string                              // verified signers of the subject itself
	Configured []string                              // what the word "configured" in a list of signers stands for
	Evidence   []artifact.Evidence                   // all that was found, signers verified
	Policy     Policy                                // what to hold it against
	Now        time.Time                             // the time of judgement
	Held       bool                                  // it goes nowhere: that it was built with a way out is no fault of it
}
