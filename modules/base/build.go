package base

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"drydock/modules/artifact"
	"drydock/modules/base/layout"
	"drydock/modules/base/rootfs"
	"drydock/modules/mirror"
	"drydock/modules/wholefile"
)

// layerFormat is part of the name finished layers are kept under: it counts up
// when the code makes other bytes of the same packages.
const layerFormat = 2

const (
	lockPoll  = 200 * time.Millisecond
	abandoned = 24 * time.Hour
)

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Build makes the base the lock describes, or finds it in the cache. Without a
// lock, or when the mirror no longer serves a locked file, it takes the newest
// there is and says so in Result.Changed; a Locked builder refuses instead.
func (b *Builder) Build(ctx context.Context, spec Spec, lock *Lock) (*Result, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := b.trustHolds(spec); err != nil {
		return nil, err
	}
	update := "drydock base update " + spec.Name
	if lock == nil || lock.Digest == "" {
		if b.Locked {
			return nil, &artifact.Error{
				Kind: artifact.KindFault, Op: "building base " + spec.Name, Place: spec.Place,
				Message: "it has no lock with a digest, and --locked was asked for", Remedy: update,
			}
		}
		if lock == nil {
			r, err := b.Update(ctx, spec, nil)
			if err == nil {
				r.Changed = []string{"there was no lock: the newest packages were taken"}
			}
			return r, err
		}
	}
	if why := lock.fits(spec); why != "" {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "building base " + spec.Name, Place: spec.Place, Message: why, Remedy: update,
		}
	}
	if r := b.cached(lock); r != nil {
		return r, nil
	}
	r, err := b.make(ctx, spec, lock)
	if !errors.Is(err, mirror.ErrNotFound) || spec.Kind == KindOCI {
		return r, err // an image is named by digest: there is no newer one
	}
	if b.Locked {
		return nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "building base " + spec.Name, Place: spec.Place,
			Message: "the mirror no longer serves what is locked", Remedy: update, Err: err,
		}
	}
	b.logf("base %s: the mirror no longer serves what is locked, taking the newest: %v", spec.Name, err)
	r, uerr := b.Update(ctx, spec, lock)
	if uerr != nil {
		return nil, uerr
	}
	r.Changed = append([]string{"the mirror no longer serves what is locked: " + err.Error()}, r.Changed...)
	return r, nil
}

// Update resolves the base anew and builds it; old, which may be nil, is only
// what Result.Changed compares with.
func (b *Builder) Update(ctx context.Context, spec Spec, old *Lock) (*Result, error) {
	if err := b.trustHolds(spec); err != nil {
		return nil, err
	}
	next, err := Resolve(ctx, b.Mirrors, spec)
	if err != nil {
		return nil, err
	}
	if old != nil && old.fits(spec) == "" && sameInputs(old, next) {
		// A release document is signed anew every few days: that alone makes no
		// new base. The digests are found out again, this program may be another.
		next = old.clone()
		next.forget()
	}
	r, err := b.make(ctx, spec, next)
	if err != nil {
		return nil, err
	}
	if old != nil {
		r.Changed = Changes(old, r.Lock)
	}
	return r, nil
}

// record is what is kept beside a finished layout.
type record struct {
	Version   int                 `json:"version"`
	Lock      artifact.Digest     `json:"lock"` // of the whole lock it was built from
	Materials []artifact.Material `json:"materials"`
}

// digestOf is the digest of everything a lock says.
func digestOf(lock *Lock) (artifact.Digest, error) {
	raw, err := lock.Marshal()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return artifact.Digest("sha256:" + hex.EncodeToString(sum[:])), nil
}

// cached finds a finished base by the lock's digest, if it was built from that
// very lock: a digest alone would answer for packages it was never made of. A
// layout is renamed into
// its place when it is whole, so that it is there is all there is to check.
func (b *Builder) cached(lock *Lock) *Result {
	if lock.Digest == "" {
		return nil
	}
	dir := filepath.Join(b.CacheDir, lock.Digest.Hex())
	if _, err := os.Stat(filepath.Join(dir, v1.ImageIndexFile)); err != nil {
		return nil
	}
	var rec record
	data, err := os.ReadFile(dir + ".json")
	if err != nil || json.Unmarshal(data, &rec) != nil || rec.Version != 1 {
		return nil
	}
	if whole, err := digestOf(lock); err != nil || rec.Lock != whole {
		return nil
	}
	r := &Result{
		Layout: dir, Digest: lock.Digest, Platforms: map[string]artifact.Digest{},
		Materials: rec.Materials, Lock: lock, Cached: true,
	}
	for _, t := range lock.Platforms {
		if t.Digest == "" {
			return nil
		}
		r.Platforms[t.Platform.String()] = t.Digest
	}
	return r
}

