package executor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/initproc"
)

const (
	// drainTime is how long the last refusals may take to arrive after the
	// process has ended: they are in the socket already.
	drainTime = 20 * time.Millisecond
	// persistTime is how long the gateway may take to write down materials.
	persistTime = 10 * time.Second
	dialTime    = 10 * time.Second
)

// gatewayEnv leads what knows proxies to the gateway, but not to the step's own
// hosts.
func gatewayEnv(n Network) []string {
	direct := "localhost,127.0.0.1,::1"
	for _, h := range n.Hosts {
		direct += "," + strings.Join(h.Names, ",")
	}
	base := "http://" + initproc.GatewayHost
	port := ":80"
	if n.servesHTTP() {
		base += fmt.Sprintf(":%d", initproc.MovedPort(80))
		port = ""
	}
	env := make([]string, 0, 20)
	for _, k := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
		env = append(env, k+"="+base+port)
	}
	return append(env, "no_proxy="+direct, "NO_PROXY="+direct,
		"GOPROXY="+base+"/go", "npm_config_registry="+base+"/npm/",
		// corepack takes newer yarn from a place of its own, and that yarn its packages
		"COREPACK_NPM_REGISTRY="+base+"/npm", "YARN_NPM_REGISTRY_SERVER="+base+"/npm", "YARN_UNSAFE_HTTP_WHITELIST="+initproc.GatewayHost,
		"PIP_INDEX_URL="+base+"/pypi/simple/", "PIP_TRUSTED_HOST="+initproc.GatewayHost, "PIP_DISABLE_PIP_VERSION_CHECK=1",
		// git(1): addresses as Dockerfiles have them are the gateway's
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=url."+base+"/git/.insteadOf", "GIT_CONFIG_VALUE_0=https://",
		"GIT_CONFIG_KEY_1=url."+base+"/git/.insteadOf", "GIT_CONFIG_VALUE_1=ssh://git@")
}

// hello is the first line of every connection to the gateway.
type hello struct {
	Kind  string `json:"kind"`
	Proto string `json:"proto,omitempty"`
	Step  string `json:"step"`
	Name  string `json:"name,omitempty"`
	Fetch bool   `json:"fetch,omitempty"` // an ADD of an address, which no mount tells of
}

// refusal is what the gateway says when a step wanted what it may not have.
type refusal struct {
	URL    string `json:"url"`
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
	Remedy string `json:"remedy"`
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("refused %s by rule %s: %s", r.URL, r.Rule, r.Reason)
	if r.Remedy != "" {
		s += " (" + r.Remedy + ")"
	}
	return s
}

// gatewayFault is our own failure to reach the gateway, not the step's.
type gatewayFault struct{ err error }

func (f *gatewayFault) Error() string { return f.err.Error() }
func (f *gatewayFault) Unwrap() error { return f.err }

// link joins a step's network to the gateway.
type link struct {
	vertex Vertex
	socket string
	stderr io.Writer
	kill   func()
	hosts  []Host // the step's own

	address   netip.Addr // the gateway's, as the step sees it
	control   *net.UnixConn
	listening []io.Closer
	reading   chan struct{} // closed when the control connection was read to its end

	mu     sync.Mutex
	first  *refusal
	timer  *time.Timer
	names  []string
	conns  map[net.Conn]struct{}
	closed bool
	gone   bool // the gateway ended before the step
}

