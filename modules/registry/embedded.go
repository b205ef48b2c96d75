package registry

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

const (
	servingFile   = "serving.json"
	lockFile      = "lock"
	helloPath     = "/drydock/hello"
	tokenHeader   = "Drydock-Token"
	startPatience = 5 * time.Second
)

// Embedded is the folder of the embedded registries, one per stage. The first
// process to open it holds its lock and serves it to the others, which find it
// through serving.json; when that process ends the next request makes another
// one the holder.
type Embedded struct {
	dir string

	mu     sync.Mutex
	holder *holder // non-nil while this process holds the folder
	guest  *serving
	client *http.Transport
	closed bool
}

// serving is what serving.json says.
type serving struct {
	Version int    `json:"version"` // 1
	PID     int    `json:"pid"`
	Address string `json:"address"` // loopback
	Token   string `json:"token"`
}

// holder is the process that has the folder open.
type holder struct {
	dir    string
	lock   *os.File
	memory *memoryListener
	tcp    net.Listener
	server []*http.Server

	mu     sync.Mutex
	stages map[string]*stage
}

// Open opens the folder of embedded registries, making it where it is missing.
// A folder another process has open is used through that process.
func Open(ctx context.Context, dir string) (*Embedded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "opening embedded registry", Place: dir,
			Remedy: "give a folder that may be written with --data", Err: err,
		}
	}
	e := &Embedded{dir: dir}
	e.client = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.connect(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// connect makes this process the holder, or finds the one that is. e.mu is held.
func (e *Embedded) connect(ctx context.Context) error {
	deadline := time.Now().Add(startPatience)
	for {
		h, err := hold(e.dir)
		if err == nil {
			e.holder, e.guest = h, nil
			return nil
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		s, err := findServing(ctx, e.dir)
		if err == nil {
			e.guest = s
			return nil
		}
		if time.Now().After(deadline) {
			return &artifact.Error{
				Kind: artifact.KindFault, Op: "opening embedded registry", Place: e.dir,
				Message: "another process has it open and does not answer",
				Remedy:  "wait for the other drydock or end it, or give another --data", Err: err,
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dial connects to the registry in this process or in the one that holds it.
func (e *Embedded) dial(ctx context.Context) (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fs.ErrClosed
	}
	if e.holder != nil {
		return e.holder.memory.dial(ctx)
	}
	if c, err := e.guest.dial(ctx); err == nil {
		return c, nil
	}
	if err := e.connect(ctx); err != nil { // the holder ended
		return nil, err
	}
	if e.holder != nil {
		return e.holder.memory.dial(ctx)
	}
	return e.guest.dial(ctx)
}

// guestConn is a connection to another process, with what lets us in there: by
// the time a request is sent the holder may be another than when it was made.
type guestConn struct {
	net.Conn
	token string
}

func (s *serving) dial(ctx context.Context) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, err
	}
	return &guestConn{c, s.Token}, nil
}

// transport reaches the stages under their stable host names.
func (e *Embedded) transport() http.RoundTripper { return embeddedTransport{e} }

type embeddedTransport struct{ e *Embedded }

// RoundTrip implements http.RoundTripper.
func (t embeddedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	var out *http.Request
	out = r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		out.Header.Del(tokenHeader)
		if c, ok := got.Conn.(*guestConn); ok {
			out.Header.Set(tokenHeader, c.token)
		}
	}}))
	if out.Header == nil {
		out.Header = http.Header{}
	}
	out.URL.Scheme = "http" // no network between us, or loopback
	resp, err := t.e.client.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Request = r // locations are resolved against the name the caller knows
	return resp, nil
}

// Close ends this process's part: the holder lets the folder go.
func (e *Embedded) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.client.CloseIdleConnections()
	if e.holder == nil {
		return nil
	}
	return e.holder.close()
}

// Location is the embedded stage of that name, made where it is missing.
func (e *Embedded) Location(stage string) (Location, error) {
	if !stagePattern.MatchString(stage) {
		return Location{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "opening stage", Place: stage,
			Message: "a stage is named by lower-case letters, digits and - . _", Remedy: "rename the stage",
		}
	}
	if err := os.MkdirAll(filepath.Join(e.dir, stage), 0o700); err != nil {
		return Location{}, &artifact.Error{
			Kind: artifact.KindFault, Op: "opening stage", Place: stage,
			Remedy: "check that the data folder may be written and is not full", Err: err,
		}
	}
	return Location{Name: stage}, nil
}

