//go:build linux

package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/executor"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	stepexec "drydock/modules/engine/embedded/executor"
)

// Processes are those the engine runs, as far as services need it.
type Processes interface {
	// Dial connects to a port of a process.
	Dial(ctx context.Context, id string, p stepexec.Port) (net.Conn, error)
	// Exec runs a further process beside one and waits for it.
	Exec(ctx context.Context, id string, p executor.ProcessInfo) error
}

// bindingsOf reads what container.bound wrote, in its order.
func bindingsOf(bound string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, one := range strings.Split(bound, ",") {
			if alias, key, ok := strings.Cut(one, "="); ok && !yield(alias, key) {
				return
			}
		}
	}
}

// takeEnv takes a variable out of an environment.
func takeEnv(env []string, name string) (rest []string, value string) {
	for _, pair := range env {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			value = v
			continue
		}
		rest = append(rest, pair)
	}
	return rest, value
}

// runService runs a container's service until it ends or is asked to.
func (s *Server) runService(ctx context.Context, r *running) error {
	c := r.svc.container
	return s.build(ctx, job{}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		req, err := c.containerRequest(ctx, gw)
		if err != nil {
			return nil, err
		}
		req.Hostname = r.svc.hostname
		ctr, err := gw.NewContainer(ctx, req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = ctr.Release(context.WithoutCancel(ctx)) }() // how it ended is known
		process, err := ctr.Start(ctx, c.startRequest(r))
		if err != nil {
			return nil, err
		}
		return gateway.NewResult(), s.attend(ctx, r, process)
	})
}

