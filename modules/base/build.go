package base

import (
	"context"
	"errors"

	"drydock/modules/mirror"
)

var errSoon = errors.New("not there yet")

// Resolve locks the newest packages the mirrors serve. The lock has no digests
// yet: Build fills them in.
func Resolve(ctx context.Context, m *mirror.Set, spec Spec) (*Lock, error) { return nil, errSoon }

// Build makes the base the lock describes, or finds it in the cache.
func (b *Builder) Build(ctx context.Context, spec Spec, lock *Lock) (*Result, error) {
	return nil, errSoon
}

// Update resolves the base anew and builds it; old, which may be nil, is only
// what Result.Changed compares with.
func (b *Builder) Update(ctx context.Context, spec Spec, old *Lock) (*Result, error) {
	return nil, errSoon
}
