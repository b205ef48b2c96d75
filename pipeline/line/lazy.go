package line

import "sync"

// shared is something made once, when first wanted, under the context of the
// whole line: a caller that gives up does not take it away from the others.
type shared[T any] struct {
	mu   sync.Mutex
	made bool
	v    T
	err  error
	make func() (T, error)
}

func share[T any](f func() (T, error)) *shared[T] { return &shared[T]{make: f} }

// get makes it if nobody has, and returns what came of that.
func (s *shared[T]) get() (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.made {
		s.v, s.err = s.make()
		s.made = true
	}
	return s.v, s.err
}

// peek returns it only if it was made without error.
func (s *shared[T]) peek() (T, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v, s.made && s.err == nil
}
