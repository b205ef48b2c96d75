//go:build linux

package front

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// service is something that answers on ports: a container that runs while it
// is needed, ports of the host, or a service as the host sees it.
type service struct {
	node
	key      string // what it consists of: equal services are one
	hostname string
	ports    []port

	// one of these
	container *container
	args      []string
	host      []forward // of ports to ports of the host's loopback
	upstream  *service  // a tunnel from the host
	tunnel    []forward
}

// forward is one port that stands for another.
type forward struct{ front, back port }

func (*service) typeName() string { return "Service" }

func (s *service) withRecipe(r *recipe) object {
	c := *s
	c.recipe = r
	return &c
}

// binding is a service that a container's commands reach.
type binding struct {
	alias   string
	service *service
}

// The variables by which a step tells the executor of its services. They never
// reach the process.
const (
	bindingsEnv = "_DRYDOCK_SERVICES" // alias=key,…: part of what the step is cached by
	serviceEnv  = "_DRYDOCK_SERVICE"  // whose service the process is, and its key
)

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

func checkHostname(k *call, name string) error {
	if !hostPattern.MatchString(name) {
		return usage(fmt.Sprintf("%s.%s: %q is not a host name", k.typ, k.field, name), "use letters, digits, dots and dashes")
	}
	return nil
}

const asServiceParams = "args:l useEntrypoint:b expand:b noInit:b insecureRootCapabilities:b experimentalPrivilegedNesting:b"

// containerServiceFields are the fields by which containers serve and are served.
func containerServiceFields() map[string]field {
	return map[string]field{
		"asService": on(asServiceParams, asService),
		"up": on("random:b ports:m "+asServiceParams, func(ctx context.Context, k *call, c *container) (any, error) {
			made, err := asService(ctx, k, c)
			if err != nil {
				return nil, err
			}
			s, _ := made.(*service)
			return nil, k.up(ctx, s)
		}),
		"withServiceBinding": on("alias:s! service:o!", func(ctx context.Context, k *call, c *container) (any, error) {
			svc, err := objectArg[*service](ctx, k, "service")
			if err != nil {
				return nil, err
			}
			if err := checkHostname(k, k.str("alias")); err != nil {
				return nil, err
			}
			if svc.upstream != nil {
				return nil, usage("Container.withServiceBinding: a tunnel leads from the host to a service: bind the service itself", "")
			}
			d := c.clone()
			d.bindings = slices.DeleteFunc(d.bindings, func(b binding) bool { return b.alias == k.str("alias") })
			d.bindings = append(d.bindings, binding{alias: k.str("alias"), service: svc})
			return d, nil
		}),
	}
}

// bound is the container's services as the executor is told of them.
func (c *container) bound() string {
	var out []string
	for _, b := range c.bindings {
		out = append(out, b.alias+"="+b.service.key)
	}
	return strings.Join(out, ",")
}

func asService(ctx context.Context, k *call, c *container) (any, error) {
	if k.flag("insecureRootCapabilities") || k.flag("experimentalPrivilegedNesting") {
		return nil, notHere("a service with more privileges than its container (insecureRootCapabilities, experimentalPrivilegedNesting of Container.asService)")
	}
	words, err := c.serviceCommand(k)
	if err != nil {
		return nil, err
	}
	svc := &service{container: c, args: words, ports: c.exposedPorts()}
	parts := []any{"service", words, c.image.Config, c.platform, c.bound()}
	key, err := stateKey(ctx, c.fs, c.platform)
	if err != nil {
		return nil, err
	}
	parts = append(parts, key)
	for _, m := range c.mounts {
		if key, err = stateKey(ctx, m.source.state, c.platform); err != nil {
			return nil, err
		}
		parts = append(parts, key, m.target, m.source.path, m.cache, m.sharing, m.tmpfs, m.size, m.readonly)
		if m.secret != nil {
			parts = append(parts, m.secret.id)
		}
	}
	for _, s := range c.secretEnv {
		parts = append(parts, s.name, s.secret.id)
	}
	for _, p := range svc.ports {
		parts = append(parts, p.key(), p.unchecked)
	}
	svc.key = keyOf(parts...)
	svc.hostname = "svc-" + svc.key[:16]
	k.services.know(svc)
	return svc, nil
}

