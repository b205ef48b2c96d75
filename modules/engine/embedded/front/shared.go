//go:build linux

package front

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker/base"
)

// ClientHeader names the client a request comes from.
const ClientHeader = "X-Drydock-Client"

// Shared is what the Servers of one engine have in common: a step that two
// clients want runs once, and either may be told how it failed.
type Shared struct {
	root     string
	salt     []byte
	failures *failures
	host     *hostTrees

	// Client says whom a step that runs with a context works for, by the ID its
	// Server has; nil knows nobody.
	Client func(context.Context) string

	// MadeBy is the step that made a step's result, by digests; nil: each its own.
	MadeBy func(step string) string

	mu      sync.Mutex
	servers []*Server
}

// NewShared prepares the directory of all Servers and puts the host source into
// the engine's worker. What an earlier process left is dropped: nothing in it
// outlives a client.
func NewShared(root string, w *base.Worker) (*Shared, error) {
	s := &Shared{root: root, failures: newFailures(), host: newHostTrees()}
	err := errors.Join(os.RemoveAll(root), os.MkdirAll(root, 0o700), s.loadSalt())
	if err == nil && w != nil {
		err = s.host.install(w)
	}
	if err != nil {
		return nil, fmt.Errorf("preparing the front: %w", err)
	}
	return s, nil
}

// Capture decorates the executor of a step: what the step prints is kept as
// part of its result, and of its error when it fails, without the step's
// secrets. step is nil for a process that is no step of a build.
func (s *Shared) Capture(inner executor.Executor, step *pb.ExecOp) executor.Executor {
	return &capture{Executor: inner, shared: s, step: step}
}

func (s *Shared) add(one *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = append(s.servers, one)
}

func (s *Shared) drop(one *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = slices.DeleteFunc(s.servers, func(o *Server) bool { return o == one })
}

func (s *Shared) all() []*Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.servers)
}

func (s *Shared) byID(id string) *Server {
	for _, one := range s.all() {
		if one.id == id {
			return one
		}
	}
	return nil
}

// serving is the Server whose services a step with a context uses: that of the
// client it works for, when it knows them, else one that does, since a step
// that several clients want runs once.
func (s *Shared) serving(ctx context.Context, bound string) *Server {
	list := s.all()
	if s.Client != nil {
		if own := s.byID(s.Client(ctx)); own != nil {
			list = append([]*Server{own}, list...)
		}
	}
	for _, one := range list {
		if one.services.knowAll(bound) {
			return one
		}
	}
	return nil
}

// secretFor is a secret of a step: that of the client it works for, when it is
// known, else of one that has it.
func (s *Shared) secretFor(ctx context.Context, id string) ([]byte, error) {
	list := s.all()
	if s.Client != nil {
		if own := s.byID(s.Client(ctx)); own != nil {
			list = append([]*Server{own}, list...)
		}
	}
	err := fmt.Errorf("secret %s is not known", id)
	for _, one := range list {
		var value []byte
		if value, err = one.secrets.GetSecret(ctx, id); err == nil {
			return value, nil
		}
	}
	return nil, err
}

// secretsOf are the values a step may print, whichever client it works for.
func (s *Shared) secretsOf(step *pb.ExecOp) [][]byte {
	var out [][]byte
	for _, one := range s.all() {
		out = append(out, one.secrets.of(step)...)
	}
	return out
}

// loadSalt reads, or makes, the key under which secrets are named in graphs:
// kept, so that the next session finds what was built with the same secret.
func (s *Shared) loadSalt() error {
	path := s.root + ".salt"
	salt, err := os.ReadFile(path)
	if err == nil && len(salt) == 32 {
		s.salt = salt
		return nil
	}
	s.salt = make([]byte, 32)
	if _, err := rand.Read(s.salt); err != nil {
		return err
	}
	return os.WriteFile(path, s.salt, 0o600)
}

// Clients hands requests to the Server of the client they come from.
type Clients struct {
	// Open makes the Server of a client; its context is done when the client
	// has gone.
	Open func(id string) (context.Context, *Server, error)

	mu   sync.Mutex
	open map[string]*clientServer
}

type clientServer struct {
	ready   chan struct{}
	ctx     context.Context //nolint:containedctx // it is the client's lifetime
	server  *Server
	handler http.Handler
	err     error
}

// ServeHTTP finds the client's Server, or opens it.
func (c *Clients) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := c.get(r.Header.Get(ClientHeader))
	if s.err != nil {
		http.Error(w, s.err.Error(), http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errClientGone) })()
	s.handler.ServeHTTP(w, r.WithContext(ctx))
}

var errClientGone = errors.New("the client has gone")

func (c *Clients) get(id string) *clientServer {
	c.mu.Lock()
	s := c.open[id]
	if s != nil {
		c.mu.Unlock()
		<-s.ready
		return s
	}
	s = &clientServer{ready: make(chan struct{})}
	if c.open == nil {
		c.open = map[string]*clientServer{}
	}
	c.open[id] = s
	c.mu.Unlock()
	defer close(s.ready)
	if s.ctx, s.server, s.err = c.Open(id); s.err != nil {
		c.forget(id)
		return s
	}
	s.handler = s.server.Handler()
	context.AfterFunc(s.ctx, func() {
		c.forget(id)
		_ = s.server.Close() // or the next engine's start removes it
	})
	return s
}

func (c *Clients) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, id)
}

// Serve answers on l until ctx is done.
func (c *Clients) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           c,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the Dagger API: %w", err)
	}
	return context.Cause(ctx)
}
