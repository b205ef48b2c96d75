package scan

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dagger.io/dagger"
	"github.com/gofrs/flock"

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

const op = "finding a vulnerability database"

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
	Setting    string // URL or path of a latest.json, an archive or a database; "" or "auto" is none
	Place      string // where the setting stands, file:line, for errors
	CacheDir   string // databases are unpacked to vulndb/ below it
	GrypeCache string // the machine's grype database directory (…/grype/db); "" is not looked at
	HTTP       *http.Client
	Debian     Changelogs      // nil: none can be built
	Pinned     artifact.Digest // of the one database that will do, kept or resolved; "": the newest
	Client     *dagger.Client
	StepBin    string
	Now        func() time.Time // nil: time.Now; dates a database built here
}

// Resolve returns the database to scan an image of these source packages with.
// One process at a time resolves in a cache directory, so that a database is
// fetched once however many images wait for it.
func (r Resolver) Resolve(ctx context.Context, distro string, sources []wire.SourcePackage) (DB, error) {
	if err := os.MkdirAll(r.dir(), 0o755); err != nil {
		return DB{}, r.fault("making the cache directory", err)
	}
	lock := flock.New(filepath.Join(r.dir(), ".lock"))
	if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return DB{}, cause
		}
		return DB{}, r.fault("locking the cache directory", err)
	}
	defer func() { _ = lock.Unlock() }()
	if r.Pinned == "" {
		return r.resolve(ctx, distro, sources)
	}
	if db, ok := r.kept(); ok {
		return db, nil
	}
	db, err := r.resolve(ctx, distro, sources)
	if err != nil || db.Database.Digest == r.Pinned {
		return db, err
	}
	return DB{}, &artifact.Error{
		Kind: artifact.KindFault, Op: op, Place: r.Place,
		Message: fmt.Sprintf("the lock has %s, what is served now is %s, built %s (rule %s)",
			r.Pinned, db.Database.Digest, db.Database.Built.UTC().Format(time.DateOnly), RuleLocked),
	}
}

// RuleLocked refuses a database that is not the one a lock names.
const RuleLocked = "lock/database"

// kept is the pinned database among those that were resolved before.
func (r Resolver) kept() (DB, bool) {
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		return DB{}, false
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		source := SourceMirror
		if r.Setting != "" && !strings.Contains(r.Setting, "://") {
			source = SourceFile
		}
		if db, ok := r.stored(e.Name(), source); ok && db.Database.Digest == r.Pinned {
			return db, true
		}
	}
	return DB{}, false
}

func (r Resolver) resolve(ctx context.Context, distro string, sources []wire.SourcePackage) (DB, error) {
	switch {
	case r.Setting != "" && r.Setting != "auto":
		return r.configured(ctx)
	case r.grypeFile() != "":
		return r.fromGrype(r.grypeFile())
	case r.Debian != nil && strings.HasPrefix(distro, "debian ") && len(sources) > 0:
		return r.built(ctx, distro, sources)
	}
	return DB{}, &artifact.Error{
		Kind: artifact.KindUsage, Op: op, Place: r.Place,
		Message: fmt.Sprintf("none is configured, grype has none on this machine, and none can be built for %s", orNone(distro)),
		Remedy:  "set vulndb in mirrors.yaml to the URL of a latest.json or to a file",
	}
}

func orNone(distro string) string {
	if distro == "" {
		return "an image without Debian packages"
	}
	return distro
}

func (r Resolver) dir() string { return filepath.Join(r.CacheDir, "vulndb") }

func (r Resolver) fault(what string, err error) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: op, Place: r.Place, Message: what, Err: err,
		Remedy: "see that vulndb in mirrors.yaml can be reached and the cache directory be written"}
}

// configured is the database the setting names.
func (r Resolver) configured(ctx context.Context) (DB, error) {
	if strings.HasPrefix(r.Setting, "http://") || strings.HasPrefix(r.Setting, "https://") {
		return r.remote(ctx)
	}
	return r.local(ctx, strings.TrimPrefix(r.Setting, "file://"))
}

// local is a latest.json, an archive or a database of this host.
func (r Resolver) local(ctx context.Context, file string) (DB, error) {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return DB{}, &artifact.Error{Kind: artifact.KindUsage, Op: op, Place: r.Place,
			Message: fmt.Sprintf("there is no file %s", file), Remedy: "give vulndb a URL or a file that is there"}
	}
	if filepath.Ext(file) == ".json" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return DB{}, r.fault("reading latest.json", err)
		}
		l, err := r.parseLatest(raw)
		if err != nil {
			return DB{}, err
		}
		archive := filepath.Join(filepath.Dir(file), filepath.FromSlash(l.Path))
		return r.imported(ctx, importKey(string(l.Checksum)), archive, l.Checksum, SourceFile)
	}
	return r.imported(ctx, importKey(statKey(file, info)), file, "", SourceFile)
}

// grypeFile is the database grype keeps on this machine, if it does.
func (r Resolver) grypeFile() string {
	if r.GrypeCache == "" {
		return ""
	}
	p := filepath.Join(r.GrypeCache, "6", databaseName)
	if info, err := os.Stat(p); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return p
}
