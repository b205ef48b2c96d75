// Package catalog reads the catalog: which bases, images, mirrors, stages and
// policies there are. It is strict (an unknown field is an error with its file
// and line) and reads nothing but the file system it is handed.
package catalog

import (
	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/policy"
)

// Version is the version of the catalog's file formats.
const Version = 1

// Catalog is everything the catalog's files say, defaults filled in. It
// marshals back to YAML as one document.
type Catalog struct {
	Name     string          `yaml:"name"`
	Bases    []Base          `yaml:"bases"`
	Images   []Image         `yaml:"images"`
	Mirrors  Mirrors         `yaml:"mirrors"`
	Stages   []Stage         `yaml:"stages"`
	Policies []policy.Policy `yaml:"policies"`

	Frontends []Frontend `yaml:"frontends,omitempty"` // that a Dockerfile may name beside the built-in one
	Emulators *Emulators `yaml:"emulators,omitempty"` // nil: RUN of foreign architectures is refused

	Tightened []Tightened `yaml:"-"` // what a project made stricter
}

// MirrorsOnly is a catalog that allows no image, for programs that bring theirs:
// every mirror is what the machine's own client configuration says.
func MirrorsOnly(name string) *Catalog {
	auto := Setting{Auto: true}
	return &Catalog{Name: name, Mirrors: Mirrors{Debian: auto, Go: auto, Npm: auto, OCI: auto, PyPI: auto, VulnDB: "auto"}}
}

// Base is an image others build on.
type Base struct {
	Version     int                 `yaml:"version"`
	Name        string              `yaml:"name"`
	Kind        string              `yaml:"kind"`              // debian or oci
	Variant     string              `yaml:"variant,omitempty"` // debian: static, minimal or full
	Suite       string              `yaml:"suite,omitempty"`   // debian: default what the mirror setting says
	Platforms   []artifact.Platform `yaml:"platforms"`
	Packages    []string            `yaml:"packages,omitempty"`
	Go          string              `yaml:"go,omitempty"`     // Go toolchain to add: 1.26 (its newest release when the lock is made) or 1.26.8
	Node        string              `yaml:"node,omitempty"`   // Node.js to add, with npm, corepack and yarn: 22 (its newest release when the lock is made) or 22.12.0
	Image       string              `yaml:"image,omitempty"`  // oci: path@sha256:… at the oci mirror
	Verify      *Verify             `yaml:"verify,omitempty"` // oci: whose signatures it must carry
	User        string              `yaml:"user,omitempty"`
	Env         map[string]string   `yaml:"env,omitempty"`
	Lock        string              `yaml:"lock"` // relative to the file; default locks/<name>.json
	Stream      string              `yaml:"stream,omitempty"`
	State       string              `yaml:"state"` // active, deprecated or eol
	Owner       string              `yaml:"owner,omitempty"`
	Description string              `yaml:"description,omitempty"`
	StandsFor   []string            `yaml:"standsFor,omitempty"` // upstream references FROM may name in its place; * is any text without / and -

	Place    string `yaml:"-"` // file:line of its name
	File     string `yaml:"-"` // its own file, relative to the catalog
	LockPath string `yaml:"-"` // Lock, relative to the catalog
}

