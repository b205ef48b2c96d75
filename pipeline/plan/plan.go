// Package plan turns a catalog and a trigger into a typed graph of what is to
// be done. It is pure: what changed, what is dirty and which mirrors there are
// is handed in.
package plan

import (
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
)

// Version is the version of a Plan's JSON.
const Version = 1

// Trigger is what a run was started by.
type Trigger string

// The triggers.
const (
	Local         Trigger = "local"
	ChangeRequest Trigger = "change-request"
	Branch        Trigger = "branch"
	Tag           Trigger = "tag"
	Schedule      Trigger = "schedule"
)

// Kind is what a node does.
type Kind string

// The kinds of node. A base is made for all its platforms at once; KindBuild,
// KindSBOM, KindScan and KindTest are for one platform of an image variant;
// KindPush, KindSign and KindPromote for the variant as a whole.
const (
	KindBase    Kind = "base"
	KindBuild   Kind = "build"
	KindSBOM    Kind = "sbom"
	KindScan    Kind = "scan"
	KindTest    Kind = "test"
	KindPush    Kind = "push"
	KindSign    Kind = "sign"
	KindPromote Kind = "promote"
)

// Input is all a plan follows from.
type Input struct {
	Catalog  *catalog.Catalog
	Trigger  Trigger           // default Local
	Select   []string          // globs of image or image:variant names; none: all
	Changed  []string          // names of images a change touches; nil: not asked, all
	Observed bool              // steps are let out and watched: nothing is promoted
	Dirty    map[string]string // images whose sources are not a clean commit, and why
	Target   string            // last stage to promote to; default the stage after the first
	Platform artifact.Platform // the platform builds run on; default linux/amd64
	Mirrors  []Mirror          // for display
}

// Mirror is one mirror as the plan shows it.
type Mirror struct {
	Ecosystem string `json:"ecosystem"`
	Prefix    string `json:"prefix,omitempty"` // git, files: the names it stands for
	URL       string `json:"url"`              // without credentials
	Public    bool   `json:"public"`
	Source    string `json:"source,omitempty"` // the configuration it came from
}

// Use is a mirror an image's steps use.
type Use struct {
	Ecosystem string `json:"ecosystem"`
	Prefix    string `json:"prefix,omitempty"` // git, files: the names it stands for
	Files     int    `json:"files"`            // that it gives, or commits
}

// String is the ecosystem, with the prefix.
func (u Use) String() string { return strings.TrimSpace(u.Ecosystem + " " + u.Prefix) }

// Plan is what is to be done.
type Plan struct {
	Version int      `json:"version"`
	Trigger Trigger  `json:"trigger"`
	Target  string   `json:"target"` // last stage anything may be promoted to
	Mirrors []Mirror `json:"mirrors"`
	Images  []Image  `json:"images"` // in an order in which each comes after what it builds on
	Nodes   []Node   `json:"nodes"`  // in an order that respects every dependency
}

// Image is one image variant of a plan.
type Image struct {
	Image     string              `json:"image"`
	Variant   string              `json:"variant"`
	Platforms []artifact.Platform `json:"platforms"`
	Stages    []string            `json:"stages"`            // quarantine and what it may be promoted to, in order
	Held      string              `json:"held,omitempty"`    // why it goes no further than the first stage, if something holds it
	Needs     []string            `json:"needs"`             // bases and other images (image or image:variant) it builds on
	Tags      []string            `json:"tags,omitempty"`    // what it is published under in the stages it is promoted to
	Implied   bool                `json:"implied,omitempty"` // not selected, but another one builds on it
	Mirrors   []Use               `json:"mirrors"`           // that its steps use, by its lock; null: it has none, or it was not asked for
}

// ID is image or image:variant.
func (i Image) ID() string { return id(i.Image, i.Variant) }

func id(image, variant string) string {
	if variant == "" {
		return image
	}
	return image + ":" + variant
}

// Node is one step of a plan.
type Node struct {
	ID       string             `json:"id"` // kind/name[:variant][@platform]; promote/name[:variant]@stage
	Kind     Kind               `json:"kind"`
	Base     string             `json:"base,omitempty"`
	Image    string             `json:"image,omitempty"`
	Variant  string             `json:"variant,omitempty"`
	Platform *artifact.Platform `json:"platform,omitempty"`
	Stage    string             `json:"stage,omitempty"` // push, sign: the first; promote: where to
	Needs    []string           `json:"needs"`           // ids of nodes that must be done before
}
