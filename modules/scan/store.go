package scan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

const (
	databaseName = "vulnerability.db"
	// storeVersion is part of every key: another form of the store is another
	// entry, never a misread one.
	storeVersion = "1"
)

// importKey names an imported archive in the store.
func importKey(of string) string { return hashKey("import", storeVersion, of) }

func hashKey(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// statKey stands for a file's content without reading it: databases are large,
// and are replaced, never written to.
func statKey(path string, info os.FileInfo) string {
	return fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())
}

// stored is a database of the store, if it is there and whole.
func (r Resolver) stored(key, source string) (DB, bool) {
	dir := filepath.Join(r.dir(), key)
	raw, err := os.ReadFile(filepath.Join(dir, wire.DatabaseFile))
	if err != nil {
		return DB{}, false
	}
	var d wire.Database
	if json.Unmarshal(raw, &d) != nil || d.Version != wire.Version {
		return DB{}, false
	}
	if info, err := os.Stat(filepath.Join(dir, databaseName)); err != nil || info.Size() == 0 {
		return DB{}, false
	}
	return DB{Dir: dir, Database: artifact.Database{Source: source, Schema: d.Schema, Built: d.Built, Digest: d.Digest}}, true
}

// imported is an archive of this host in the store, unpacked and indexed by a
// step when it is not there yet.
func (r Resolver) imported(ctx context.Context, key, archive string, checksum artifact.Digest, source string) (DB, error) {
	if db, ok := r.stored(key, source); ok {
		return db, nil
	}
	args := []string{"vulndb", "import", "--in", "/in/archive", "--out", "/out"}
	if checksum != "" {
		args = append(args, "--digest", string(checksum))
	}
	run := steprun.Container(r.Client, steprun.Call{
		Binary: r.StepBin, Args: args,
		Files: map[string]*dagger.File{"/in/archive": r.Client.Host().File(archive)},
	})
	if err := r.keep(ctx, key, run); err != nil {
		return DB{}, err
	}
	return r.mustBeStored(key, source)
}

// keep exports what a vulndb step made into the store, whole or not at all.
func (r Resolver) keep(ctx context.Context, key string, run *dagger.Container) error {
	raw, err := run.File("/out/" + wire.DatabaseFile).Contents(ctx)
	if err != nil {
		return steprun.Explain(ctx, "preparing vulnerability database", r.Place, err)
	}
	var d wire.Database
	if err := json.Unmarshal([]byte(raw), &d); err != nil {
		return fmt.Errorf("reading what the vulndb step wrote: %w", err)
	}
	tmp, err := os.MkdirTemp(r.dir(), ".new-")
	if err != nil {
		return r.fault("writing to the cache directory", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, name := range d.Files {
		if filepath.Base(name) != name {
			return fmt.Errorf("the vulndb step named a file %q", name)
		}
		if _, err := run.File("/out/"+name).Export(ctx, filepath.Join(tmp, name)); err != nil {
			return steprun.Explain(ctx, "keeping vulnerability database", r.Place, err)
		}
	}
	return r.install(tmp, key, []byte(raw))
}

// install moves a prepared directory into place.
func (r Resolver) install(tmp, key string, description []byte) error {
	if err := os.WriteFile(filepath.Join(tmp, wire.DatabaseFile), description, 0o644); err != nil {
		return r.fault("writing to the cache directory", err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return r.fault("writing to the cache directory", err)
	}
	dir := filepath.Join(r.dir(), key)
	if err := errors.Join(os.RemoveAll(dir), os.Rename(tmp, dir)); err != nil {
		return r.fault("writing to the cache directory", err)
	}
	return nil
}

func (r Resolver) mustBeStored(key, source string) (DB, error) {
	db, ok := r.stored(key, source)
	if !ok {
		return DB{}, r.fault("the cache directory lost what was just written", errors.New(key))
	}
	return db, nil
}

// fromGrype takes the machine's own database into the store: grype replaces it
// under us otherwise. It is indexed already, and was checked by grype.
func (r Resolver) fromGrype(file string) (DB, error) {
	info, err := os.Stat(file)
	if err != nil {
		return DB{}, r.fault("reading grype's cache", err)
	}
	key := hashKey("grype", storeVersion, statKey(file, info))
	if db, ok := r.stored(key, SourceCache); ok {
		return db, nil
	}
	tmp, err := os.MkdirTemp(r.dir(), ".new-")
	if err != nil {
		return DB{}, r.fault("writing to the cache directory", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	digest, err := copyFile(filepath.Join(tmp, databaseName), file)
	if err != nil {
		return DB{}, r.fault("copying grype's database", err)
	}
	raw, err := json.Marshal(wire.Database{Version: wire.Version, Digest: digest, Files: []string{databaseName}})
	if err != nil {
		return DB{}, err
	}
	if err := r.install(tmp, key, raw); err != nil {
		return DB{}, err
	}
	return r.mustBeStored(key, SourceCache)
}

// copyFile copies a file and returns its digest.
func copyFile(to, from string) (artifact.Digest, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), in)
	return artifact.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), errors.Join(err, out.Close())
}
