// Package provenance says how an image was made: a SLSA v1 provenance predicate
// from typed input. The same input gives the same bytes; no clock is read.
package provenance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// BuildType is the versioned URI of how Drydock builds: what the parameters of
// the predicate mean.
const BuildType = "https://drydock.dev/build/dockerfile/v1"

// BuilderLocal is the builder's id outside CI.
const BuilderLocal = "https://drydock.dev/builder/local/v1"

// Input is everything a build is made of.
type Input struct {
	Image      string            // name in the catalog
	Variant    string            // cell of its matrix; "" without one
	Platform   artifact.Platform // zero for a statement about the whole index
	Dockerfile File              // as in the context
	Context    artifact.Digest   // of the files the build could see
	Frontend   string            // that read the Dockerfile, and its image; "" the built-in one
	Target     string            // stage of the Dockerfile; "" the last
	Args       map[string]string // build arguments
	Epoch      int64             // SOURCE_DATE_EPOCH, from the lock
	Folder     string            // of the catalog, or of the project, in the source, "." for all of it; "" unknown
	Lock       File              // of the image, that its steps were held to; zero: none
	Absent     []string          // "ecosystem path": what the steps asked for and was not there
	Trigger    string            // local, change-request, branch, tag, schedule

	Source Source
	Engine Engine

	Hermetic bool     // every step reached nothing but the mirrors
	Observed bool     // steps were let out and watched; never hermetic
	Egress   string   // whether the engine's own network let steps out: open or closed; "" where that was not tried
	Gaps     []string // why not, or which materials are not known

	Materials  []artifact.Material // what the steps fetched
	Bases      []Base              // images it stands on
	Byproducts []Byproduct

	Builder string // id of the builder, a URI; "" = BuilderLocal
	Version string // of Drydock
	Run     *Run   // nil: nothing about this run, the invocation is named after the input
}

// File is a file by its path in the source and its digest.
type File struct {
	Path   string          `json:"path"`
	Digest artifact.Digest `json:"digest"`
}

// Source is the commit the context came from.
type Source struct {
	URI      string // of the repository, without credentials; "" unknown
	Revision string // commit id; "" when there is none
	Ref      string // branch or tag
	Dirty    bool   // the context is not exactly that commit
}

// Engine is what executed the steps.
type Engine struct {
	Kind    string `json:"kind"` // embedded, dagger
	Tier    string `json:"tier,omitempty"`
	Mode    string `json:"mode,omitempty"` // how the tier was had: root, rootless, single-id, container
	Version string `json:"version"`
}

// Base is an image the build stands on.
type Base struct {
	Name   string          // in the catalog
	Digest artifact.Digest // of the platform's manifest or of the index
	Lock   artifact.Digest // of its lock file; may be ""
}

// Byproduct is something the build also made, such as a log or a report.
type Byproduct struct {
	Name   string
	Digest artifact.Digest
}

// Run is what a CI system knows about this run. Without it the predicate says
// nothing that differs between two runs with the same input.
type Run struct {
	InvocationID string // URL of the job
	Started      time.Time
	Finished     time.Time
}

