package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb"
	"golang.org/x/mod/sumdb/dirhash"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/clientconf"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/store"
)

// goKey is the verifier key of the checksum database the go command uses by
// default (cmd/go/internal/modfetch/key.go), without the database's name: that
// is a setting, and a part of what the key's hash confirms.
const goKey = "+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

// sumdbState is the checksum database, once it was needed.
type sumdbState struct {
	once   sync.Once
	client *sumdb.Client
	ops    *sumOps
	err    error
}

// errNoSumdb is a checksum database that cannot be asked here.
var errNoSumdb = errors.New("the checksum database cannot be asked")

// checksums is the client of the checksum database, reached through the Go
// mirror and no other way.
func (s *Set) checksums(ctx context.Context) (*sumdb.Client, *sumOps, error) {
	s.sumdb.once.Do(func() {
		s.sumdb.client, s.sumdb.ops, s.sumdb.err = s.newChecksums(context.WithoutCancel(ctx))
	})
	return s.sumdb.client, s.sumdb.ops, s.sumdb.err
}

func (s *Set) newChecksums(ctx context.Context) (*sumdb.Client, *sumOps, error) {
	setting, source := clientconf.GoSetting(ctx, s.env, s.home, s.goEnv, "GOSUMDB")
	key, _, _ := strings.Cut(strings.TrimSpace(setting), " ")
	if key == "" || key == "off" {
		if source == "" {
			source = "GOSUMDB"
		}
		return nil, nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "finding the Go checksum database", Place: source,
			Message: "it is switched off or set nowhere", Err: errNoSumdb,
			Remedy: "set GOSUMDB to the database's name (or name+hash+key) with go env -w or in the environment",
		}
	}
	name, _, own := strings.Cut(key, "+")
	if !own {
		key = name + goKey
	}
	ups, err := s.upstreams(ctx, Go)
	if err != nil {
		return nil, nil, err
	}
	ops := &sumOps{set: s, name: name, key: key, ups: ups, dir: filepath.Join(s.dir, "sumdb")}
	return sumdb.NewClient(ops), ops, nil
}

// VerifyGo checks a module hash ("h1:…") against the checksum database. For
// the hash of a go.mod file alone the version ends in "/go.mod".
func (s *Set) VerifyGo(ctx context.Context, modulePath, version, hash string) error {
	client, ops, err := s.checksums(ctx)
	if err != nil {
		return err
	}
	fail := &artifact.Error{
		Kind: artifact.KindFault, Op: "verifying", Place: modulePath + "@" + version,
		Remedy: "check that the Go mirror passes on the checksum database (its /sumdb/ path), or use one that does",
	}
	lines, err := client.Lookup(modulePath, version)
	if sec := ops.securityError(); sec != "" {
		fail.Message = "the checksum database misbehaves: " + sec
		fail.Err = errTampered
		return fail
	}
	if err != nil {
		fail.Message, fail.Err = "the checksum database does not confirm it", fmt.Errorf("%w: %w", errNoSumdb, err)
		return fail
	}
	want := modulePath + " " + version + " "
	for _, l := range lines {
		if sum, ok := strings.CutPrefix(l, want); ok && sum == hash {
			return nil
		} else if ok {
			fail.Message = fmt.Sprintf("wrong checksum: the mirror served %s, the checksum database knows %s", hash, sum)
			fail.Err = errTampered
			fail.Remedy = "the mirror is broken or has been tampered with: nothing of it was kept; try again or use another mirror"
			return fail
		}
	}
	fail.Message, fail.Err = "the checksum database has no hash of it", errNoSumdb
	return fail
}

// errTampered is what the checksum database contradicts.
var errTampered = errors.New("contradicted by the checksum database")

// FetchGoModule gets a module's zip, verified against the checksum database: a
// zip it does not confirm is an error, and is not kept.
func (s *Set) FetchGoModule(ctx context.Context, modulePath, version string) (Blob, error) {
	emod, err := module.EscapePath(modulePath)
	if err == nil {
		err = module.Check(modulePath, version)
	}
	ever, verr := module.EscapeVersion(version)
	if err = errors.Join(err, verr); err != nil {
		return Blob{}, &artifact.Error{Kind: artifact.KindUsage, Op: "fetching a Go module", Place: modulePath + "@" + version, Err: err}
	}
	ups, err := s.upstreams(ctx, Go)
	if err != nil {
		return Blob{}, err
	}
	return s.tryEach(ctx, ups, func(up upstream) (Blob, error) {
		w := s.goWant(up, emod+"/@v/"+ever+".zip")
		w.verify = func(ctx context.Context, file string) error { return s.verifyZip(ctx, file, modulePath, version) }
		blob, err := s.get(ctx, w)
		if err != nil {
			return Blob{}, err
		}
		err = s.verifyZip(ctx, blob.Path, modulePath, version)
		if errors.Is(err, errTampered) {
			s.store.Forget(w.key())
		}
		return blob, err
	})
}