// make fetches and builds what the lock says, checks the digests it knows and
// fills in those it does not. Layers of the cache that a lock contradicts are
// forgotten, and made anew: another version, or another engine, left them.
func (b *Builder) make(ctx context.Context, spec Spec, lock *Lock) (*Result, error) {
	r, err := b.attempt(ctx, spec, lock)
	var other *disagreement
	if errors.As(err, &other) && other.reused {
		r, err = b.attempt(ctx, spec, lock)
	}
	return r, err
}

// disagreement is that layers make another digest than the lock has.
type disagreement struct {
	error
	reused bool // some of them were found in the cache
}

// Unwrap gives what is wrong in words.
func (d *disagreement) Unwrap() error { return d.error }

func (b *Builder) attempt(ctx context.Context, spec Spec, lock *Lock) (r *Result, err error) {
	if b.Mirrors == nil {
		return nil, &artifact.Error{
			Kind: artifact.KindInternal, Op: "building base " + spec.Name, Message: "no mirrors were handed in",
		}
	}
	if err := os.MkdirAll(filepath.Join(b.CacheDir, "layers"), 0o755); err != nil {
		return nil, b.cacheError(spec, err)
	}
	b.sweep()
	tmp, err := os.MkdirTemp(b.CacheDir, ".build-*")
	if err != nil {
		return nil, b.cacheError(spec, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()

	w, err := layout.NewWriter(filepath.Join(tmp, "layout"))
	if err != nil {
		return nil, b.cacheError(spec, err)
	}
	done := lock.clone()
	r = &Result{Platforms: map[string]artifact.Digest{}, Lock: done}
	if spec.Kind == KindOCI {
		r.Digest, err = b.copyImage(ctx, w, spec, done, r)
	} else {
		w.Annotations = Labels(done)
		r.Digest, err = b.makeDebian(ctx, w, spec, done, r, tmp)
	}
	if err != nil {
		return nil, err
	}
	if err := agree(lock, r); err != nil {
		for _, l := range r.layers {
			_ = os.Remove(recordOf(l.Path)) // at worst it is found again
		}
		return nil, &disagreement{err, r.reused}
	}
	done.Digest = r.Digest
	for i := range done.Platforms {
		done.Platforms[i].Digest = r.Platforms[done.Platforms[i].Platform.String()]
	}
	if err := b.keep(filepath.Join(tmp, "layout"), r); err != nil {
		return nil, b.cacheError(spec, err)
	}
	return r, nil
}

// sweep removes what killed builds left: nothing whole has such a name, and no
// build takes that long.
func (b *Builder) sweep() {
	for _, pattern := range []string{".build-*", ".write-*", "layers/.layer-*", "layers/.write-*"} {
		left, _ := filepath.Glob(filepath.Join(b.CacheDir, pattern)) // the patterns are well-formed
		for _, p := range left {
			if info, err := os.Stat(p); err == nil && time.Since(info.ModTime()) > abandoned {
				_ = os.RemoveAll(p) // only space is at stake
			}
		}
	}
}

func (b *Builder) cacheError(spec Spec, err error) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "building base " + spec.Name, Place: b.CacheDir,
		Remedy: "make the cache directory writable and give it space, or name another with --cache", Err: err,
	}
}

// agree holds the digests of a lock against what came out.
func agree(lock *Lock, r *Result) error {
	differ := func(what string, want, have artifact.Digest) error {
		return &artifact.Error{
			Kind: artifact.KindInternal, Op: "building base " + lock.Name, Place: what,
			Message: fmt.Sprintf("its digest is %s, the lock says %s", have, want),
			Remedy: "build it with the program the lock was made with, or look at what changed after: drydock base update " +
				lock.Name,
		}
	}
	for _, t := range lock.Platforms {
		if have := r.Platforms[t.Platform.String()]; t.Digest != "" && t.Digest != have {
			return differ(t.Platform.String(), t.Digest, have)
		}
	}
	if lock.Digest != "" && lock.Digest != r.Digest {
		return differ("", lock.Digest, r.Digest)
	}
	return nil
}