// attend waits for a service's process, and meanwhile until it answers.
func (s *Server) attend(ctx context.Context, r *running, process gateway.ContainerProcess) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	healthy := make(chan error, 1)
	go func() { healthy <- s.awaitHealth(ctx, r) }()
	ask := r.ask
	for {
		select {
		case err := <-ended:
			return err
		case err := <-healthy:
			if err != nil {
				return err
			}
			r.isReady()
			healthy = nil
		case <-ask:
			ask = nil
			_ = process.Signal(ctx, syscall.SIGTERM)
			time.AfterFunc(stopTime, func() { r.cancel(errors.New("the service was stopped")) })
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// containerRequest is the container's file systems, made.
func (c *container) containerRequest(ctx context.Context, gw gateway.Client) (gateway.NewContainerRequest, error) {
	req := gateway.NewContainerRequest{Platform: &pb.Platform{OS: c.platform.OS, Architecture: c.platform.Architecture, Variant: c.platform.Variant}}
	mount := func(m gateway.Mount, st llb.State) error {
		if st.Output() != nil {
			ref, err := solveState(ctx, gw, st, c.platform)
			if err != nil {
				return err
			}
			m.Ref = ref
		}
		req.Mounts = append(req.Mounts, m)
		return nil
	}
	if err := mount(gateway.Mount{Dest: "/", MountType: pb.MountType_BIND}, c.fs); err != nil {
		return req, err
	}
	for _, m := range c.mounts {
		out := gateway.Mount{Dest: m.target, MountType: pb.MountType_BIND, Readonly: m.readonly}
		if m.source.path != "/" {
			out.Selector = m.source.path
		}
		uid, gid := m.owner.ids()
		switch {
		case m.tmpfs:
			out.MountType, out.Selector = pb.MountType_TMPFS, ""
		case m.secret != nil:
			out.MountType, out.Selector = pb.MountType_SECRET, ""
			out.SecretOpt = &pb.SecretOpt{ID: m.secret.id, Uid: uid, Gid: gid, Mode: uint32(m.mode)}
		case m.socket != nil:
			out.MountType, out.Selector = pb.MountType_SSH, ""
			out.SSHOpt = &pb.SSHOpt{ID: m.socket.id(), Uid: uid, Gid: gid, Mode: 0o600}
		case m.cache != "":
			out.MountType = pb.MountType_CACHE
			out.CacheOpt = &pb.CacheOpt{ID: m.cache, Sharing: map[llb.CacheMountSharingMode]pb.CacheSharingOpt{
				llb.CacheMountShared: pb.CacheSharingOpt_SHARED, llb.CacheMountPrivate: pb.CacheSharingOpt_PRIVATE,
				llb.CacheMountLocked: pb.CacheSharingOpt_LOCKED,
			}[m.sharing]}
		}
		if err := mount(out, m.source.state); err != nil {
			return req, err
		}
	}
	return req, nil
}

func (c *container) startRequest(r *running) gateway.StartRequest {
	envs, _ := c.secretEnvs()
	env := append([]string{serviceEnv + "=" + r.server.id + "/" + r.svc.key}, c.image.Config.Env...)
	if len(c.bindings) > 0 {
		env = append(env, bindingsEnv+"="+c.bound())
	}
	return gateway.StartRequest{
		Args: r.svc.args, Env: env, SecretEnv: envs, User: c.image.Config.User, Cwd: c.image.Config.WorkingDir,
	}
}

// network is what a process gets beside the gateway, from the variables that
// say so, which are taken out. leave is called when the process has ended.
func (c *capture) network(ctx context.Context, id string, p *executor.ProcessInfo) (_ context.Context, svc *running, leave func(), err error) {
	var bound, key string
	p.Meta.Env, bound = takeEnv(p.Meta.Env, bindingsEnv)
	p.Meta.Env, key = takeEnv(p.Meta.Env, serviceEnv)
	if bound == "" && key == "" {
		return ctx, nil, func() {}, nil
	}
	var n stepexec.Network
	server := (*Server)(nil)
	if client, key, isService := strings.Cut(key, "/"); isService {
		if server = c.shared.byID(client); server == nil {
			return ctx, nil, nil, errClientGone
		}
		if svc = server.services.runningByKey(key); svc == nil {
			return ctx, nil, nil, errors.New("the service is not known")
		}
		n.Reachable = true
		for _, p := range svc.svc.ports {
			n.Serves = append(n.Serves, stepexec.Port{Number: p.number, UDP: p.udp})
		}
		n.Vertex = stepexec.Vertex{Digest: "sha256:" + key, Name: svc.svc.title()}
		ctx = stepexec.WithGateway(ctx, server.gateway)
		svc.mu.Lock()
		svc.id = id
		svc.mu.Unlock()
	} else if server = c.shared.serving(ctx, bound); server == nil {
		return ctx, nil, nil, errors.New("the step's services are not known in this session")
	}
	ctx, ended := context.WithCancelCause(ctx)
	hosts, gone, err := server.services.hosts(ctx, bound, ended)
	if err != nil {
		ended(nil)
		return ctx, nil, nil, err
	}
	n.Hosts = hosts
	return stepexec.WithNetwork(ctx, n), svc, func() { ended(nil); gone() }, nil
}

func (s *service) title() string {
	return "service " + s.hostname + ": " + shorten(strings.Join(s.args, " "), 120)
}

// serviceLog is what a service prints: events for who watches, and the end for
// the error when it fails.
type serviceLog struct {
	feed *feed
	run  *running
	n    int // stream
}

func (w *serviceLog) Write(p []byte) (int, error) {
	_, _ = w.run.said.Write(p)
	w.feed.line(w.run, w.n, p)
	return len(p), nil
}

func (*serviceLog) Close() error { return nil }

// nopCloser is a writer that others close.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// awaitHealth waits until a service answers: as its HEALTHCHECK says, else on
// every port that is to be checked.
func (s *Server) awaitHealth(ctx context.Context, r *running) error {
	limit, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("it did not answer within %s", startTime))
	defer cancel()
	if h := r.svc.container.image.Config.Healthcheck; h != nil && len(h.Test) > 0 && h.Test[0] != "NONE" {
		return s.awaitCheck(limit, r)
	}
	for _, p := range r.svc.ports {
		if p.unchecked || p.udp { // a datagram nobody takes is not noticed
			continue
		}
		if err := s.awaitPort(limit, r, stepexec.Port{Number: p.number}); err != nil {
			return fmt.Errorf("waiting for port %s: %w", p.key(), err)
		}
	}
	return s.awaitStart(limit, r)
}

func (s *Server) awaitPort(ctx context.Context, r *running, p stepexec.Port) error {
	return poll(ctx, 10*time.Millisecond, 500*time.Millisecond, func() bool {
		conn, err := s.services.dial(ctx, r.svc, r, p)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// awaitStart waits until there is a process.
func (s *Server) awaitStart(ctx context.Context, r *running) error {
	return poll(ctx, 5*time.Millisecond, 100*time.Millisecond, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.id != ""
	})
}

// poll asks again and again, ever more slowly, until the answer is yes.
func poll(ctx context.Context, first, last time.Duration, yes func() bool) error {
	for wait := first; ; wait = min(2*wait, last) {
		if yes() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// awaitCheck runs the container's HEALTHCHECK beside the service until it
// succeeds, or has failed too often.
func (s *Server) awaitCheck(ctx context.Context, r *running) error {
	if err := s.awaitStart(ctx, r); err != nil {
		return err
	}
	h := r.svc.container.image.Config.Healthcheck
	interval, retries := 5*time.Second, 3
	if h.Interval > 0 {
		interval = h.Interval
	}
	if h.StartInterval > 0 {
		interval = h.StartInterval
	}
	if h.Retries > 0 {
		retries = h.Retries
	}
	patience := time.Now().Add(h.StartPeriod)
	for failed := 0; ; {
		out, err := s.check(ctx, r)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(patience) {
			failed++
		}
		if failed >= retries {
			// not as a cause: it is not the service that exited
			return fmt.Errorf("its health check failed %d times: %v\n%s", failed, err, lastLines(out, 5)) //nolint:errorlint // see above
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(interval):
		}
	}
}

// check runs the HEALTHCHECK once.
func (s *Server) check(ctx context.Context, r *running) (string, error) {
	c := r.svc.container
	h := c.image.Config.Healthcheck
	words := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		shell := c.image.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		words = append(append([]string{}, shell...), words...)
	}
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.Timeout)
		defer cancel()
	}
	env := append([]string{}, c.image.Config.Env...)
	for _, e := range c.secretEnv {
		value, err := s.secrets.GetSecret(ctx, e.secret.id)
		if err != nil {
			return "", err
		}
		env = append(env, e.name+"="+string(value))
	}
	_, ids := c.secretEnvs()
	var buf bytes.Buffer
	out := newRedactor(s.secrets.byIDs(ids)).redact(nopCloser{&buf})
	err := s.processes.Exec(ctx, r.id, executor.ProcessInfo{
		Meta:   executor.Meta{Args: words, Env: withPath(env, c.platform), User: c.image.Config.User, Cwd: c.image.Config.WorkingDir},
		Stdout: out, Stderr: out,
	})
	_ = out.Close()
	return buf.String(), err
}

func withPath(env []string, p ocispecs.Platform) []string {
	if _, ok := lookupEnv(env, "PATH"); ok {
		return env
	}
	return append(env, "PATH="+defaultPath(p))
}
