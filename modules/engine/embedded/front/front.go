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
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Version is the version of the Dagger API the front speaks.
const Version = "v0.21.7"

// WorkdirHeader carries the directory that relative host paths of a request
// are relative to.
const WorkdirHeader = "X-Drydock-Workdir"

// EnvHeader carries variables of the client that env:// secrets name: NAME=value
// in base64.
const EnvHeader = "X-Drydock-Env"

// Options says what a Server serves from.
type Options struct {
	Client  *client.Client // the engine's controller
	Shared  *Shared        // what all Servers of the engine have in common
	ID      string         // names the Server's own directory
	Gateway string         // the mirror gateway's socket; "" tells nobody which steps a build had
	Base    string         // host name that base images are known by

	Processes Processes // what the engine runs; nil runs no services

	// Bind is told which BuildKit session works for this Server, until unbind;
	// nil-able.
	Bind func(session string) (unbind func())
}

// Server answers the queries of one client: it has that client's secrets,
// events and gateway. It is safe for concurrent use.
type Server struct {
	client   *client.Client
	root     string
	gateway  string
	base     string
	bind     func(string) func()
	platform ocispecs.Platform
	schema   schema
	salt     []byte
	content  content.Store
	failures *failures
	host     *hostTrees
	secrets  *secretStore
	hub      *hub
	memo     *memo

	id        string
	shared    *Shared
	processes Processes
	services  *services
	sockets   *sockets
	life      context.Context         //nolint:containedctx // it is the client's lifetime
	end       context.CancelCauseFunc // of what runs for the client
	remote    remoteCache
}

// New prepares a Server. The caller puts Shared.Capture around the executor of
// every step, and closes the Server when its client has gone.
func New(ctx context.Context, o Options) (*Server, error) {
	s := &Server{
		client: o.Client, root: filepath.Join(o.Shared.root, o.ID), gateway: o.Gateway, base: o.Base, bind: o.Bind,
		schema: newSchema(), failures: o.Shared.failures, host: o.Shared.host, salt: o.Shared.salt,
		secrets: newSecretStore(), hub: newHub(), memo: newMemo(),
		id: o.ID, shared: o.Shared, processes: o.Processes, sockets: &sockets{},
	}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	s.services, s.life, s.end = newServices(life, s), life, end
	s.hub.hide = s.secrets.redactor
	if err := s.prepareRoot(); err != nil {
		return nil, fmt.Errorf("preparing the front: %w", err)
	}
	workers, err := o.Client.ListWorkers(ctx)
	if err != nil || len(workers) == 0 || len(workers[0].Platforms) == 0 {
		return nil, fmt.Errorf("asking for the engine's platform: %w", errors.Join(err, errNoWorker(len(workers))))
	}
	s.platform = workers[0].Platforms[0]
	s.shared.add(s)
	return s, nil
}

// Close ends the client's services and removes the Server's files.
func (s *Server) Close() error {
	s.end(errClientGone)
	s.shared.drop(s)
	return os.RemoveAll(s.root)
}

func errNoWorker(n int) error {
	if n == 0 {
		return errors.New("the engine has no worker")
	}
	return nil
}

// prepareRoot makes the Server's directories.
func (s *Server) prepareRoot() error {
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
	mux.HandleFunc("POST /cache", s.serveCache)
	mux.HandleFunc("POST /cache/export", s.serveCacheExport)
	return mux
}