// keep moves a finished layout to its place: the record first, so that a
// layout that is there has one.
func (b *Builder) keep(from string, r *Result) error {
	r.Layout = filepath.Join(b.CacheDir, r.Digest.Hex())
	whole, err := digestOf(r.Lock)
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{Version: 1, Lock: whole, Materials: r.Materials})
	if err != nil {
		return err
	}
	if err := writeWhole(r.Layout+".json", data); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(r.Layout, v1.ImageIndexFile)); err == nil {
		return nil // somebody else was faster; the digest says it is the same
	}
	if err := os.RemoveAll(r.Layout); err != nil {
		return err
	}
	return os.Rename(from, r.Layout)
}

// writeWhole writes a file of the cache, under a name sweep knows until it is done.
func writeWhole(to string, data []byte) error {
	return wholefile.Write(to, data, wholefile.Options{Mode: 0o644, Pattern: ".write-*"})
}

// made is one platform of a debian base.
type made struct {
	materials []artifact.Material
	layers    []layout.Layer
	reused    bool // some of them were found in the cache
}

// makeDebian builds every platform of a debian base: at a time, since one has
// work for several processors only while it is decompressed. Those that run
// steps come one after the other.
func (b *Builder) makeDebian(ctx context.Context, w *layout.Writer, spec Spec, lock *Lock, r *Result, tmp string) (artifact.Digest, error) {
	all := make([]made, len(lock.Platforms))
	group, gctx := errgroup.WithContext(ctx)
	if lock.Variant == VariantFull {
		group.SetLimit(1)
	} else {
		group.SetLimit(runtime.GOMAXPROCS(0))
	}
	for i := range lock.Platforms {
		group.Go(func() (err error) {
			if err = context.Cause(gctx); err == nil {
				all[i], err = b.makePlatform(gctx, lock, &lock.Platforms[i], tmp)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	images := make([]v1.Descriptor, len(all))
	for i, m := range all {
		t := &lock.Platforms[i]
		r.Materials = append(r.Materials, m.materials...)
		r.layers, r.reused = append(r.layers, m.layers...), r.reused || m.reused
		desc, err := w.AddImage(configuration(spec, lock, t), m.layers)
		if err != nil {
			return "", err
		}
		images[i] = desc
		r.Platforms[t.Platform.String()] = artifact.Digest(desc.Digest)
	}
	return w.Finish(images)
}

func (b *Builder) makePlatform(ctx context.Context, lock *Lock, t *LockedTarget, tmp string) (made, error) {
	in, materials, err := b.fetchTarget(ctx, lock, t)
	if err != nil {
		return made{}, err
	}
	if lock.Variant == VariantFull && b.Emulate != nil {
		more, err := b.Emulate(t.Platform)
		if err != nil {
			return made{}, err
		}
		materials = append(materials, more...)
	}
	m := made{materials: materials}
	err = b.layers(ctx, lock, t, in, tmp, &m)
	return m, err
}

// layers adds the Debian layer and, if there are any, the toolchains'.
func (b *Builder) layers(ctx context.Context, lock *Lock, t *LockedTarget, in fetched, tmp string, m *made) error {
	if err := b.layer(ctx, lock, m, struct {
		Variant, Platform string
		Suite             string
		Archives          []LockedArchive
		Packages          []LockedPackage
		NodeUser          bool `json:",omitempty"`
	}{lock.Variant, t.Platform.String(), lock.Suite, lock.Archives, t.Packages, len(t.Node) > 0}, func(out io.Writer) error {
		return b.writeSystem(ctx, out, lock, t, in.debs, tmp)
	}); err != nil {
		return err
	}
	tools := func(of any, add func(*rootfs.Tree) error) error {
		return b.layer(ctx, lock, m, of, func(out io.Writer) (err error) {
			tree, err := rootfs.New(tmp)
			if err != nil {
				return err
			}
			tree.Stop = func() error { return context.Cause(ctx) }
			defer func() { err = errors.Join(err, tree.Close()) }()
			if err := add(tree); err != nil {
				return err
			}
			return tree.WriteTar(out, lock.Epoch)
		})
	}
	if t.Toolchain != nil {
		if err := tools(t.Toolchain.Sum, func(tree *rootfs.Tree) error { return addToolchain(tree, in.toolchain, t.Toolchain) }); err != nil {
			return err
		}
	}
	if len(t.Node) > 0 {
		return tools(t.Node, func(tree *rootfs.Tree) error { return addNode(tree, t.Node, in.node) })
	}
	return nil
}

func (b *Builder) writeSystem(ctx context.Context, out io.Writer, lock *Lock, t *LockedTarget, debs []debFile, tmp string) (err error) {
	if lock.Variant == VariantFull {
		tree, source, err := b.configure(ctx, lock, t, debs, tmp)
		if err != nil {
			return err
		}
		tree.Stop = func() error { return context.Cause(ctx) }
		if len(t.Node) > 0 {
			err = addNodeUser(tree, lock.Epoch)
		}
		if err == nil {
			err = tree.WriteTar(out, lock.Epoch)
		}
		return errors.Join(err, tree.Close(), source.Close())
	}
	tree, err := rootfs.New(tmp)
	if err != nil {
		return err
	}
	tree.Stop = func() error { return context.Cause(ctx) }
	defer func() { err = errors.Join(err, tree.Close()) }()
	if err := fillMinimal(tree, t.Platform, debs, lock.Epoch); err != nil {
		return fmt.Errorf("building base %s for %s: %w", lock.Name, t.Platform, err)
	}
	return tree.WriteTar(out, lock.Epoch)
}

// layer finds a finished layer by what it is made of, or makes it: bases that
// share one share the work.
func (b *Builder) layer(ctx context.Context, lock *Lock, m *made, of any, fill func(io.Writer) error) (err error) {
	key, err := json.Marshal(struct {
		Format int
		Epoch  int64
		Of     any
	}{layerFormat, lock.Epoch, of})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(key)
	at := filepath.Join(b.CacheDir, "layers", hex.EncodeToString(sum[:])+".tar.gz")
	if m.take(at) {
		return nil
	}
	// Whoever comes second waits and finds it done.
	guard := flock.New(strings.TrimSuffix(at, ".tar.gz") + ".lock")
	if _, err := guard.TryLockContext(ctx, lockPoll); err != nil {
		return fmt.Errorf("waiting for another build of the same layer: %w", err)
	}
	defer func() { err = errors.Join(err, guard.Close()) }()
	if m.take(at) {
		return nil
	}
	fresh, err := layout.CompressLayer(at, fill)
	if err != nil {
		return err
	}
	data, err := json.Marshal(fresh)
	if err != nil {
		return err
	}
	m.layers = append(m.layers, fresh)
	return writeWhole(recordOf(at), data)
}

// recordOf is the file that says a layer at a path is whole.
func recordOf(at string) string { return strings.TrimSuffix(at, ".tar.gz") + ".json" }

// take adds what layer left there before.
func (m *made) take(at string) bool {
	data, err := os.ReadFile(recordOf(at))
	if err != nil {
		return false
	}
	found := layout.Layer{Path: at}
	info, err := os.Stat(at)
	if err != nil || json.Unmarshal(data, &found) != nil || info.Size() != found.Size {
		return false
	}
	m.layers, m.reused = append(m.layers, found), true
	return true
}

// configuration is the image configuration of one platform.
func configuration(spec Spec, lock *Lock, t *LockedTarget) v1.Image {
	env := map[string]string{"PATH": searchPath, "SSL_CERT_FILE": "/" + bundlePath}
	config := v1.ImageConfig{User: spec.User}
	if lock.Variant == VariantFull {
		config.Cmd = []string{"bash"}
	} else if config.User == "" {
		config.User = fmt.Sprintf("%d:%d", nonroot, nonroot)
	}
	if t.Toolchain != nil {
		env["PATH"] = "/go/bin:/" + goRoot + "/bin:" + searchPath
		env["GOPATH"], env["GOTOOLCHAIN"], env["CGO_ENABLED"] = "/go", "local", "0"
	}
	if len(t.Node) > 0 {
		nodeEnv(env, t.Node)
		config.Cmd = []string{"node"}
	}
	maps.Copy(env, spec.Env)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		config.Env = append(config.Env, k+"="+env[k])
	}
	created := time.Unix(lock.Epoch, 0).UTC()
	config.Labels = Labels(lock)
	return v1.Image{
		Created:  &created,
		Platform: v1.Platform{OS: t.Platform.OS, Architecture: t.Platform.Architecture, Variant: t.Platform.Variant},
		Config:   config,
	}
}

// Labels are what a debian base says of itself, as labels and as annotations.
// An upstream image says what it says: there are none for one.
func Labels(lock *Lock) map[string]string {
	if lock.Kind != KindDebian {
		return nil
	}
	created := time.Unix(lock.Epoch, 0).UTC()
	return map[string]string{
		v1.AnnotationTitle:   lock.Name,
		v1.AnnotationCreated: created.Format(time.RFC3339),
		v1.AnnotationVersion: lock.Suite + "-" + created.Format("20060102"),
	}
}