// The predicate as SLSA v1 names its fields (slsa.dev/spec/v1.0/provenance).
type (
	predicate struct {
		BuildDefinition buildDefinition `json:"buildDefinition"`
		RunDetails      runDetails      `json:"runDetails"`
	}
	buildDefinition struct {
		BuildType            string             `json:"buildType"`
		ExternalParameters   externalParameters `json:"externalParameters"`
		InternalParameters   internalParameters `json:"internalParameters"`
		ResolvedDependencies []descriptor       `json:"resolvedDependencies"`
	}
	externalParameters struct {
		Image      string            `json:"image"`
		Variant    string            `json:"variant,omitempty"`
		Platform   string            `json:"platform,omitempty"`
		Dockerfile *File             `json:"dockerfile,omitempty"`
		Context    artifact.Digest   `json:"context,omitempty"`
		Target     string            `json:"target,omitempty"`
		Args       map[string]string `json:"args,omitempty"`
		Trigger    string            `json:"trigger"`
		Source     *source           `json:"source,omitempty"`
		Folder     string            `json:"folder,omitempty"`
		Lock       *File             `json:"lock,omitempty"`
	}
	source struct {
		URI      string `json:"uri,omitempty"`
		Revision string `json:"revision,omitempty"`
		Ref      string `json:"ref,omitempty"`
	}
	internalParameters struct {
		Engine   Engine   `json:"engine"`
		Frontend string   `json:"frontend,omitempty"`
		Hermetic bool     `json:"hermetic"`
		Egress   string   `json:"egress,omitempty"` // observed: let out and written down; open, closed: what a step found of the engine's own network; "" the mirrors only
		Gaps     []string `json:"gaps,omitempty"`
		Dirty    bool     `json:"dirty"`
		Epoch    int64    `json:"epoch"`
		Absent   []string `json:"absent,omitempty"`
	}
	runDetails struct {
		Builder    builder      `json:"builder"`
		Metadata   metadata     `json:"metadata"`
		Byproducts []descriptor `json:"byproducts,omitempty"`
	}
	builder struct {
		ID      string            `json:"id"`
		Version map[string]string `json:"version,omitempty"`
	}
	metadata struct {
		InvocationID string     `json:"invocationId"`
		StartedOn    *time.Time `json:"startedOn,omitempty"`
		FinishedOn   *time.Time `json:"finishedOn,omitempty"`
	}
	// descriptor is an in-toto ResourceDescriptor.
	descriptor struct {
		Name        string            `json:"name,omitempty"`
		URI         string            `json:"uri,omitempty"`
		Digest      map[string]string `json:"digest,omitempty"`
		Annotations map[string]any    `json:"annotations,omitempty"`
	}
)