// Image is something we build.
type Image struct {
	Version     int                 `yaml:"version"`
	Name        string              `yaml:"name"` // also its repository
	Description string              `yaml:"description,omitempty"`
	Owner       string              `yaml:"owner,omitempty"`
	Context     string              `yaml:"context"`    // relative to the file; default the name
	Dockerfile  string              `yaml:"dockerfile"` // relative to the context; default Dockerfile
	Target      string              `yaml:"target,omitempty"`
	Platforms   []artifact.Platform `yaml:"platforms"`
	User        string              `yaml:"user,omitempty"` // who it runs as in place of what its Dockerfile says: uid[:gid], or names it knows; never root
	Args        map[string]string   `yaml:"args,omitempty"`
	Matrix      Matrix              `yaml:"matrix,omitempty"`
	Tests       Tests               `yaml:"tests"`
	Tags        []string            `yaml:"tags,omitempty"`    // templates: what each variant is published under when it is promoted
	Aliases     []Alias             `yaml:"aliases,omitempty"` // likewise, for tags that move
	Secrets     []Secret            `yaml:"secrets,omitempty"`
	SSH         string              `yaml:"ssh,omitempty"`        // socket of the agent RUN --mount=type=ssh asks; $NAME is put in from the environment
	KeepTraces  bool                `yaml:"keepTraces,omitempty"` // leave logs and caches of package managers in its layers
	Contexts    map[string]string   `yaml:"contexts,omitempty"`   // folders by the name COPY --from= calls them, relative to the image's file

	Project        bool             `yaml:"-"` // it is the project file's; paths below are relative to the project, else to the catalog
	Place          string           `yaml:"-"` // file:line of its name
	SSHPlace       string           `yaml:"-"` // file:line of SSH
	File           string           `yaml:"-"` // the file it stands in
	ContextDir     string           `yaml:"-"` // Context
	DockerfilePath string           `yaml:"-"` // Dockerfile
	StructurePaths []string         `yaml:"-"` // Tests.Structure
	Ignore         []string         `yaml:"-"` // patterns of the context's .dockerignore
	NamedContexts  []Context        `yaml:"-"` // Contexts, found, by name
	Parsed         *dockerfile.File `yaml:"-"`
	Frontend       *Frontend        `yaml:"-"` // what reads the Dockerfile; nil is the built-in frontend
	Variants       []Variant        `yaml:"-"` // one with Name "" when there is no matrix
}

// Variant is one cell of an image's matrix.
type Variant struct {
	Name string            // axis values joined by "-"; "" without a matrix
	Args map[string]string // the image's args and the axis values
	Refs []Ref             // what its Dockerfile builds on for any platform, each once, in order
	Tags []string          // what it is published under when it is promoted: tags, then aliases

	byPlatform map[artifact.Platform][]Ref
}

// RefsOn lists what the variant's Dockerfile builds on for one platform.
func (v Variant) RefsOn(p artifact.Platform) []Ref { return v.byPlatform[p] }

// Ref is what one FROM (or COPY --from=) of a Dockerfile names in the catalog:
// a base, or a variant of another image.
type Ref struct {
	Spelling string             // as the Dockerfile spells it, build arguments put in
	Base     string             // name of the base, "" when it is an image
	Image    string             // name of the image, "" when it is a base
	Variant  string             // variant of the image
	Line     int                // line of the Dockerfile
	Build    bool               // it is wanted for the build platform, not the target platform
	Platform *artifact.Platform // it is wanted for this platform whatever the target; nil: Build decides
}

// Matrix is the axes of an image, in the order they are written. Axis values
// are build arguments.
type Matrix struct {
	Axes    []Axis
	Include []map[string]string
	Exclude []map[string]string
}

// Axis is one dimension of a matrix.
type Axis struct {
	Name   string
	Values []string
}

// Tests are the black-box tests of an image.
type Tests struct {
	Structure    []string  `yaml:"structure,omitempty"` // container-structure-test files, relative to the image's file
	Services     []Service `yaml:"services,omitempty"`
	ReadOnlyRoot bool      `yaml:"readOnlyRoot"`
	Writable     []string  `yaml:"writable,omitempty"` // directories that stay writable under a read-only root
	NonRoot      bool      `yaml:"nonRoot"`            // default true
}

// Service starts the image and asks it for an answer.
type Service struct {
	Name    string          `yaml:"name"`
	Command []string        `yaml:"command,omitempty"` // default what the image runs
	HTTP    *HTTPCheck      `yaml:"http,omitempty"`
	TCP     *TCPCheck       `yaml:"tcp,omitempty"`
	Timeout policy.Duration `yaml:"timeout"` // default 30s
}

