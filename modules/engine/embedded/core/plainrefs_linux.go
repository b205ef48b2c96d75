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
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/worker"
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

// Commit is as in cache.MutableRef.
func (r *plainMutable) Commit(ctx context.Context) (cache.ImmutableRef, error) {
	return r.m.immutable(r.MutableRef.Commit(ctx))
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
		dir := mounts[0].Source
		if unpin, ok := p.m.sn.Pin(dir); ok {
			if err := p.m.sn.Ensure(context.Background(), dir); err != nil {
				unpin()
				return nil, nil, errors.Join(fmt.Errorf("reading %s: %w", dir, err), release())
			}
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

// plainSource gives plain refs for what a source fetched.
type plainSource struct {
	solver.Op
	m *plainManager
}

// Exec is the source's.
func (o *plainSource) Exec(ctx context.Context, jobCtx solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	out, err := o.Op.Exec(ctx, jobCtx, inputs)
	if err != nil {
		return nil, err
	}
	for _, r := range out {
		ref, ok := r.Sys().(*worker.WorkerRef)
		if !ok || ref.ImmutableRef == nil {
			continue
		}
		if ref.ImmutableRef, err = o.m.immutable(ref.ImmutableRef, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}
