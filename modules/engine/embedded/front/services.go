//go:build linux

package front

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	stepexec "drydock/modules/engine/embedded/executor"
)

const (
	// idleTime is how long a service that nobody uses any more goes on, since
	// the next step often wants it again.
	idleTime = 10 * time.Second
	// stopTime is how long a service may take to end when it is asked to.
	stopTime = 10 * time.Second
	// startTime is how long a service may take until its ports answer.
	startTime = 5 * time.Minute
)

// services are those queries named and those that run.
type services struct {
	server *Server
	life   context.Context // theirs

	mu      sync.Mutex
	known   map[string]*service
	running map[string]*running
}

func newServices(ctx context.Context, s *Server) *services {
	return &services{server: s, life: ctx, known: map[string]*service{}, running: map[string]*running{}}
}

// running is a service that was started.
type running struct {
	svc    *service
	server *Server
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when its ports answer
	done   chan struct{} // closed when it has ended
	err    error         // why; set before done is closed
	ask    chan struct{} // closed when it shall end
	once   sync.Once

	users  int // steps, and 1 for an explicit start
	pinned bool
	timer  *time.Timer

	mu    sync.Mutex
	id    string // of its process in the executor
	ports []port // of a tunnel: where it listens
	said  *tail
	begun time.Time
}

// know remembers a service by its key, so that steps find it.
func (l *services) know(s *service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[s.key] = s
}

// knowAll says whether every service of a step is known.
func (l *services) knowAll(bound string) bool {
	for _, key := range bindingsOf(bound) {
		if l.byKey(key) == nil {
			return false
		}
	}
	return true
}

func (l *services) byKey(key string) *service {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[key]
}

func (l *services) runningByKey(key string) *running {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running[key]
}

// portsOf are the ports a service is reached on; of a tunnel that does not
// run, none.
func (l *services) portsOf(s *service) []port {
	if s.upstream == nil {
		return s.ports
	}
	r := l.runningByKey(s.key)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ports
}

// use gives a service that answers, starting it if need be. It runs on at
// least until leave is called.
func (l *services) use(ctx context.Context, s *service) (r *running, leave func(), err error) {
	if s.host != nil {
		return nil, func() {}, nil
	}
	l.mu.Lock()
	r = l.running[s.key]
	if r == nil {
		r = l.begin(s)
	}
	r.users++
	if r.timer != nil {
		r.timer.Stop()
	}
	l.mu.Unlock()
	var once sync.Once
	leave = func() { once.Do(func() { l.leave(r) }) }
	select {
	case <-r.ready:
		return r, leave, nil
	case <-r.done:
		err = r.failure()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	leave()
	return nil, nil, err
}

// leave ends a service some time after its last user.
func (l *services) leave(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	r.timer = time.AfterFunc(idleTime, func() {
		l.mu.Lock()
		idle := r.users == 0
		l.mu.Unlock()
		if idle {
			r.end()
		}
	})
}

// end asks a service to end.
func (r *running) end() { r.once.Do(func() { close(r.ask) }) }

// failure is why a service is not there.
func (r *running) failure() error {
	text, ext := fmt.Sprintf("service %s ended before it answered", r.svc.hostname), map[string]any{"kind": "usage"}
	if r.err != nil {
		var f *fault
		if errors.As(r.err, &f) && f.ext["_type"] != nil {
			ext = f.ext // it was a command that failed
		}
		text = fmt.Sprintf("service %s did not start: %v", r.svc.hostname, stripTokens(rootMessage(r.err)))
	}
	if last := lastLines(r.said.String(), 10); last != "" {
		text += "\n" + last
	}
	return &fault{message: text, ext: ext, err: r.err}
}

// begin starts a service; l.mu is held.
func (l *services) begin(s *service) *running {
	ctx, cancel := context.WithCancelCause(l.life)
	r := &running{
		svc: s, server: l.server, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{}), ask: make(chan struct{}),
		said: newTail(), begun: time.Now(),
	}
	l.running[s.key] = r
	go func() {
		defer cancel(nil)
		var err error
		if s.upstream != nil {
			err = l.runTunnel(ctx, r)
		} else {
			err = l.server.runService(ctx, r)
		}
		select {
		case <-r.ask:
			err = nil // it was to end
		default:
		}
		l.mu.Lock()
		if l.running[s.key] == r {
			delete(l.running, s.key)
		}
		l.mu.Unlock()
		r.err = err
		close(r.done)
	}()
	return r
}

// start starts a service for as long as the session, or until stop.
func (l *services) start(ctx context.Context, s *service) error {
	r, leave, err := l.use(ctx, s)
	if err != nil || r == nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.pinned {
		defer func() { go leave() }()
	}
	r.pinned = true
	return nil
}

