package scan

import (
	"context"
	"net/http"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
)

// Where a database came from, as artifact.Database.Source says it.
const (
	SourceMirror = "mirror"
	SourceFile   = "file"
	SourceCache  = "cache"
	SourceBuilt  = "built"
)

// Changelogs fetches the changelog of a Debian source package through the
// mirror. It is what a database is built from when there is no other.
type Changelogs interface {
	// Package returns a .deb of the mirror, on this host, that carries the
	// changelog of a binary package in the newest version the mirror has.
	Package(ctx context.Context, p wire.SourcePackage) (deb string, digest artifact.Digest, err error)
}

// Resolver finds a database: the configured one, else the machine's own, else
// one built from the Debian mirror.
type Resolver struct {
	Setting    string // URL of a latest.json, or URL or path of an archive or database; "" or "auto" is none
	Place      string // where the setting stands, file:line, for errors
	CacheDir   string // databases are unpacked to vulndb/ below it
	GrypeCache string // the machine's grype database directory (…/grype/db); "" is not looked at
	HTTP       *http.Client
	Debian     Changelogs // nil: none can be built
	Client     *dagger.Client
	StepBin    string
}

// Resolve returns the database to scan an image of these source packages with.
func (r Resolver) Resolve(ctx context.Context, distro string, sources []wire.SourcePackage) (DB, error) {
	return DB{}, &artifact.Error{Kind: artifact.KindUsage, Op: "finding a vulnerability database", Place: r.Place}
}
