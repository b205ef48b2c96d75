package core

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	srctypes "github.com/moby/buildkit/source/types"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/worker/base"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/modules/engine/embedded/trees"
)

// plainManager is a cache manager whose refs give plain directories where
// nothing can be mounted. BuildKit marks what it only reads "ro", and its
// LocalMounter then mounts; without the mark it takes the path as it is. All
// that reads goes through the refs handed out here; what the inner manager
// itself reads, differ and applier see as it is.
type plainManager struct {
	cache.Manager
	sn *trees.Snapshotter
}

var _ cache.Manager = (*plainManager)(nil)

func (m *plainManager) immutable(r cache.ImmutableRef, err error) (cache.ImmutableRef, error) {
	if r == nil || err != nil {
		return nil, err
	}
	if have, ok := r.(*plainRef); ok {
		return have, nil
	}
	return &plainRef{ImmutableRef: r, m: m}, nil
}

func (m *plainManager) mutable(r cache.MutableRef, err error) (cache.MutableRef, error) {
	if r == nil || err != nil {
		return nil, err
	}
	return &plainMutable{MutableRef: r, m: m}, nil
}

// inner is the manager's own ref: it takes others by looking them up, which
// costs time.
func inner(r cache.ImmutableRef) cache.ImmutableRef {
	if p, ok := r.(*plainRef); ok {
		return p.ImmutableRef
	}
	return r
}

// GetByBlob is as in cache.Manager, and so are the following.
func (m *plainManager) GetByBlob(ctx context.Context, desc ocispecs.Descriptor, parent cache.ImmutableRef, opts ...cache.RefOption) (cache.ImmutableRef, error) {
	return m.immutable(m.Manager.GetByBlob(ctx, desc, inner(parent), opts...))
}

func (m *plainManager) Get(ctx context.Context, id string, pg progress.Controller, opts ...cache.RefOption) (cache.ImmutableRef, error) {
	return m.immutable(m.Manager.Get(ctx, id, pg, opts...))
}

func (m *plainManager) New(ctx context.Context, parent cache.ImmutableRef, s session.Group, opts ...cache.RefOption) (cache.MutableRef, error) {
	return m.mutable(m.Manager.New(ctx, inner(parent), s, opts...))
}

func (m *plainManager) GetMutable(ctx context.Context, id string, opts ...cache.RefOption) (cache.MutableRef, error) {
	return m.mutable(m.Manager.GetMutable(ctx, id, opts...))
}

func (m *plainManager) Merge(ctx context.Context, parents []cache.ImmutableRef, pg progress.Controller, opts ...cache.RefOption) (cache.ImmutableRef, error) {
	in := make([]cache.ImmutableRef, len(parents))
	for i, p := range parents {
		in[i] = inner(p)
	}
	return m.immutable(m.Manager.Merge(ctx, in, pg, opts...))
}

func (m *plainManager) Diff(ctx context.Context, lower, upper cache.ImmutableRef, pg progress.Controller, opts ...cache.RefOption) (cache.ImmutableRef, error) {
	return m.immutable(m.Manager.Diff(ctx, inner(lower), inner(upper), pg, opts...))
}

// plainRef is an immutable ref of a plainManager.
type plainRef struct {
	cache.ImmutableRef
	m *plainManager
}

var _ cache.ImmutableRef = (*plainRef)(nil)

// Mount gives the ref's directory.
func (r *plainRef) Mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error) {
	return r.m.mount(ctx, r.ImmutableRef, readonly, s)
}

// Clone is as in cache.ImmutableRef.
func (r *plainRef) Clone() cache.ImmutableRef { return &plainRef{r.ImmutableRef.Clone(), r.m} }

// LayerChain is as in cache.ImmutableRef.
func (r *plainRef) LayerChain() cache.RefList {
	chain := r.ImmutableRef.LayerChain()
	for i, l := range chain {
		chain[i] = &plainRef{l, r.m}
	}
	return chain
}

// plainMutable is a mutable ref of a plainManager.
type plainMutable struct {
	cache.MutableRef
	m *plainManager
}

var _ cache.MutableRef = (*plainMutable)(nil)

