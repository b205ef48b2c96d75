//go:build linux

// Package front is the Dagger API, over GraphQL, on BuildKit: the part of it
// that building and testing images needs. It runs in the engine child and
// serves POST /query (what the Dagger SDK sends) and GET /events (progress, as
// JSON lines).
//
// Objects are lazy: a Container, Directory or File is an LLB state with a
// little configuration around it, and nothing is executed before a scalar
// field asks. An object's id is the chain of calls that made it, so that it
// means the same in any later request. What the part does not have answers
// with an error that names the field.
package front

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/worker/base"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Version is the version of the Dagger API the front speaks.
const Version = "v0.21.7"

// WorkdirHeader carries the directory that relative host paths of a request
// are relative to.
const WorkdirHeader = "X-Drydock-Workdir"

// Options says what the front serves from.
type Options struct {
	Client  *client.Client // the engine's controller
	Worker  *base.Worker   // its worker, into which the front puts its host source
	Root    string         // directory for the front's own files
	Gateway string         // the mirror gateway's socket; "" tells nobody which steps a build had
	Base    string         // host name that base images are known by
}

// Server answers queries. It is safe for concurrent use.
type Server struct {
	client   *client.Client
	root     string
	gateway  string
	base     string
	platform ocispecs.Platform
	schema   schema
	salt     []byte
	content  content.Store
	failures *failures
	host     *hostTrees
	secrets  *secretStore
	hub      *hub
	memo     *memo
}

// New prepares the front: its directory under Root and its host source in the
// worker. The caller puts Capture around the executor of every step.
func New(ctx context.Context, o Options) (*Server, error) {
	s := &Server{
		client: o.Client, root: o.Root, gateway: o.Gateway, base: o.Base,
		schema: newSchema(), failures: newFailures(), host: newHostTrees(), secrets: newSecretStore(),
		hub: newHub(), memo: newMemo(),
	}
	if err := errors.Join(s.prepareRoot(), s.loadSalt()); err != nil {
		return nil, fmt.Errorf("preparing the front: %w", err)
	}
	workers, err := o.Client.ListWorkers(ctx)
	if err != nil || len(workers) == 0 || len(workers[0].Platforms) == 0 {
		return nil, fmt.Errorf("asking for the engine's platform: %w", errors.Join(err, errNoWorker(len(workers))))
	}
	s.platform = workers[0].Platforms[0]
	if o.Worker != nil {
		if err := s.host.install(o.Worker); err != nil {
			return nil, fmt.Errorf("preparing the front: %w", err)
		}
	}
	return s, nil
}

// Capture decorates the executor of a step: what the step prints is kept as
// part of its result, and of its error when it fails.
func (s *Server) Capture(inner executor.Executor) executor.Executor {
	return &capture{Executor: inner, failures: s.failures}
}

func errNoWorker(n int) error {
	if n == 0 {
		return errors.New("the engine has no worker")
	}
	return nil
}

// prepareRoot makes the front's directories. What an earlier process left in
// them is dropped: nothing in them outlives a session.
func (s *Server) prepareRoot() error {
	if err := os.RemoveAll(s.root); err != nil {
		return err
	}
	for _, dir := range []string{s.tarballs(), s.scratch()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	store, err := contentlocal.NewStore(filepath.Join(s.root, "content"))
	if err != nil {
		return err
	}
	s.content = store
	return nil
}

// loadSalt reads, or makes, the key under which secrets are named in graphs:
// kept, so that the next session finds what was built with the same secret.
func (s *Server) loadSalt() error {
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

func (s *Server) tarballs() string { return filepath.Join(s.root, "tarballs") }
func (s *Server) scratch() string  { return filepath.Join(s.root, "tmp") }

// mac names a secret value without telling it.
func (s *Server) mac(value string) string {
	h := hmac.New(sha256.New, s.salt)
	h.Write([]byte(value))
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// Handler serves the two endpoints.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /query", s.serveQuery)
	mux.HandleFunc("GET /events", s.hub.serve)
	return mux
}

// Serve answers on l until ctx is done.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
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