func (s *Set) verifyZip(ctx context.Context, file, modulePath, version string) error {
	hash, err := dirhash.HashZip(file, dirhash.Hash1)
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "verifying", Place: modulePath + "@" + version, Err: fmt.Errorf("%w: %w", errTampered, err),
			Message: "it is not a module zip", Remedy: "the mirror is broken: try again or use another one",
		}
	}
	return s.VerifyGo(ctx, modulePath, version, hash)
}

// goWant is how a file of the Go mirror is fetched: what the checksum database
// contradicts never enters the store; where it cannot be asked, the go command
// in the step still asks for itself.
func (s *Set) goWant(up upstream, rel string) want {
	w := want{up: up, rel: rel, fresh: immutableFor, stale: true, purl: purl(Go, rel)}
	if mutable(Go, rel) {
		w.fresh = mutableFor
		w = s.goAt(w, s.cfg.At)
	}
	mod, version, kind := splitGo(rel)
	private, _ := s.env.First("GONOSUMDB", "GOPRIVATE")
	if (kind != ".zip" && kind != ".mod") || module.MatchPrefixPatterns(private, mod) {
		return w
	}
	w.verify = func(ctx context.Context, file string) error {
		var err error
		if kind == ".zip" {
			err = s.verifyZip(ctx, file, mod, version)
		} else {
			var hash string
			if hash, err = hashMod(file); err == nil {
				err = s.VerifyGo(ctx, mod, version+"/go.mod", hash)
			}
		}
		if errors.Is(err, errTampered) {
			return err
		}
		return nil
	}
	return w
}

// hashMod is the checksum database's hash of a go.mod file.
func hashMod(file string) (string, error) {
	return dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return os.Open(file) })
}

// sumOps is the outside world of the checksum database's client.
type sumOps struct {
	set  *Set
	name string
	key  string
	ups  []upstream
	dir  string

	mu       sync.Mutex
	security string
}

var _ sumdb.ClientOps = (*sumOps)(nil)

func (o *sumOps) securityError() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.security
}

// ReadRemote implements sumdb.ClientOps: through the mirrors, in order.
func (o *sumOps) ReadRemote(path string) ([]byte, error) {
	var first error
	for _, up := range o.ups {
		b, err := o.read(up.at("sumdb/" + o.name + path))
		if err == nil {
			return b, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (o *sumOps) read(u *url.URL) ([]byte, error) {
	ctx := context.Background() // bounded by the client; the interface has no context
	resp, err := o.set.client.Get(ctx, u, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, o.set.client.Explain(ctx, u, err)
	}
	return b, nil
}

// file is where a configuration or cache file lies; names come from the client
// and from module paths, so they are kept below the directory.
func (o *sumOps) file(kind, name string) (string, error) {
	if !fs.ValidPath(name) || strings.Contains(name, "\\") {
		return "", fs.ErrInvalid
	}
	return filepath.Join(o.dir, kind, filepath.FromSlash(name)), nil
}

// ReadConfig implements sumdb.ClientOps.
func (o *sumOps) ReadConfig(name string) ([]byte, error) {
	if name == "key" {
		return []byte(o.key), nil
	}
	f, err := o.file("config", name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(f)
	if errors.Is(err, fs.ErrNotExist) {
		return []byte{}, nil
	}
	return b, err
}

// WriteConfig implements sumdb.ClientOps.
func (o *sumOps) WriteConfig(name string, old, new []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	was, err := o.ReadConfig(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(was, old) {
		return sumdb.ErrWriteConflict
	}
	f, err := o.file("config", name)
	if err != nil {
		return err
	}
	return store.WriteFile(f, new)
}

// ReadCache implements sumdb.ClientOps.
func (o *sumOps) ReadCache(name string) ([]byte, error) {
	f, err := o.file("cache", name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(f)
}

// WriteCache implements sumdb.ClientOps. It is called with verified data only.
func (o *sumOps) WriteCache(name string, data []byte) {
	if f, err := o.file("cache", name); err == nil {
		_ = store.WriteFile(f, data) // what is not cached is asked for again
	}
}

// Log implements sumdb.ClientOps.
func (o *sumOps) Log(string) {}

// SecurityError implements sumdb.ClientOps.
func (o *sumOps) SecurityError(msg string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.security, _, _ = strings.Cut(strings.TrimSpace(msg), "\n")
}

// notFoundError is a mirror's "not found" where there is no mirror to say so.
func notFoundError(place string) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: "fetching", Place: place, Err: fetch.ErrNotFound}
}
