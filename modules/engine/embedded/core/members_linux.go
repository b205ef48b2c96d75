package core

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"

	"drydock/modules/engine/embedded/executor"
)

// Member is one drydock process that has joined this engine. What it brings is
// used for its own builds only, and as long as it stays.
type Member struct {
	ID      string
	Gateway string // unix socket of its mirror gateway; "" leaves its steps with loopback only
	Images  string // host:port of its registry of bases, for which BaseHost stands; "" has none
	PID     int    // in its own process namespace
	Since   time.Time

	Emulators executor.Emulators // of its builds' foreign architectures
	Limits    executor.Limits    // of each step of its builds

	members *members
	ctx     context.Context //nolint:containedctx // it is the member's lifetime that is handed on
	gone    context.CancelFunc
}

// Context is done when the member is gone.
func (m *Member) Context() context.Context { return m.ctx }

// Bind says that a BuildKit session works for the member, until unbind.
func (m *Member) Bind(sessionID string) (unbind func()) {
	m.members.mu.Lock()
	defer m.members.mu.Unlock()
	m.members.sessions[sessionID] = m
	return func() {
		m.members.mu.Lock()
		defer m.members.mu.Unlock()
		delete(m.members.sessions, sessionID)
	}
}

// members are those who are here, the one that came first at the front.
type members struct {
	mu       sync.Mutex
	list     []*Member
	sessions map[string]*Member
	holds    int // members and the process that starts us
	ended    bool
	last     func() // called once, when nobody is left

	made atomic.Int64 // operations that ran, whose results may have been kept
}

func newMembers(last func()) *members {
	return &members{sessions: map[string]*Member{}, last: last}
}

// hold keeps the engine up until release. It is refused once everybody left:
// an engine that ends does not turn back.
func (s *members) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.holds++
	return true
}

// release gives a hold back and reports whether it was the last.
func (s *members) release() bool {
	s.mu.Lock()
	s.holds--
	end := s.holds == 0 && !s.ended
	s.ended = s.ended || end
	s.mu.Unlock()
	if end && s.last != nil {
		s.last()
	}
	return end
}

// join adds a member with what it brings; nil when the engine is ending.
func (s *members) join(m Member) *Member {
	if !s.hold() {
		return nil
	}
	m.ID, m.Since, m.members = identity.NewID(), time.Now(), s
	m.ctx, m.gone = context.WithCancel(context.Background())
	s.mu.Lock()
	s.list = append(s.list, &m)
	s.mu.Unlock()
	return &m
}

// leave takes a member out and reports whether it was the last.
func (s *members) leave(m *Member) bool {
	s.mu.Lock()
	s.list = slices.DeleteFunc(s.list, func(o *Member) bool { return o == m })
	s.mu.Unlock()
	m.gone()
	return s.release()
}

func (s *members) get(id string) *Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.list {
		if m.ID == id {
			return m
		}
	}
	return nil
}

func (s *members) all() []*Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// here says whether a member is still here.
func (s *members) here(m *Member) bool { return m != nil && m.ctx.Err() == nil }

// of is the member that a step works for: of those whose builds want it, the
// first that is still here. Sessions nobody bound belong to the oldest.
func (s *members) of(g session.Group) *Member {
	var ids []string
	if g != nil {
		for it := g.SessionIterator(); ; {
			id := it.NextSession()
			if id == "" {
				break
			}
			ids = append(ids, id)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bound := false
	for _, id := range ids {
		m := s.sessions[id]
		bound = bound || m != nil
		if s.here(m) {
			return m
		}
	}
	if bound || len(s.list) == 0 {
		return nil
	}
	return s.list[0]
}

// images lists where bases may be had: by digest, so that it does not matter
// whose they are. The member a request is for comes first.
func (s *members) images(ctx context.Context) []string {
	var out []string
	add := func(m *Member) {
		if m != nil && m.Images != "" && !slices.Contains(out, m.Images) {
			out = append(out, m.Images)
		}
	}
	add(memberOf(ctx))
	for _, m := range s.all() {
		add(m)
	}
	return out
}

type memberKey struct{}

func withMember(ctx context.Context, m *Member) context.Context {
	return context.WithValue(ctx, memberKey{}, m)
}

// MemberID is the ID of the member that what runs with a context works for, ""
// for nobody in particular.
func MemberID(ctx context.Context) string {
	if m := memberOf(ctx); m != nil {
		return m.ID
	}
	return ""
}

func memberOf(ctx context.Context) *Member {
	m, _ := ctx.Value(memberKey{}).(*Member)
	return m
}
