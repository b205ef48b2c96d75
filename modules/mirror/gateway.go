package mirror

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drydock/modules/artifact"
)

// Where a step finds the gateway.
const (
	GatewayHost    = "mirror.drydock.internal"
	gatewayAddress = "198.18.0.1"
	gatewayURL     = "http://" + GatewayHost
)

// RuleMirrorOnly is the rule that refuses whatever is no mirror.
const RuleMirrorOnly = "egress/mirror-only"

// GatewayOptions configure a Gateway.
type GatewayOptions struct {
	CacheDir string    // materials are kept below it
	Log      io.Writer // nil discards
}

// Gateway lets build steps reach the mirrors and nothing else. It listens
// where the engine can reach it and speaks for the steps: a connection begins
// with one JSON line that says what it is.
type Gateway struct {
	set   *Set
	log   io.Writer
	steps *stepBook
	locks lockBook
	http  *http.Server
	queue *connQueue
	hits  hitBook
	out   *egress // nil: nothing but the mirrors is reached

	authority authority // of the certificates steps are shown

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[net.Conn]bool
	closed    bool
}

// NewGateway makes a gateway to the mirrors of a Set. Close ends it.
func NewGateway(s *Set, opt GatewayOptions) *Gateway {
	g := &Gateway{
		set: s, log: opt.Log, steps: newStepBook(opt.CacheDir),
		queue:     &connQueue{conns: make(chan net.Conn), done: make(chan struct{})},
		listeners: map[net.Listener]bool{}, conns: map[net.Conn]bool{},
	}
	if g.log == nil {
		g.log = io.Discard
	}
	g.http = &http.Server{
		Handler:           http.HandlerFunc(g.serveHTTP),
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       idleTime,
		ErrorLog:          log.New(logWriter{g}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if tc, ok := c.(*tls.Conn); ok {
				c = tc.NetConn()
			}
			if sc, ok := c.(*stepConn); ok {
				return context.WithValue(ctx, stepKey{}, sc)
			}
			return ctx
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if sc, ok := c.(*stepConn); ok && state == http.StateIdle {
				sc.next()
			}
		},
	}
	go func() { _ = g.http.Serve(g.queue) }() // ends with http.ErrServerClosed at Close
	return g
}

// idleTime is how long a connection may wait for its next request.
const idleTime = 5 * time.Minute

type stepKey struct{}

// stepOf is the step a request comes from.
func stepOf(ctx context.Context) string {
	if sc, ok := ctx.Value(stepKey{}).(*stepConn); ok {
		return sc.step
	}
	return ""
}

// hello is the first line of a connection to the gateway.
type hello struct {
	Kind  string `json:"kind"` // conn, step, build, authority
	Proto string `json:"proto"`
	Step  string `json:"step"`
	Name  string `json:"name"`
	Build string `json:"build"`
	Fetch bool   `json:"fetch"` // the step is an ADD of an address
	Steps []struct {
		Step   string `json:"step"`
		Name   string `json:"name"`
		MadeBy string `json:"madeBy"` // the step whose result it was given, where that has another name
	} `json:"steps"`
}

// Serve answers connections until the listener closes or Close is called.
func (g *Gateway) Serve(l net.Listener) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		_ = l.Close()
		return nil
	}
	g.listeners[l] = true
	g.mu.Unlock()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting connections to the mirror gateway: %w", err)
		}
		if g.track(c, true) {
			go g.handle(c)
		}
	}
}

// track keeps the connections to close at Close.
func (g *Gateway) track(c net.Conn, open bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open && g.closed {
		_ = c.Close()
		return false
	}
	if open {
		g.conns[c] = true
	} else {
		delete(g.conns, c)
	}
	return true
}

// Close stops the gateway and every connection through it.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	for l := range g.listeners {
		_ = l.Close()
	}
	for c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	return g.http.Close()
}

// logWriter is the gateway's log for the HTTP server.
type logWriter struct{ g *Gateway }