// Predicate is the SLSA v1 provenance predicate of in, as JSON.
func Predicate(in Input) (json.RawMessage, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	p := predicate{BuildDefinition: in.definition(), RunDetails: in.details()}
	if p.RunDetails.Metadata.InvocationID == "" {
		b, err := json.Marshal(p.BuildDefinition)
		if err != nil {
			return nil, fmt.Errorf("naming the invocation: %w", err)
		}
		sum := sha256.Sum256(b)
		p.RunDetails.Metadata.InvocationID = "urn:sha256:" + hex.EncodeToString(sum[:])
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(p); err != nil {
		return nil, fmt.Errorf("writing provenance: %w", err)
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// check refuses what would make provenance that says less than it seems to.
func (in Input) check() error {
	var errs []error
	if in.Image == "" {
		errs = append(errs, errors.New("the image has no name"))
	}
	if in.Engine.Kind == "" {
		errs = append(errs, errors.New("the engine is not named"))
	}
	if in.Trigger == "" {
		errs = append(errs, errors.New("the trigger is missing"))
	}
	for _, m := range in.Materials {
		if m.URL == "" {
			errs = append(errs, errors.New("a material has no URL"))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("provenance of %q: %w", in.Image, errors.Join(errs...))
}

func (in Input) definition() buildDefinition {
	ext := externalParameters{
		Image: in.Image, Variant: in.Variant, Context: in.Context,
		Target: in.Target, Args: in.Args, Trigger: in.Trigger, Folder: in.Folder,
	}
	if in.Lock.Path != "" {
		f := in.Lock
		ext.Lock = &f
	}
	if in.Platform.OS != "" {
		ext.Platform = in.Platform.String()
	}
	if in.Dockerfile.Path != "" {
		f := in.Dockerfile
		ext.Dockerfile = &f
	}
	if s := in.Source; s.URI != "" || s.Revision != "" || s.Ref != "" {
		ext.Source = &source{URI: s.URI, Revision: s.Revision, Ref: s.Ref}
	}
	gaps := append([]string(nil), in.Gaps...)
	sort.Strings(gaps)
	absent := append([]string(nil), in.Absent...)
	sort.Strings(absent)
	return buildDefinition{
		BuildType: BuildType, ExternalParameters: ext,
		InternalParameters: internalParameters{
			Engine: in.Engine, Frontend: in.Frontend, Hermetic: in.Hermetic && !in.Observed, Egress: in.egress(), Gaps: gaps, Dirty: in.Source.Dirty, Epoch: in.Epoch, Absent: absent,
		},
		ResolvedDependencies: in.dependencies(),
	}
}

func (in Input) egress() string {
	switch {
	case in.Observed:
		return "observed"
	case in.Hermetic:
		return ""
	}
	return in.Egress
}

// dependencies lists source, bases and materials, each once and in order.
func (in Input) dependencies() []descriptor {
	out := []descriptor{}
	if s := in.Source; s.URI != "" && s.Revision != "" {
		out = append(out, descriptor{Name: "source", URI: gitURI(s), Digest: map[string]string{"gitCommit": s.Revision}})
	}
	bases := append([]Base(nil), in.Bases...)
	sort.Slice(bases, func(i, j int) bool { return bases[i].Name < bases[j].Name })
	for _, b := range bases {
		d := descriptor{Name: "base:" + b.Name, Digest: digests(b.Digest)}
		if b.Lock != "" {
			d.Annotations = map[string]any{"lock": string(b.Lock)}
		}
		out = append(out, d)
	}
	materials := append([]artifact.Material(nil), in.Materials...)
	sort.SliceStable(materials, func(i, j int) bool {
		a, b := materials[i], materials[j]
		if a.URL != b.URL {
			return a.URL < b.URL
		}
		return a.Digest < b.Digest
	})
	for i, m := range materials {
		if i > 0 && m.URL == materials[i-1].URL && m.Digest == materials[i-1].Digest {
			continue
		}
		out = append(out, material(m))
	}
	return out
}

func material(m artifact.Material) descriptor {
	d := descriptor{URI: m.URL, Name: m.PURL, Digest: digests(m.Digest), Annotations: map[string]any{}}
	if m.Ecosystem != "" {
		d.Annotations["ecosystem"] = m.Ecosystem
	}
	if m.Path != "" {
		d.Annotations["path"], d.Annotations["size"] = m.Path, m.Size
	}
	if m.Public {
		d.Annotations["public"] = true
	}
	if m.Digest == "" {
		d.Annotations["unverified"] = true
	}
	if len(d.Annotations) == 0 {
		d.Annotations = nil
	}
	return d
}

func digests(d artifact.Digest) map[string]string {
	if d == "" {
		return nil
	}
	return map[string]string{"sha256": d.Hex()}
}

func gitURI(s Source) string {
	uri := s.URI
	if !strings.HasPrefix(uri, "git+") {
		uri = "git+" + uri
	}
	if s.Ref != "" {
		uri += "@" + s.Ref
	}
	return uri
}

func (in Input) details() runDetails {
	d := runDetails{Builder: builder{ID: in.Builder}}
	if d.Builder.ID == "" {
		d.Builder.ID = BuilderLocal
	}
	if in.Version != "" {
		d.Builder.Version = map[string]string{"drydock": in.Version}
	}
	if r := in.Run; r != nil {
		d.Metadata.InvocationID = r.InvocationID
		d.Metadata.StartedOn, d.Metadata.FinishedOn = moment(r.Started), moment(r.Finished)
	}
	byproducts := append([]Byproduct(nil), in.Byproducts...)
	sort.Slice(byproducts, func(i, j int) bool { return byproducts[i].Name < byproducts[j].Name })
	for _, b := range byproducts {
		d.Byproducts = append(d.Byproducts, descriptor{Name: b.Name, Digest: digests(b.Digest)})
	}
	return d
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// Of says which image and variant a predicate is about.
func Of(raw []byte) (image, variant string, err error) {
	var p predicate
	if err := json.Unmarshal(raw, &p); err != nil {
		return "", "", fmt.Errorf("reading provenance: %w", err)
	}
	if p.BuildDefinition.BuildType != BuildType {
		return "", "", fmt.Errorf("reading provenance: it is of build type %q, not of this program", p.BuildDefinition.BuildType)
	}
	return p.BuildDefinition.ExternalParameters.Image, p.BuildDefinition.ExternalParameters.Variant, nil
}
