// Package registry is where images live: any OCI registry, or the embedded one
// that keeps each stage in a folder. It moves images by digest with everything
// attached to them and turns registry trouble into errors a user can mend.
package registry

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"drydock/modules/artifact"
)

// InternalSuffix ends the stable host name of an embedded stage:
// "<stage>.drydock.internal". Evidence carries that name whatever port the
// stage is served on.
const InternalSuffix = ".drydock.internal"

// DefaultTimeout is how long a registry may stay silent.
const DefaultTimeout = 30 * time.Second

var stagePattern = regexp.MustCompile(`^[a-z0-9]+([-._][a-z0-9]+)*$`)

// Options says how registries are reached. The zero value reaches them
// anonymously, directly and with the system's certificate roots.
type Options struct {
	Environ  []string      // the environment, for credentials and proxies
	Home     string        // where .docker/config.json is; "" = HOME of Environ
	Trust    string        // PEM file of private CAs, added to the system's roots
	Timeout  time.Duration // how long a registry may stay silent; 0 = DefaultTimeout
	Embedded *Embedded     // serves the locations without a Base; may be nil
}

// Client reaches registries with one set of credentials and trust. It is safe
// for concurrent use and keeps one authenticated session per registry.
type Client struct {
	options  Options
	external http.RoundTripper
	keychain authn.Keychain
	locks    keyedLocks

	mu       sync.Mutex
	sessions map[string]*session
}

type session struct {
	puller *remote.Puller
	pusher *remote.Pusher
}

// NewClient checks the trust file and makes a Client; nothing is dialled yet.
func NewClient(o Options) (*Client, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	rt, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	return &Client{
		options: o, external: rt,
		keychain: newKeychain(o.Environ, o.Home),
		sessions: map[string]*session{},
	}, nil
}

// Location is where the images of one stage live.
type Location struct {
	Name         string // of the stage: quarantine, staging, …
	Base         string // registry host and path prefix; "" = the embedded registry
	InsecureHTTP bool   // Base speaks plain HTTP though it is not on this machine
}

// Repository is the stable name of an image's repository at l.
func (l Location) Repository(path string) string {
	if l.Base == "" {
		return l.Name + InternalSuffix + "/" + path
	}
	return strings.TrimSuffix(l.Base, "/") + "/" + path
}

// Path is the inverse of Repository; ok is false where the repository is not at l.
func (l Location) Path(repository string) (path string, ok bool) {
	return strings.CutPrefix(repository, l.Repository(""))
}

// Repo is one repository, ready to be read and written.
type Repo struct {
	client   *Client
	location Location
	path     string
	name     name.Repository
	session  *session
}

// Repo opens the repository path at l; nothing is dialled yet.
func (c *Client) Repo(l Location, path string) (*Repo, error) {
	n, err := c.parse(l, path)
	if err != nil {
		return nil, err
	}
	if l.Base == "" && c.options.Embedded == nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "opening repository", Place: l.Repository(path),
			Message: "the stage has no registry and the embedded one is not open",
			Remedy:  "give the stage a registry in stages.yaml",
		}
	}
	s, err := c.session(l, n.Registry)
	if err != nil {
		return nil, err
	}
	return &Repo{client: c, location: l, path: path, name: n, session: s}, nil
}

func (c *Client) parse(l Location, path string) (name.Repository, error) {
	bad := func(message, remedy string, err error) (name.Repository, error) {
		return name.Repository{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "opening repository", Place: l.Repository(path),
			Message: message, Remedy: remedy, Err: err,
		}
	}
	if l.Base == "" && !stagePattern.MatchString(l.Name) {
		return bad("a stage is named by lower-case letters, digits and - . _", "rename the stage", nil)
	}
	if strings.Contains(l.Base, "://") || strings.Contains(l.Base, "@") {
		return bad("a registry is written without scheme and digest", "write host[:port]/path", nil)
	}
	opts := []name.Option{name.WithDefaultRegistry("")}
	if l.InsecureHTTP {
		opts = append(opts, name.Insecure)
	}
	n, err := name.NewRepository(l.Repository(path), opts...)
	if err != nil {
		return bad("not a repository name", "write host[:port]/path in lower case", err)
	}
	if n.RegistryStr() == "" {
		return bad("the registry host is missing", "write host[:port]/path", nil)
	}
	return n, nil
}

// session returns the one puller and pusher of a registry, so that its
// authentication handshake is done once.
func (c *Client) session(l Location, reg name.Registry) (*session, error) {
	key := fmt.Sprint(l.Base == "", l.InsecureHTTP, reg.RegistryStr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[key]; s != nil {
		return s, nil
	}
	opts := []remote.Option{
		remote.WithUserAgent("drydock"),
		remote.WithRetryPredicate(worthRetry),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 3}),
	}
	if l.Base == "" {
		opts = append(opts, remote.WithTransport(c.options.Embedded.transport()), remote.WithAuth(authn.Anonymous))
	} else {
		rt := c.external
		if !l.InsecureHTTP {
			rt = refusePlain{rt, &sync.Map{}}
		}
		opts = append(opts, remote.WithTransport(rt), remote.WithAuthFromKeychain(c.keychain))
	}
	puller, err := remote.NewPuller(opts...)
	if err != nil {
		return nil, fmt.Errorf("preparing to read %s: %w", reg, err)
	}
	pusher, err := remote.NewPusher(opts...)
	if err != nil {
		return nil, fmt.Errorf("preparing to write %s: %w", reg, err)
	}
	s := &session{puller, pusher}
	c.sessions[key] = s
	return s, nil
}

// String is the stable name of the repository.
func (r *Repo) String() string { return r.location.Repository(r.path) }

// Location is where the repository lives.
func (r *Repo) Location() Location { return r.location }

// Subject names the image d of this repository.
func (r *Repo) Subject(d artifact.Digest) artifact.Subject {
	return artifact.Subject{Repository: r.String(), Digest: d}
}

// Ref is d as go-containerregistry names it.
func (r *Repo) Ref(d artifact.Digest) name.Digest { return r.name.Digest(string(d)) }

// Options are go-containerregistry's options that reach this repository.
func (r *Repo) Options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.Reuse(r.session.puller), remote.Reuse(r.session.pusher)}
}

// Lock serialises what this process writes about d: what hangs on an image is
// read, changed and written back. The returned function unlocks.
func (r *Repo) Lock(d artifact.Digest) (unlock func()) {
	return r.client.locks.lock(r.String() + "@" + string(d))
}

// keyedLocks are mutexes by name, made on first use and dropped after the last.
type keyedLocks struct {
	mu sync.Mutex
	m  map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex
	users int
}

func (k *keyedLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.m == nil {
		k.m = map[string]*keyedLock{}
	}
	l := k.m[key]
	if l == nil {
		l = &keyedLock{}
		k.m[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.m, key)
		}
	}
}