// Write implements io.Writer.
func (l logWriter) Write(p []byte) (int, error) {
	l.g.logf("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

func (g *Gateway) logf(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fmt.Fprintf(g.log, "gateway: "+format+"\n", args...)
}

// helloLimit bounds a first line: a build names its steps in one.
const helloLimit = 4 << 20

func (g *Gateway) handle(c net.Conn) {
	defer g.track(c, false)
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReaderSize(c, 32<<10)
	var h hello
	line, err := readLine(r, helloLimit)
	if err == nil {
		err = json.Unmarshal(line, &h)
	}
	if err != nil {
		g.logf("a connection began with no greeting: %v", err)
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	switch {
	case h.Kind == "conn" && h.Proto == "http":
		sc := &stepConn{Conn: c, r: r, step: h.Step, closed: make(chan struct{}), again: g.again, enough: make(chan struct{}, 1)}
		sc.next()
		if g.queue.put(sc) {
			<-sc.closed
		}
		_ = c.Close()
	case h.Kind == "conn" && h.Proto == "tls":
		g.serveTLS(c, r, h.Step, "")
	case h.Kind == "authority":
		g.tellAuthority(c)
	case h.Kind == "step":
		g.control(c, r, h)
	case h.Kind == "build":
		if err := g.steps.build(h); err != nil {
			g.logf("the materials of cached steps were not kept: %v", err)
		}
		_, _ = io.WriteString(c, "{\"ok\":true}\n")
		_ = c.Close()
	default:
		g.logf("a connection of unknown kind %q %q", h.Kind, h.Proto)
		_ = c.Close()
	}
}

func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line) > limit {
			return nil, errors.New("the line is too long")
		}
	}
}

// stepConn is a step's TCP connection, after the greeting.
type stepConn struct {
	net.Conn
	r      *bufio.Reader
	step   string
	asked  atomic.Bool // a request came by it
	once   sync.Once
	closed chan struct{}

	// of Read (plainget.go), which one goroutine at a time calls
	again   func(c *stepConn, head []byte) (bool, error) // answers a request without the server; nil: none
	between bool                                         // nothing of the next request was read
	left    int                                          // bytes of a head that the server has yet to read
	beyond  bool                                         // more than heads is the server's
	enough  chan struct{}                                // the server waits no longer
	armed   time.Time                                    // when the time for being idle last began
}

// ReadFrom implements io.ReaderFrom: a file of the content store goes from the
// kernel's cache to the socket without passing through this process.
func (c *stepConn) ReadFrom(r io.Reader) (int64, error) {
	part, ok := r.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{c.Conn}, r)
	}
	f, ok := part.R.(*os.File)
	if !ok {
		return io.Copy(struct{ io.Writer }{c.Conn}, r)
	}
	n, handled, err := sendFile(c.Conn, f, part.N)
	part.N -= n
	if handled || err != nil {
		return n, err
	}
	more, err := io.Copy(struct{ io.Writer }{c.Conn}, r)
	return n + more, err
}

// Close implements net.Conn.
func (c *stepConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// connQueue hands connections to the HTTP server.
type connQueue struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (q *connQueue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
		return false
	}
}

// Accept implements net.Listener.
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements net.Listener.
func (q *connQueue) Addr() net.Addr { return &net.UnixAddr{Name: GatewayHost, Net: "unix"} }

// refusal is one line on a step's control connection.
type refusal struct {
	URL    string `json:"url"`
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

// remedyMirrorOnly is what to do about a refusal of RuleMirrorOnly.
const remedyMirrorOnly = "take it from a mirror (" + gatewayURL + "/debian/ /go/ /npm/ /oci/ /pypi/), list it under files: or git: in mirrors.yaml, or make it part of the build context"

// refused tells the step's executor, and the log, what was refused.
func (g *Gateway) refused(step string, r refusal) {
	g.logf("refused %s by rule %s: %s", r.URL, r.Rule, r.Reason)
	g.steps.refuse(step, r)
}

// control serves a step's control connection: refusals go out on it, and its
// end is the step's.
func (g *Gateway) control(c net.Conn, r *bufio.Reader, h hello) {
	lock := lockOf(h.Name)
	if h.Fetch {
		lock = fetchLock
	}
	end := g.steps.beginUnder(h.Step, h.Name, lock, c)
	ok := false
	for {
		line, err := readLine(r, helloLimit)
		if err != nil {
			break
		}
		var last struct {
			OK bool `json:"ok"`
		}
		if json.Unmarshal(line, &last) == nil {
			ok = last.OK
		}
	}
	if err := end(ok); err != nil {
		g.logf("the materials of step %s were not kept: %v", h.Step, err)
	}
	_ = c.Close() // only now: whoever waits for it asks what the step fetched
}

// Materials is what the steps of a build fetched, those of cached steps
// included. complete is false when the build or one of its steps is not known.
func (g *Gateway) Materials(build string) (materials []artifact.Material, complete bool) {
	f := g.steps.of(build)
	return f.Materials, f.Complete
}

// Fetched is Materials with all a lock needs.
func (g *Gateway) Fetched(build string) Fetched { return g.steps.of(build) }
