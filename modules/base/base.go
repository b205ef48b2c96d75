// Package base makes the images others build on.
//
// A base of kind debian is bootstrapped from the Debian mirror: its packages
// are resolved and verified in Go, then either unpacked to a layer (variants
// minimal and static: no maintainer script runs, so any platform can be made
// anywhere) or configured with dpkg inside the engine (variant full). A base of kind oci is
// an upstream image taken by digest through an OCI mirror. What a base is made
// of stands in its Lock, and its digest follows from that.
package base

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/base/layout"
	"drydock/modules/mirror"
)

// The kinds and variants of a Spec.
const (
	KindDebian     = "debian"
	KindOCI        = "oci"
	VariantStatic  = "static"  // unpacked, without a C library
	VariantMinimal = "minimal" // unpacked
	VariantFull    = "full"    // configured by dpkg
)

// Spec is a base as the catalog asks for it.
type Spec struct {
	Name      string
	Kind      string // KindDebian or KindOCI
	Variant   string // of a debian base: VariantStatic, VariantMinimal or VariantFull
	Suite     string // Debian suite; "" is the one the mirror settings lead to
	Packages  []string
	Go        string // toolchain: 1.25 (its newest patch release) or 1.25.3; "" is none
	Node      string // Node.js: 22 (its newest release) or 22.12.0; "" is none
	Image     string // of an oci base: path@sha256:…
	User      string // "" is 65532:65532 for those unpacked, root for full, the image's own for oci
	Platforms []artifact.Platform
	Env       map[string]string
	Trust     *Trust // of an oci base: whose signatures it must carry; nil is its digest alone
	Place     string // file:line, for errors
}

// Result is a base that was built, or found built.
type Result struct {
	Layout    string                     // OCI image layout directory
	Digest    artifact.Digest            // of the index, or of the only manifest
	Platforms map[string]artifact.Digest // manifest by platform
	Materials []artifact.Material
	Lock      *Lock    // with digests; the given one unless something changed
	Changed   []string // why Lock is not the given one, a line for each difference
	Cached    bool     // nothing was built

	layers []layout.Layer // it was made of, those of platforms made here
	reused bool           // some of them were found in the cache
}

// Builder builds bases into a cache directory. Its methods may be called
// concurrently, and several builders may share the directory.
type Builder struct {
	Mirrors *mirror.Set
	// Engine gives the client full bases are configured with. It is called only
	// when a step must run; nil refuses to build full bases that are not cached.
	Engine func(context.Context) (*dagger.Client, error)
	// Emulate makes the engine ready to run a platform's code, where it needs an
	// emulator for that, and says what that is made of; nil leaves it to the engine.
	Emulate  func(artifact.Platform) ([]artifact.Material, error)
	CacheDir string            // finished layouts and layers live here
	Locked   bool              // refuse to replace what the mirror no longer serves
	Log      func(line string) // progress, nil-able
	Now      func() time.Time  // for trust that expires; nil is time.Now
}

func (b *Builder) logf(format string, args ...any) {
	if b.Log != nil {
		b.Log(fmt.Sprintf(format, args...))
	}
}

// check refuses a Spec nothing can be made of.
func (s Spec) check() error {
	bad := func(message, remedy string) error {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading base " + s.Name, Place: s.Place,
			Message: message, Remedy: remedy,
		}
	}
	if s.Name == "" {
		return bad("it has no name", "give it one")
	}
	switch s.Kind {
	case KindDebian:
		if !slices.Contains([]string{VariantStatic, VariantMinimal, VariantFull}, s.Variant) {
			return bad(fmt.Sprintf("unknown variant %q", s.Variant), "write static, minimal or full")
		}
		if s.Trust != nil {
			return bad("a debian base takes no signers", "remove them: its packages are verified with Debian's own keys")
		}
		if s.Image != "" {
			return bad("a debian base takes no image", "remove it, or make the kind oci")
		}
		if len(s.Platforms) == 0 {
			return bad("it names no platform", "write for example linux/amd64")
		}
	case KindOCI:
		if len(s.Packages) > 0 || s.Go != "" || s.Node != "" || s.Variant != "" {
			return bad("an oci base takes no packages, toolchain or variant", "put them in the Dockerfile that builds on it")
		}
	default:
		return bad(fmt.Sprintf("unknown kind %q", s.Kind), "write debian or oci")
	}
	if why := s.badPlatform(); why != "" {
		return bad(why, "name linux platforms, each once and without a variant")
	}
	return nil
}

// badPlatform says what is wrong with the platforms, or "".
func (s Spec) badPlatform() string {
	seen := map[string]bool{}
	for _, p := range s.Platforms {
		if seen[p.String()] {
			return "platform " + p.String() + " is named twice"
		}
		seen[p.String()] = true
		if p.OS != "linux" || (p.Variant != "" && s.Kind == KindDebian) {
			return "no base for platform " + p.String()
		}
	}
	return ""
}

// request is what of the Spec decides the base's content: the lock keeps it, so
// that a lock of another Spec is noticed.
func (s Spec) request() Request {
	r := Request{
		Packages: slices.Clone(s.Packages), Go: s.Go, Node: s.Node, Image: s.Image, User: s.User,
		Env: maps.Clone(s.Env), Signed: s.Trust.locked(),
	}
	slices.Sort(r.Packages)
	r.Packages = slices.Compact(r.Packages)
	return r
}
