package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"time"

	"dagger.io/dagger"
	"golang.org/x/sync/errgroup"

	"drydock/modules/artifact"
	"drydock/modules/mirror"
	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

// fetchAtOnce is how many packages are fetched at a time.
const fetchAtOnce = 4

// fetched is a binary package whose changelog is wanted.
type fetched struct {
	source, binary, file string
	digest               artifact.Digest
}

// built is a database made from the changelogs of an image's own source
// packages, in the newest versions the mirror has. It is made once a day: what
// the mirror has today is what is known today.
func (r Resolver) built(ctx context.Context, distro string, sources []wire.SourcePackage) (DB, error) {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	day := now().UTC().Truncate(24 * time.Hour)
	first, err := r.fetch(ctx, sources)
	if err != nil {
		return DB{}, err
	}
	db, d, err := r.buildFrom(ctx, distro, day, first)
	if err != nil {
		return DB{}, err
	}
	// Some packages only link to the documentation of another; their other
	// binaries are asked then.
	var more []wire.SourcePackage
	for _, s := range sources {
		if slices.Contains(d.Sources, s.Name) {
			continue
		}
		for _, other := range s.Others {
			more = append(more, wire.SourcePackage{Name: s.Name, Binary: other, Version: s.Version})
		}
	}
	if len(more) == 0 {
		return db, nil
	}
	second, err := r.fetch(ctx, more)
	if err != nil || len(second) == 0 {
		return db, err
	}
	db, _, err = r.buildFrom(ctx, distro, day, append(first, second...))
	return db, err
}

// fetch gets a binary package of each source. One that the mirror does not
// have is left out: the database then says that it does not know the source.
func (r Resolver) fetch(ctx context.Context, sources []wire.SourcePackage) ([]fetched, error) {
	out := make([]fetched, len(sources))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchAtOnce)
	for i, s := range sources {
		group.Go(func() error {
			file, digest, err := r.Debian.Package(gctx, s)
			if errors.Is(err, mirror.ErrNotFound) {
				return nil
			}
			out[i] = fetched{s.Name, s.Binary, file, digest}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	out = slices.DeleteFunc(out, func(f fetched) bool { return f.file == "" })
	sort.Slice(out, func(i, j int) bool { return out[i].source+" "+out[i].binary < out[j].source+" "+out[j].binary })
	return out, nil
}

// buildFrom makes a database of packages, unless it was made before.
func (r Resolver) buildFrom(ctx context.Context, distro string, day time.Time, debs []fetched) (DB, wire.Database, error) {
	parts := []string{"built", storeVersion, distro, day.Format(time.DateOnly)}
	for _, f := range debs {
		parts = append(parts, f.source, f.binary, string(f.digest))
	}
	key := hashKey(parts...)
	db, ok := r.stored(key, SourceBuilt)
	if !ok {
		if err := r.runBuild(ctx, key, distro, day, debs); err != nil {
			return DB{}, wire.Database{}, err
		}
		var err error
		if db, err = r.mustBeStored(key, SourceBuilt); err != nil {
			return DB{}, wire.Database{}, err
		}
	}
	raw, err := os.ReadFile(filepath.Join(db.Dir, wire.DatabaseFile))
	if err != nil {
		return DB{}, wire.Database{}, r.fault("reading the cache directory", err)
	}
	var d wire.Database
	if err := json.Unmarshal(raw, &d); err != nil {
		return DB{}, wire.Database{}, r.fault("reading the cache directory", err)
	}
	return db, d, nil
}

// runBuild hands the packages to a step, under names that say nothing of this
// host: the step is cached by what it is given.
func (r Resolver) runBuild(ctx context.Context, key, distro string, day time.Time, debs []fetched) error {
	dir, err := os.MkdirTemp(r.dir(), ".debs-")
	if err != nil {
		return r.fault("writing to the cache directory", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, f := range debs {
		name := filepath.Join(dir, fmt.Sprintf("%s_%s.deb", f.source, f.binary))
		if err := os.Link(f.file, name); err == nil {
			continue
		}
		if _, err := copyFile(name, f.file); err != nil {
			return r.fault("copying packages", err)
		}
	}
	run := steprun.Container(r.Client, steprun.Call{
		Binary: r.StepBin,
		Args: []string{"vulndb", "build", "--debs", "/in", "--distro", distro,
			"--built", strconv.FormatInt(day.Unix(), 10), "--out", "/out"},
		Dirs: map[string]*dagger.Directory{"/in": r.Client.Host().Directory(dir)},
	})
	return r.keep(ctx, key, run)
}
