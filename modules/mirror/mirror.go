// Package mirror is everything Drydock knows of the outside: which mirrors
// this machine uses, how to reach them, what was fetched from them, and the
// gateway that lets a build step reach them and nothing else.
//
// Discover reads the ordinary client configuration (apt sources, go env,
// npmrc) and touches no network. Everything else is lazy: a source is verified
// the first time something is wanted from it.
//
// A mirror is public when its host resolves to at least one address that is
// neither private (RFC 1918, RFC 4193), loopback nor link-local. A name that
// does not resolve counts as public: behind a proxy that is how a public name
// looks, and the cautious answer is the one that is shown.
package mirror

import (
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/debian"
	"drydock/modules/mirror/internal/fetch"
)

// The ecosystems a mirror can serve.
const (
	Debian = "debian"
	Go     = "go"
	Npm    = "npm"
	OCI    = "oci"
	PyPI   = "pypi"
	Git    = "git"
	Files  = "files"
)

// ErrNotFound is in the chain of an error when the mirror answered that it
// does not have the file (404 or 410).
var ErrNotFound = fetch.ErrNotFound

// ErrOffline is in the chain of an error when Config.Offline kept a mirror from
// being asked.
var ErrOffline = fetch.ErrOffline

// Setting is one ecosystem's entry in mirrors.yaml: "auto", or URLs.
type Setting struct {
	Auto bool     // read the ordinary client configuration
	URLs []string // explicit; they win over Auto
}

// GitMirror says where git repositories are mirrored.
type GitMirror struct {
	Prefix string   // host, or host and path, as Dockerfiles name repositories
	URLs   []string // what stands in its place, tried in order
}

// FileMirror allows files below a prefix.
type FileMirror struct {
	Prefix string            // as Dockerfiles name it: https://host/path/
	URLs   []string          // what stands in its place, tried in order
	SHA256 map[string]string // hex, by path below the prefix
}

// Config is mirrors.yaml as far as this package is concerned.
type Config struct {
	Debian, Go, Npm, OCI, PyPI Setting

	Files []FileMirror // files by checksum
	Git   []GitMirror  // hosts whose repositories may be fetched from; others are refused

	StandsFor []StandIn // places that mirrors answer for; of one host longer prefixes first

	Suite   string // Debian suite wanted; "" is the suites found (explicit URLs: stable)
	Trust   string // PEM file added to the system's certificate pool; "" is none
	Keyring string // OpenPGP keyring in place of the Debian archive keyring found; "" finds it
	Place   string // the file these settings come from, for errors

	// At makes the mirrors serve what they had then; zero is now. Debian needs
	// Snapshot, an address with {archive} and {timestamp} (20060102T150405Z) or
	// {date} (20060102) in it.
	At       time.Time
	Snapshot string

	NoStale bool // a copy never stands in for a mirror that cannot be asked
	Offline bool // no mirror is asked for anything: the content store has it, or it is an error
}

// Host says where the ordinary client configuration lives. Zero values are the
// real places.
type Host struct {
	Environ   []string // the environment, as os.Environ gives it
	Home      string   // "" is HOME of Environ
	EtcApt    string   // "" is /etc/apt
	Keyrings  string   // "" is /usr/share/keyrings
	GoEnvFile string   // "" is GOENV or the user's go/env
}

// Endpoint is one ecosystem's mirror, fit to be shown.
type Endpoint struct {
	Ecosystem string `json:"ecosystem"`
	Prefix    string `json:"prefix,omitempty"` // git, files: for which names it stands
	URL       string `json:"url"`              // without credentials
	Public    bool   `json:"public"`           // see the package comment
	Source    string `json:"source"`           // the file or variable it was read from
}

// DebianSource is one Debian archive whose InRelease verifies.
type DebianSource struct {
	Archive    string   `json:"archive"`    // last path element of the URI: debian, debian-security
	URI        string   `json:"uri"`        // without credentials, no slash at the end
	Suites     []string `json:"suites"`     // bookworm, bookworm-updates
	Components []string `json:"components"` // main
	Keyring    string   `json:"keyring"`    // file whose key signed it
	Public     bool     `json:"public"`
}

// Release is a verified Release document.
type Release = debian.Release

// Request asks for one file of a mirror.
type Request struct {
	Ecosystem string
	Path      string          // below the mirror; Debian: "<archive>/pool/…"
	SHA256    artifact.Digest // wanted digest; "" when not known beforehand
	Size      int64           // wanted size; 0 when not known
	// At is when the mirror had it, where its digest is given: then a Debian archive
	// that has it no more is asked for its snapshot of that time. Zero: now.
	At   time.Time
	Anew bool // the mirror is asked, however new the copy here is
}

// Blob is a file in the content store. It must not be written to.
type Blob struct {
	Path     string // in the cache directory
	Material artifact.Material
	Stale    bool // the mirror could not be asked; this is the last copy known
}
