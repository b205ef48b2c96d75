// Package report turns the outcome of a run into what people and CI read: the
// summary file, the summary table and error messages. Apart from writing and
// reading the summary where it is told to, it does no I/O.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

// Version is the version of the summary format this program writes.
const Version = 1

// Summary is out/summary.json and what run --json prints.
type Summary struct {
	Version int     `json:"version"`
	Trigger string  `json:"trigger"` // local, change-request, branch, tag or schedule
	Engine  Engine  `json:"engine"`
	Images  []Image `json:"images"`
	Exit    int     `json:"exit"`

	Mirrors    []Mirror     `json:"mirrors,omitempty"`    // the mirrors that were used
	StaticOnly []StaticOnly `json:"staticOnly,omitempty"` // what could not be executed
	Notes      []string     `json:"notes,omitempty"`      // what the reader should know of the whole run
	Error      *Error       `json:"error,omitempty"`      // the run itself broke
}

// Engine is what executed the run.
type Engine struct {
	Kind string `json:"kind"`           // embedded or dagger
	Tier string `json:"tier"`           // T1, T2 or ""
	Mode string `json:"mode,omitempty"` // root, rootless, single-id or container
}

// Image is one variant of one image; its counts sum its platforms.
type Image struct {
	Image     string              `json:"image"`
	Variant   string              `json:"variant"`
	Platforms []artifact.Platform `json:"platforms"`
	Subject   artifact.Subject    `json:"subject"`
	Verdict   artifact.Outcome    `json:"verdict"`
	Reasons   []artifact.Reason   `json:"reasons"`
	Stage     string              `json:"stage"`    // the furthest stage it reached, "" for none
	Packages  int                 `json:"packages"` // in its SBOMs
	Findings  artifact.Counts     `json:"findings"`
	Tests     Tests               `json:"tests"`
	Cached    bool                `json:"cached"`
	Seconds   float64             `json:"seconds"`
	Error     *Error              `json:"error"`
}

// Tests counts black-box tests.
type Tests struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
}

// Mirror is a mirror the run used.
type Mirror struct {
	Ecosystem string `json:"ecosystem"`
	URL       string `json:"url"` // without credentials
	Public    bool   `json:"public"`
}

// StaticOnly names platforms of an image that got static tests only, because
// the engine cannot execute them.
type StaticOnly struct {
	Image     string              `json:"image"`
	Variant   string              `json:"variant"`
	Platforms []artifact.Platform `json:"platforms"`
}

// Marshal renders the summary as indented JSON, lists as [] and never null.
func (s Summary) Marshal() ([]byte, error) {
	s.Version = Version
	s.Images = append([]Image{}, s.Images...)
	for i := range s.Images {
		im := &s.Images[i]
		im.Platforms = append([]artifact.Platform{}, im.Platforms...)
		im.Reasons = append([]artifact.Reason{}, im.Reasons...)
		if im.Verdict == "" {
			im.Verdict = artifact.Unknown
		}
		im.Seconds = float64(int64(im.Seconds*1000+0.5)) / 1000
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("encoding summary: %w", err)
	}
	return b.Bytes(), nil
}

// WriteFile writes the summary to path, whole or not at all, and makes its
// folder.
func (s Summary) WriteFile(path string) error {
	b, err := s.Marshal()
	if err != nil {
		return err
	}
	if err := wholefile.Write(path, b, wholefile.Options{Mode: 0o644, DirMode: 0o755, Sync: true}); err != nil {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "writing summary", Place: path, Err: err,
			Remedy: "give a folder that can be written and has room with --out",
		}
	}
	return nil
}

// ReadFile reads a summary another run wrote.
func ReadFile(path string) (*Summary, error) {
	wrong := func(message, remedy string, err error) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading summary", Place: path,
			Message: message, Remedy: remedy, Err: err,
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, wrong("", "give the summary.json a run wrote to its --out folder", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, wrong("not a summary", "give the summary.json a run wrote to its --out folder", err)
	}
	if head.Version < 1 || head.Version > Version {
		return nil, wrong(fmt.Sprintf("version %d is not known to this program", head.Version),
			"use the drydock that wrote it, or a newer one", nil)
	}
	var s Summary
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, wrong("not a summary", "give the summary.json a run wrote to its --out folder", err)
	}
	return &s, nil
}

// Subjects lists what the run put into a registry, in the order of its images,
// each once: what a promotion of the whole run takes.
func (s Summary) Subjects() []artifact.Subject {
	out := []artifact.Subject{}
	seen := map[artifact.Subject]bool{}
	for _, im := range s.Images {
		if im.Subject.Digest == "" || im.Stage == "" || im.Error != nil || seen[im.Subject] {
			continue
		}
		seen[im.Subject] = true
		out = append(out, im.Subject)
	}
	return out
}

// Name is the image with its variant, "app@go1.26".
func (i Image) Name() string {
	if i.Variant == "" {
		return i.Image
	}
	return i.Image + "@" + i.Variant
}

func platformNames(ps []artifact.Platform) string {
	out := make([]string, 0, len(ps))
	for _, p := range ps {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}