// hold takes the lock on dir and begins to serve it.
func hold(dir string) (*holder, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "opening embedded registry", Place: dir,
			Remedy: "give a folder that may be written with --data", Err: err,
		}
	}
	if err := lockExclusive(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	h := &holder{dir: dir, lock: f, memory: newMemoryListener(), stages: map[string]*stage{}}
	if err := h.announce(); err != nil {
		_ = h.close()
		return nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "opening embedded registry", Place: dir,
			Remedy: "check that the folder may be written and is not full", Err: err,
		}
	}
	return h, nil
}

// announce serves the stages inside this process and, for other processes of
// this user that can read serving.json, on a loopback port.
func (h *holder) announce() error {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.tcp = tcp
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		return err
	}
	s := serving{Version: 1, PID: os.Getpid(), Address: tcp.Addr().String(), Token: hex.EncodeToString(token)}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := wholefile.Write(filepath.Join(h.dir, servingFile), b, wholefile.Options{}); err != nil {
		return err
	}
	h.start(h.memory, http.HandlerFunc(h.byHost))
	h.start(tcp, withToken(s.Token, http.HandlerFunc(h.byHost)))
	return nil
}

func (h *holder) start(l net.Listener, handler http.Handler) {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	h.server = append(h.server, srv)
	go func() { _ = srv.Serve(l) }()
}

func (h *holder) close() error {
	// serving.json goes while the lock is held, so it cannot be a successor's.
	_ = os.Remove(filepath.Join(h.dir, servingFile))
	for _, s := range h.server {
		_ = s.Close()
	}
	if h.tcp != nil {
		_ = h.tcp.Close()
	}
	return h.lock.Close()
}

// stage returns the registry of that name; a new one is made only on request.
func (h *holder) stage(name string, create bool) (*stage, error) {
	if !stagePattern.MatchString(name) {
		return nil, fmt.Errorf("%q is not the name of a stage", name)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.stages[name]; s != nil {
		return s, nil
	}
	dir := filepath.Join(h.dir, name)
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("there is no stage %q", name)
	}
	s := newStage(dir)
	h.stages[name] = s
	return s, nil
}

// byHost serves each stage under its stable host name.
func (h *holder) byHost(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(r.Host, InternalSuffix)
	if !ok {
		writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "no stage is called "+r.Host)
		return
	}
	s, err := h.stage(name, true)
	if err != nil {
		writeError(w, http.StatusInternalServerError, "NAME_UNKNOWN", err.Error())
		return
	}
	s.ServeHTTP(w, r)
}

// withToken lets only those in who could read serving.json, and proves to them
// that the listener is the one it speaks of.
func withToken(token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == helloPath {
			_, _ = fmt.Fprint(w, proof(token, r.URL.Query().Get("nonce")))
			return
		}
		if !hmac.Equal([]byte(r.Header.Get(tokenHeader)), []byte(token)) {
			writeError(w, http.StatusForbidden, "DENIED", "this listener is for drydock itself; see drydock registry serve")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func proof(token, nonce string) string {
	m := hmac.New(sha256.New, []byte(token))
	_, _ = m.Write([]byte(nonce))
	return hex.EncodeToString(m.Sum(nil))
}

// findServing reads serving.json and checks that its process still listens.
func findServing(ctx context.Context, dir string) (*serving, error) {
	path := filepath.Join(dir, servingFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s serving
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("%s has version %d, this program reads 1", path, s.Version)
	}
	if host, _, err := net.SplitHostPort(s.Address); err != nil || !loopbackHost(host) {
		return nil, fmt.Errorf("%s names %q, which is not a loopback address", path, s.Address)
	}
	nonce := make([]byte, 16)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	n := hex.EncodeToString(nonce)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address+helloPath+"?nonce="+n, nil)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	got := make([]byte, 64)
	k, _ := readFull(resp.Body, got)
	if !hmac.Equal(got[:k], []byte(proof(s.Token, n))) {
		return nil, fmt.Errorf("what listens at %s is not process %d", s.Address, s.PID)
	}
	return &s, nil
}
