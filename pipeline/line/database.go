package line

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"drydock/modules/artifact"
	"drydock/modules/mirror"
	"drydock/modules/mirror/debian"
	"drydock/modules/mirror/lockfile"
	"drydock/modules/scan"
	"drydock/modules/steprun/wire"
)

// database finds the vulnerability database to scan an image's packages with:
// the one the image's lock names, under --locked, else the newest.
func (l *Line) database(ctx context.Context, image string, inv *inventory) (scan.DB, error) {
	pinned, err := l.databasePinned(image)
	if err != nil {
		return scan.DB{}, err
	}
	db, err := l.findDatabase(ctx, inv.Distro, inv.Sources, pinned)
	return db, l.databaseRefusal(err, image)
}

// findDatabase is database for packages of a distribution ("debian 12"), given
// as Debian source packages. pinned is the one that will do, "" for the newest.
func (l *Line) findDatabase(ctx context.Context, distro string, sources []wire.SourcePackage, pinned artifact.Digest) (scan.DB, error) {
	e, step, err := l.worker()
	if err != nil {
		return scan.DB{}, err
	}
	set, err := l.mirrors.get()
	if err != nil {
		return scan.DB{}, err
	}
	m := l.cfg.Catalog.Mirrors
	setting := m.VulnDB
	if setting != "" && setting != "auto" && !strings.Contains(setting, "://") && !filepath.IsAbs(setting) {
		setting = filepath.Join(l.cfg.CatalogDir, setting)
	}
	return scan.Resolver{
		Setting: setting, Pinned: pinned, Place: m.Place, CacheDir: l.cfg.Cache, GrypeCache: l.grypeCache(),
		HTTP: &http.Client{Transport: viaMirror{set}}, Debian: l.changelogs(set), Client: e.Client, StepBin: step,
	}.Resolve(ctx, distro, sources)
}

// databasePinned is the database --locked holds an image's scans to.
func (l *Line) databasePinned(image string) (artifact.Digest, error) {
	if !l.cfg.Locked {
		return "", nil
	}
	lock, err := l.readLock(image)
	if err != nil || lock == nil || lock.Database == nil {
		return "", err
	}
	return lock.Database.Digest, nil
}

// databaseToLock is the configured vulnerability database as locks have it. What
// drydock finds or builds by itself is not pinned: it is another every day.
func (l *Line) databaseToLock(ctx context.Context) (*lockfile.Database, error) {
	if v := l.cfg.Catalog.Mirrors.VulnDB; v == "" || v == "auto" {
		return nil, nil
	}
	db, err := l.findDatabase(ctx, "", nil, "")
	if err != nil {
		return nil, err
	}
	d := db.Database
	return &lockfile.Database{Source: d.Source, Schema: d.Schema, Built: d.Built, Digest: d.Digest}, nil
}

// viaMirror is an http.RoundTripper that fetches as every mirror is fetched
// from: with its credentials, proxies and authorities, through the content
// store.
type viaMirror struct{ set *mirror.Set }

// RoundTrip answers GET requests.
func (v viaMirror) RoundTrip(r *http.Request) (*http.Response, error) {
	blob, err := v.set.FetchURL(r.Context(), r.URL.String(), "")
	if err != nil {
		return nil, err
	}
	f, err := os.Open(blob.Path)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: f, ContentLength: blob.Material.Size, Request: r,
	}, nil
}

// grypeCache is where a grype on this machine keeps its database.
func (l *Line) grypeCache() string {
	if dir := l.getenv("GRYPE_DB_CACHE_DIR"); dir != "" {
		return dir
	}
	cache := l.getenv("XDG_CACHE_HOME")
	if cache == "" {
		if home := l.getenv("HOME"); home != "" {
			cache = filepath.Join(home, ".cache")
		}
	}
	if cache == "" {
		return ""
	}
	dir := filepath.Join(cache, "grype", "db")
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// changelogs serves the newest .deb of a package from the Debian mirror: what
// a database is built from where there is no other.
type changelogs struct {
	set   *mirror.Set
	arch  string
	once  sync.Once
	newst map[string]located
	err   error
}

// located is a package and the archive it lies in.
type located struct {
	debian.Package
	archive string
}

func (l *Line) changelogs(set *mirror.Set) scan.Changelogs {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logs == nil {
		l.logs = &changelogs{set: set, arch: "amd64"}
	}
	return l.logs
}

// Package fetches the newest .deb of a binary package.
func (c *changelogs) Package(ctx context.Context, p wire.SourcePackage) (string, artifact.Digest, error) {
	newest, err := c.all(ctx)
	if err != nil {
		return "", "", err
	}
	at, ok := newest[p.Binary]
	if !ok {
		return "", "", &artifact.Error{
			Kind: artifact.KindFault, Op: "building vulnerability database", Place: p.Binary, Err: mirror.ErrNotFound,
			Message: "the Debian mirror has no such package", Remedy: "give a database with vulndb: in mirrors.yaml",
		}
	}
	digest := artifact.Digest("sha256:" + at.SHA256)
	blob, err := c.set.Fetch(ctx, mirror.Request{
		Ecosystem: mirror.Debian, Path: at.archive + "/" + at.Filename, SHA256: digest, Size: at.Size,
	})
	if err != nil {
		return "", "", err
	}
	return blob.Path, digest, nil
}

// index is every package's newest version over all suites.
func (c *changelogs) index(ctx context.Context) (map[string]located, error) {
	sources, err := c.set.Debian(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]located{}
	for _, src := range sources {
		for _, suite := range src.Suites {
			for _, component := range src.Components {
				packages, err := c.set.Packages(ctx, src, suite, component, c.arch)
				if err != nil {
					return nil, err
				}
				for _, p := range packages {
					if have, ok := out[p.Name]; !ok || debian.Compare(p.Version, have.Version) > 0 {
						out[p.Name] = located{p, src.Archive}
					}
				}
			}
		}
	}
	return out, nil
}