// Mount gives the ref's directory.
func (r *plainMutable) Mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error) {
	return r.m.mount(ctx, r.MutableRef, readonly, s)
}

// Commit is as in cache.MutableRef. The snapshot is committed too, which
// BuildKit would put off: its tree is then free for the next step.
func (r *plainMutable) Commit(ctx context.Context) (cache.ImmutableRef, error) {
	ref, err := r.m.immutable(r.MutableRef.Commit(ctx))
	if err != nil || ref.HasCachePolicyRetain() || r.MutableRef.HasCachePolicyRetain() {
		return ref, err
	}
	if err := ref.Finalize(ctx); err != nil {
		return nil, errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
	}
	return ref, nil
}

func (m *plainManager) mount(ctx context.Context, r cache.Mountable, readonly bool, s session.Group) (snapshot.Mountable, error) {
	first, err := r.Mount(ctx, readonly, s)
	if err != nil {
		return nil, err
	}
	return &plainMountable{Mountable: first, m: m, again: func() (snapshot.Mountable, error) {
		return r.Mount(context.WithoutCancel(ctx), readonly, s)
	}}, nil
}

// plainMountable gives one directory that stays as it is until released.
type plainMountable struct {
	snapshot.Mountable
	m     *plainManager
	again func() (snapshot.Mountable, error)
}

// mountTries: what is read may be committed between asking for it and taking
// it, once.
const mountTries = 3

// Mount returns a bind mount of the directory that needs no mounting.
func (p *plainMountable) Mount() ([]mount.Mount, func() error, error) {
	inner := p.Mountable
	for range mountTries {
		mounts, release, err := inner.Mount()
		if err != nil {
			return nil, nil, err
		}
		if release == nil {
			release = func() error { return nil }
		}
		if len(mounts) != 1 || mounts[0].Type != "bind" {
			return nil, nil, errors.Join(errors.New("this engine has no mounts but one plain directory"), release())
		}
		dir, unpin, ok, err := p.m.sn.Read(context.Background(), mounts[0].Source)
		if err != nil {
			unpin()
			return nil, nil, errors.Join(fmt.Errorf("reading %s: %w", dir, err), release())
		}
		if ok {
			plain := []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
			return plain, func() error { unpin(); return release() }, nil
		}
		if err := release(); err != nil {
			return nil, nil, err
		}
		if inner, err = p.again(); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errors.New("the directory is being committed again and again")
}

// plainSources are a manager's sources with plain refs for what they fetch.
type plainSources struct {
	*source.Manager
	m *plainManager
}

var _ source.Source = (*plainSources)(nil)

// Schemes are those that are not refused (refuseSource).
func (p *plainSources) Schemes() []string {
	return []string{
		srctypes.DockerImageScheme, srctypes.DockerImageBlobScheme, srctypes.LocalScheme, srctypes.OCIScheme, srctypes.OCIBlobScheme,
	}
}

// Identifier is the source's.
func (p *plainSources) Identifier(scheme, ref string, attrs map[string]string, platform *pb.Platform) (source.Identifier, error) {
	return p.Manager.Identifier(&pb.Op_Source{Source: &pb.SourceOp{Identifier: scheme + "://" + ref, Attrs: attrs}}, platform)
}

// Resolve is the source's.
func (p *plainSources) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, v solver.Vertex) (source.SourceInstance, error) {
	in, err := p.Manager.Resolve(ctx, id, sm, v)
	if err != nil {
		return nil, err
	}
	return &plainInstance{in, p.m}, nil
}

type plainInstance struct {
	source.SourceInstance
	m *plainManager
}

// Snapshot is the source's.
func (i *plainInstance) Snapshot(ctx context.Context, job solver.JobContext) (cache.ImmutableRef, error) {
	return i.m.immutable(i.SourceInstance.Snapshot(ctx, job))
}

// withPlainRefs puts plain refs into everything a worker does.
func withPlainRefs(w *base.Worker, sn *trees.Snapshotter) error {
	m := &plainManager{Manager: w.CacheMgr, sn: sn}
	outer, err := source.NewManager()
	if err != nil {
		return err
	}
	outer.Register(&plainSources{Manager: w.SourceManager, m: m})
	w.CacheMgr, w.SourceManager = m, outer
	return nil
}
