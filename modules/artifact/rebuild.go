package artifact

// PredicateRebuild is the type of what building an image again showed.
const PredicateRebuild = "https://drydock.dev/attestation/rebuild/v1"

// The outcomes of building an image again.
const (
	RebuildIdentical  = "identical"
	RebuildDiffers    = "differs"
	RebuildImpossible = "impossible" // it cannot be decided, or not now
)

// RebuildReport is the predicate of PredicateRebuild: what came of building an
// image again from its provenance. No clock is read, the same outcome is the
// same bytes.
type RebuildReport struct {
	Version    int            `json:"version"` // 1
	Outcome    string         `json:"outcome"` // RebuildIdentical or RebuildDiffers
	Rebuilt    Digest         `json:"rebuilt"` // what it is now
	Image      string         `json:"image"`
	Variant    string         `json:"variant,omitempty"`
	Revision   string         `json:"revision"`   // the commit it was built from
	Provenance Digest         `json:"provenance"` // of the predicate that was followed
	Builder    RebuildBuilder `json:"builder"`
	Platforms  []RebuiltOne   `json:"platforms"`
	Index      []FieldDiff    `json:"index,omitempty"` // where the index itself differs
	Notes      []string       `json:"notes,omitempty"` // what may explain a difference
}

// RebuildBuilder is what built the image again.
type RebuildBuilder struct {
	Drydock string `json:"drydock"` // its version
	Engine  string `json:"engine"`
	Tier    string `json:"tier,omitempty"`
	Mode    string `json:"mode,omitempty"`
}

// RebuiltOne is one platform; Was or Now is "" where one of them has it not.
type RebuiltOne struct {
	Platform Platform   `json:"platform"`
	Was      Digest     `json:"was,omitempty"` // manifests
	Now      Digest     `json:"now,omitempty"`
	Diff     *ImageDiff `json:"diff,omitempty"` // nil where they are the same
}

// ImageDiff is how two images of one platform differ.
type ImageDiff struct {
	Version int         `json:"version"` // 1
	Config  []FieldDiff `json:"config"`  // of manifest and configuration
	Layers  []LayerDiff `json:"layers"`  // those that differ
}

// FieldDiff is one field of a document, as JSON; "" where it is not there.
type FieldDiff struct {
	Field string `json:"field"` // config.Env, history[2].created_by
	Was   string `json:"was"`
	Now   string `json:"now"`
}

// LayerDiff is one layer that differs.
type LayerDiff struct {
	Index       int        `json:"index"`                 // from 0, the base's first
	Instruction string     `json:"instruction,omitempty"` // what made it, from the history
	Was         Digest     `json:"was,omitempty"`         // diff ids; "" where there is no such layer
	Now         Digest     `json:"now,omitempty"`
	Files       []FileDiff `json:"files"`          // at most MaxFileDiffs
	More        int        `json:"more,omitempty"` // further files that differ
	Note        string     `json:"note,omitempty"` // what differs where no file does
}

// MaxFileDiffs is how many files of one layer are listed.
const MaxFileDiffs = 500

// FileDiff is one file of a layer that differs, and how.
type FileDiff struct {
	Path    string   `json:"path"`
	Changes []string `json:"changes"` // added, removed, type, content, link, mode, owner, time, xattr, device
	Was     string   `json:"was,omitempty"`
	Now     string   `json:"now,omitempty"`
	Hint    string   `json:"hint,omitempty"` // which tool makes it differ, and how to avoid that
}