// HTTPCheck asks for one page.
type HTTPCheck struct {
	Port     int    `yaml:"port"`
	Path     string `yaml:"path"`   // default /
	Status   int    `yaml:"status"` // default 200
	Contains string `yaml:"contains,omitempty"`
}

// TCPCheck sends some bytes and expects some back; with neither, a connection
// is enough.
type TCPCheck struct {
	Port   int    `yaml:"port"`
	Send   string `yaml:"send,omitempty"`
	Expect string `yaml:"expect,omitempty"` // regular expression
}

// Mirrors says where each ecosystem is fetched from.
type Mirrors struct {
	Version int     `yaml:"version"`
	Debian  Setting `yaml:"debian"`
	Go      Setting `yaml:"go"`
	Npm     Setting `yaml:"npm"`
	OCI     Setting `yaml:"oci"`
	PyPI    Setting `yaml:"pypi"`

	// Git is where git repositories are mirrored: by host, or host and path, as
	// Dockerfiles name them; tried in order.
	Git map[string]URLs `yaml:"git,omitempty"`
	// Files may be fetched one by one: those whose checksum stands here or in a
	// lock.
	Files []Files `yaml:"files,omitempty"`
	// StandsFor are places that lockfiles and sources name whatever the mirror
	// is, as host/path/, and what answers for each: npm, go, go/sumdb/NAME,
	// pypi/simple, pypi/files, pypi/json, debian or debian-security.
	StandsFor map[string]string `yaml:"standsFor,omitempty"`

	Suite string `yaml:"suite,omitempty"`
	// Snapshot is the address of a Debian mirror that keeps snapshots, with
	// {archive} and {timestamp} or {date} in it; "" is none.
	Snapshot string `yaml:"snapshot,omitempty"`

	VulnDB string `yaml:"vulndb"`          // auto, URL of a latest.json, or a file
	Trust  string `yaml:"trust,omitempty"` // PEM file of certificates every client trusts besides the system's

	Place string `yaml:"-"` // the file
}

// Files is a prefix below which files may be fetched.
type Files struct {
	Prefix string            `yaml:"prefix"`           // https://host/path/, as Dockerfiles name it
	From   URLs              `yaml:"from,omitempty"`   // what stands in its place, tried in order; default the prefix
	SHA256 map[string]string `yaml:"sha256,omitempty"` // hex, by path below the prefix
}

// URLs is one URL or a list of them.
type URLs []string

// Setting is "auto" (the ordinary client configuration decides) or URLs.
type Setting struct {
	Auto bool
	URLs []string
}

// Stage is a registry location and the policy to enter it.
type Stage struct {
	Name     string `yaml:"name"`
	Registry string `yaml:"registry"` // embedded, or host/path
	From     string `yaml:"from,omitempty"`
	Policy   string `yaml:"policy,omitempty"`

	Place string `yaml:"-"` // file:line
}

// Base finds a base by name.
func (c *Catalog) Base(name string) (*Base, bool) {
	for i := range c.Bases {
		if c.Bases[i].Name == name {
			return &c.Bases[i], true
		}
	}
	return nil, false
}

// Image finds an image by name.
func (c *Catalog) Image(name string) (*Image, bool) {
	for i := range c.Images {
		if c.Images[i].Name == name {
			return &c.Images[i], true
		}
	}
	return nil, false
}

// Stage finds a stage by name.
func (c *Catalog) Stage(name string) (*Stage, bool) {
	for i := range c.Stages {
		if c.Stages[i].Name == name {
			return &c.Stages[i], true
		}
	}
	return nil, false
}

// Policy finds a policy by name.
func (c *Catalog) Policy(name string) (*policy.Policy, bool) {
	for i := range c.Policies {
		if c.Policies[i].Name == name {
			return &c.Policies[i], true
		}
	}
	return nil, false
}