// stop ends a service and waits until it has; kill does not let it finish.
func (l *services) stop(ctx context.Context, s *service, kill bool) error {
	r := l.runningByKey(s.key)
	if r == nil {
		return nil
	}
	r.end()
	if kill {
		r.cancel(errors.New("the service was stopped"))
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isReady tells everybody who waits for the service.
func (r *running) isReady() { close(r.ready) }

// dial connects to a port of a service that runs.
func (l *services) dial(ctx context.Context, s *service, r *running, p stepexec.Port) (net.Conn, error) {
	if s.host != nil {
		i := slices.IndexFunc(s.host, func(f forward) bool { return f.front.number == p.Number && f.front.udp == p.UDP })
		if i < 0 {
			return nil, fmt.Errorf("no port %d", p.Number)
		}
		network := "tcp"
		if p.UDP {
			network = "udp"
		}
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(s.args[0], strconv.Itoa(s.host[i].back.number)))
	}
	r.mu.Lock()
	id := r.id
	r.mu.Unlock()
	if id == "" || l.server.processes == nil {
		return nil, errors.New("the service does not run")
	}
	return l.server.processes.Dial(ctx, id, p)
}

// tell ends a step whose service has failed, unless the step ends first.
func (r *running) tell(ctx context.Context, alias string, ended context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
	case <-r.done:
		if r.err != nil {
			ended(&fault{
				message: fmt.Sprintf("bound service %s (aliased as %s) exited: %s", r.svc.hostname, alias, stripTokens(rootMessage(r.err))),
				ext:     map[string]any{"kind": "usage"},
			})
		}
	}
}

// hosts are the services of a step as its network, and what to call after it.
// ended is called when one of them fails.
func (l *services) hosts(ctx context.Context, bound string, ended context.CancelCauseFunc) ([]stepexec.Host, func(), error) {
	var leaves []func()
	done := func() {
		for _, leave := range leaves {
			leave()
		}
	}
	var out []stepexec.Host
	for alias, key := range bindingsOf(bound) {
		s := l.byKey(key)
		if s == nil {
			done()
			return nil, nil, fmt.Errorf("service %s is not known in this session", alias)
		}
		r, leave, err := l.use(ctx, s)
		if err != nil {
			done()
			return nil, nil, l.server.boundError(alias, err)
		}
		leaves = append(leaves, leave)
		if r != nil {
			go r.tell(ctx, alias, ended)
		}
		h := stepexec.Host{Names: []string{alias}, Dial: func(ctx context.Context, p stepexec.Port) (net.Conn, error) {
			return l.dial(ctx, s, r, p)
		}}
		if s.hostname != alias {
			h.Names = append(h.Names, s.hostname)
		}
		for _, p := range s.ports {
			h.Ports = append(h.Ports, stepexec.Port{Number: p.number, UDP: p.udp})
		}
		out = append(out, h)
	}
	return out, done, nil
}

// boundError is why a step could not have a service. What the service exited with
// is not how the step did, so it is no cause; who asks finds it by a token.
func (s *Server) boundError(alias string, err error) error {
	text := fmt.Sprintf("starting service %s: %v", alias, err)
	var f *fault
	if errors.As(err, &f) && f.ext["_type"] != nil {
		text += " " + s.failures.put(failure{ext: f.ext})
	}
	return errors.New(text)
}

// runTunnel listens on loopback for a service until it is asked to end.
func (l *services) runTunnel(ctx context.Context, r *running) error {
	up, leave, err := l.use(ctx, r.svc.upstream)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, f := range r.svc.tunnel {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(loopback, strconv.Itoa(f.front.number)))
		if err != nil {
			return fmt.Errorf("listening for the tunnel: %w", err)
		}
		defer listener.Close()
		address, _ := listener.Addr().(*net.TCPAddr)
		r.mu.Lock()
		r.ports = append(r.ports, port{number: address.Port, description: "tunnel to " + f.back.key()})
		r.mu.Unlock()
		go l.tunnel(ctx, listener, r.svc.upstream, up, stepexec.Port{Number: f.back.number})
	}
	r.isReady()
	ended := make(<-chan struct{})
	if up != nil {
		ended = up.done
	}
	select {
	case <-r.ask:
		return nil
	case <-ended:
		return errors.New("the service has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *services) tunnel(ctx context.Context, listener net.Listener, s *service, up *running, p stepexec.Port) {
	for {
		in, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := l.dial(ctx, s, up, p)
			if err != nil {
				return
			}
			defer out.Close()
			defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
			stepexec.Splice(in, out)
		}()
	}
}
