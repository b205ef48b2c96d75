//go:build linux

package front

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/moby/buildkit/client/llb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// memo remembers what was made of what within a session. Its keys say
// everything the value depends on, so no value is ever stale.
type memo struct {
	mu     sync.Mutex
	values map[string]any
	busy   map[string]*memoCall
}

type memoCall struct{ done chan struct{} }

func newMemo() *memo { return &memo{values: map[string]any{}, busy: map[string]*memoCall{}} }

// remembered gives the value for a key, making it if need be. Concurrent
// callers wait for one to make it; each makes it under its own context, so a
// caller that gives up fails nobody else.
func remembered[T any](ctx context.Context, m *memo, key string, make func() (T, error)) (T, error) {
	var zero T
	for {
		m.mu.Lock()
		if v, ok := m.values[key]; ok {
			m.mu.Unlock()
			t, _ := v.(T)
			return t, nil
		}
		other := m.busy[key]
		mine := &memoCall{done: newDone()}
		if other == nil {
			m.busy[key] = mine
		}
		m.mu.Unlock()
		if other != nil {
			select {
			case <-other.done:
				continue
			case <-ctx.Done():
				return zero, context.Cause(ctx)
			}
		}
		v, err := make()
		m.mu.Lock()
		if err == nil {
			m.values[key] = v
		}
		delete(m.busy, key)
		m.mu.Unlock()
		close(mine.done)
		return v, err
	}
}

// forget drops a value that turned out to be none.
func (m *memo) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
}

func newDone() chan struct{} { return make(chan struct{}) }

// keyOf digests values that decide a result.
func keyOf(parts ...any) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, p := range parts {
		if err := enc.Encode(p); err != nil {
			fmt.Fprintf(h, "%v", p)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// stateKey digests a state: the digests of the graph it consists of.
func stateKey(ctx context.Context, st llb.State, p ocispecs.Platform) (string, error) {
	if st.Output() == nil {
		return "scratch", nil
	}
	def, err := st.Marshal(ctx, llb.Platform(p))
	if err != nil {
		return "", err
	}
	head, err := def.Head()
	return string(head), err
}