func (g *link) dial(h hello) (*net.UnixConn, error) {
	d := net.Dialer{Timeout: dialTime}
	c, err := d.Dial("unix", g.socket)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(h)
	if err == nil {
		_, err = c.Write(append(b, '\n'))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// open tells the gateway of the step and starts to answer on its listeners.
func (g *link) open(files []*os.File) error {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != 3 {
		return fmt.Errorf("the step's init sent %d listeners, not 3", len(files))
	}
	g.address = netip.MustParseAddr(initproc.GatewayIP)
	if err := g.begin(); err != nil {
		return err
	}
	for i, proto := range []string{"http", "tls"} {
		l, err := net.FileListener(files[i])
		if err != nil {
			return fmt.Errorf("taking the step's listener: %w", err)
		}
		g.listening = append(g.listening, l)
		go g.accept(l, func(c net.Conn) {
			if proto == "http" {
				g.request(c.(closeWriter))
				return
			}
			g.splice(c.(closeWriter), proto)
		})
	}
	p, err := net.FilePacketConn(files[2])
	if err != nil {
		return fmt.Errorf("taking the step's listener: %w", err)
	}
	g.listening = append(g.listening, p)
	go answerNames(p, g.address, g.lookedUp)
	return nil
}

// begin tells the gateway of the step.
func (g *link) begin() error {
	control, err := g.dial(hello{Kind: "step", Step: g.vertex.Digest, Name: g.vertex.Name})
	if err != nil {
		return &gatewayFault{&artifact.Error{
			Kind: artifact.KindFault, Op: "reaching the mirror gateway", Message: "the step cannot have a network", Err: err,
		}}
	}
	g.control, g.reading, g.conns = control, make(chan struct{}), map[net.Conn]struct{}{}
	go g.readRefusals()
	return nil
}

func (g *link) readRefusals() {
	defer close(g.reading)
	for sc := bufio.NewScanner(g.control); sc.Scan(); {
		var line struct{ Refused *refusal }
		if json.Unmarshal(sc.Bytes(), &line) != nil || line.Refused == nil {
			continue
		}
		r := line.Refused
		fmt.Fprintf(g.stderr, "drydock: refused %s by rule %s: %s\n", r.URL, r.Rule, r.Reason)
		g.mu.Lock()
		if g.first == nil {
			g.first = r
			g.timer = time.AfterFunc(refusalGrace, g.kill)
		}
		g.mu.Unlock()
	}
	// what a step fetches without its gateway is not written down
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.gone = true
		g.kill()
	}
}

func (g *link) lost() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

func (g *link) lookedUp(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if name != initproc.GatewayHost && !strings.HasSuffix(name, "."+initproc.GatewayHost) && !slices.Contains(g.names, name) && len(g.names) < 20 {
		g.names = append(g.names, name)
	}
}

// note is what to add when a step failed by itself: a name it asked for may
// be why, when it then tried a port nobody answers on.
func (g *link) note() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.names) == 0 {
		return ""
	}
	return "; name lookups: " + strings.Join(g.names, ", ") + " (a step reaches nothing but the mirror gateway)"
}

func (g *link) accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: some will be closed
			continue
		}
		if !g.track(c) {
			c.Close()
			return
		}
		go serve(c)
	}
}

func (g *link) track(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.conns[c] = struct{}{}
	return true
}

// closeWriter is a connection whose directions end one by one.
type closeWriter interface {
	net.Conn
	CloseWrite() error
}

func (g *link) drop(c net.Conn) {
	c.Close()
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
}

func (g *link) splice(c closeWriter, proto string) {
	defer g.drop(c)
	up, err := g.dial(hello{Kind: "conn", Proto: proto, Step: g.vertex.Digest})
	if err != nil {
		fmt.Fprintf(g.stderr, "drydock: the mirror gateway does not answer: %v\n", err)
		return
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, c)
		_ = up.CloseWrite()
	}()
	_, _ = io.Copy(c, up)
	_ = c.CloseWrite()
	// the gateway has said all it will: do not wait for the step to agree
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	<-done
}

// unread is how many bytes wait in a socket; 0 when that cannot be asked.
func unread(c *net.UnixConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); err != nil {
		return 0
	}
	return n
}

// close ends the link and returns the first refusal, if there was one. It
// waits until the gateway has written down what the step fetched.
func (g *link) close(ok bool) error {
	for _, l := range g.listening {
		l.Close()
	}
	if g.control == nil {
		return nil
	}
	defer g.control.Close()
	g.mu.Lock()
	g.closed = true
	for c := range g.conns {
		c.Close()
	}
	g.mu.Unlock()
	// a refusal is written before its client is answered, so it is in the socket
	// by now; on a busy machine its reader may still have to come to it
	for end := time.Now().Add(persistTime); unread(g.control) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	_ = g.control.SetReadDeadline(time.Now().Add(drainTime))
	<-g.reading
	g.mu.Lock()
	first := g.first
	if g.timer != nil {
		g.timer.Stop()
	}
	g.mu.Unlock()
	if err := json.NewEncoder(g.control).Encode(map[string]bool{"ok": ok && first == nil}); err == nil {
		_ = g.control.CloseWrite()
		_ = g.control.SetReadDeadline(time.Now().Add(persistTime))
		_, _ = io.Copy(io.Discard, g.control)
	}
	if first == nil {
		return nil
	}
	return first
}