// serviceCommand is what a service runs: arguments, else the container's own
// command, to which its entrypoint belongs.
func (c *container) serviceCommand(k *call) ([]string, error) {
	words := k.strs("args")
	entrypoint := k.flag("useEntrypoint") || len(words) == 0
	if len(words) == 0 {
		words = c.image.Config.Cmd
	}
	if entrypoint {
		words = append(slices.Clone(c.image.Config.Entrypoint), words...)
	}
	if len(words) == 0 {
		return nil, usage("no command has been set", "give asService arguments, or the container default arguments")
	}
	out := make([]string, len(words))
	for i, w := range words {
		var err error
		if out[i], err = c.expand(k, w); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func serviceFields() map[string]field {
	return map[string]field{
		"hostname": on("", func(_ context.Context, k *call, s *service) (any, error) {
			if s.upstream != nil {
				return loopback, nil
			}
			return s.hostname, nil
		}),
		"withHostname": on("hostname:s!", func(_ context.Context, k *call, s *service) (any, error) {
			if err := checkHostname(k, k.str("hostname")); err != nil {
				return nil, err
			}
			d := *s
			d.recipe = nil
			d.hostname = k.str("hostname")
			d.key = keyOf("hostname", s.key, d.hostname)
			k.services.know(&d)
			return &d, nil
		}),
		"ports": on("", func(_ context.Context, k *call, s *service) (any, error) {
			out := []object{}
			for _, p := range k.services.portsOf(s) {
				out = append(out, p.record())
			}
			return out, nil
		}),
		"endpoint": on("port:i scheme:s", serviceEndpoint),
		"up":       on("ports:m random:b", func(ctx context.Context, k *call, s *service) (any, error) { return nil, k.up(ctx, s) }),
		"sync":     on("", func(_ context.Context, _ *call, s *service) (any, error) { return s.made().id() }),
		"start": on("", func(ctx context.Context, k *call, s *service) (any, error) {
			if err := k.services.start(ctx, s); err != nil {
				return nil, err
			}
			return s.made().id()
		}),
		"stop": on("kill:b", func(ctx context.Context, k *call, s *service) (any, error) {
			if err := k.services.stop(ctx, s, k.flag("kill")); err != nil {
				return nil, err
			}
			return s.made().id()
		}),
	}
}

func serviceEndpoint(_ context.Context, k *call, s *service) (any, error) {
	ports := k.services.portsOf(s)
	host, number := s.hostname, k.num("port")
	if s.upstream != nil {
		host = loopback
		if ports == nil {
			return nil, usage("Service.endpoint: the tunnel is not running", "call start first")
		}
	}
	if number == 0 {
		if len(ports) == 0 {
			return nil, usage("no ports exposed", "call withExposedPort before asService, or give endpoint a port")
		}
		number = ports[0].number
	}
	endpoint := net.JoinHostPort(host, strconv.Itoa(number))
	if scheme := k.str("scheme"); scheme != "" {
		endpoint = scheme + "://" + endpoint
	}
	return endpoint, nil
}

// forwards reads the argument ports.
func forwards(k *call) ([]forward, error) {
	var out []forward
	list, _ := k.args["ports"].([]any)
	for _, e := range list {
		m, _ := e.(map[string]any)
		one := func(name string) (int, bool) {
			n, given := m[name].(int64)
			return int(n), !given || n >= 0 && n < 1<<16
		}
		front, ok1 := one("frontend")
		back, ok2 := one("backend")
		protocol, _ := m["protocol"].(string)
		udp := strings.EqualFold(protocol, "udp")
		if !ok1 || !ok2 || back == 0 || protocol != "" && !udp && !strings.EqualFold(protocol, "tcp") {
			return nil, usage(fmt.Sprintf("%s.%s: a port forward is not one of ports", k.typ, k.field), "give a backend port, and TCP or UDP")
		}
		out = append(out, forward{front: port{number: front, udp: udp}, back: port{number: back, udp: udp}})
	}
	return out, nil
}

// loopback is the only host that services of the host are on, and the only
// one on which tunnels listen.
const loopback = "127.0.0.1"

// hostService is ports of this machine. Other machines are refused: steps
// reach nothing but the mirrors, and what the client itself runs for them.
func hostService(_ context.Context, k *call, _ *hostObject) (any, error) {
	host := k.str("host")
	if ip := net.ParseIP(host); host != "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, notHere(fmt.Sprintf("Host.service for %s: only ports of this machine can be given to steps; a host beyond it", host))
	}
	list, err := forwards(k)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, usage("Host.service: no ports are given", "")
	}
	if host == "" || host == "localhost" {
		host = loopback
	}
	svc := &service{}
	for _, f := range list {
		if f.front.number == 0 {
			f.front.number = f.back.number
		}
		svc.host, svc.ports = append(svc.host, f), append(svc.ports, f.front)
	}
	svc.key = keyOf("host", host, fmt.Sprint(svc.host))
	svc.hostname = "host-" + svc.key[:16]
	svc.args = []string{host}
	k.services.know(svc)
	return svc, nil
}

// hostTunnel is a service as this machine sees it, on loopback.
func hostTunnel(ctx context.Context, k *call, _ *hostObject) (any, error) {
	up, err := objectArg[*service](ctx, k, "service")
	if err != nil {
		return nil, err
	}
	if up.upstream != nil {
		return nil, usage("Host.tunnel: the service is a tunnel already", "")
	}
	return k.tunnelTo(up, k.flag("native"))
}

// up is a tunnel that is there until the caller gives up or the service ends.
func (c *call) up(ctx context.Context, s *service) error {
	ports, _ := c.args["ports"].([]any)
	through, err := c.tunnelTo(s, !c.flag("random") && len(ports) == 0)
	if err != nil {
		return err
	}
	own, leave, err := c.services.use(ctx, s)
	if err != nil {
		return err
	}
	defer leave()
	r, leaveTunnel, err := c.services.use(ctx, through)
	if err != nil {
		return err
	}
	defer leaveTunnel()
	defer r.end()
	var ended <-chan struct{} // nil: a host's, which nobody here ends
	if own != nil {
		ended = own.done
	}
	select {
	case <-ended:
		return own.err
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tunnelTo makes the tunnel to a service for the argument ports.
func (c *call) tunnelTo(up *service, native bool) (*service, error) {
	list, err := forwards(c)
	if err != nil {
		return nil, err
	}
	if native || len(list) == 0 {
		var all []forward
		for _, p := range up.ports {
			f := forward{front: port{udp: p.udp}, back: p}
			if native {
				f.front.number = p.number
			}
			all = append(all, f)
		}
		list = append(all, list...)
	}
	for _, f := range list {
		if f.back.udp {
			return nil, notHere("a tunnel for UDP (Host.tunnel)")
		}
	}
	if len(list) == 0 {
		return nil, usage(c.typ+"."+c.field+": the service has no ports to tunnel to", "call withExposedPort before asService, or give ports")
	}
	svc := &service{upstream: up, tunnel: list}
	svc.key = keyOf("tunnel", up.key, fmt.Sprint(list))
	c.services.know(svc)
	return svc, nil
}

// secretEnvs are the container's secret variables as BuildKit wants them.
func (c *container) secretEnvs() (envs []*pb.SecretEnv, ids []string) {
	for _, s := range c.secretEnv {
		envs = append(envs, &pb.SecretEnv{ID: s.secret.id, Name: s.name})
		ids = append(ids, s.secret.id)
	}
	for _, m := range c.mounts {
		if m.secret != nil {
			ids = append(ids, m.secret.id)
		}
	}
	for _, s := range c.built {
		ids = append(ids, s.id)
	}
	return envs, ids
}
