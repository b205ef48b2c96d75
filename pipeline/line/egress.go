package line

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"dagger.io/dagger"

	"drydock/modules/steprun"
	"drydock/modules/steprun/wire"
)

// An engine of others gives steps its own network. What that is is tried once a
// run, by a step that connects to where the mirrors really are: one that gets
// there, past the gateway, is let out.
const (
	egressOpen   = "open"
	egressClosed = "closed"
)

// egress says whether steps are let out; "" where nothing can be tried.
type egress struct{ state, text string }

func (l *Line) openEgress() (*egress, error) {
	e, step, err := l.worker()
	if err != nil {
		return nil, err
	}
	l.note("the %s engine gives steps its own network: what it builds is not hermetic, and the provenance says so", e.Kind)
	set, err := l.mirrors.get()
	if err != nil {
		return nil, err
	}
	call := steprun.Call{
		Binary: step, Args: []string{"reach", "--out-json", "/out/reach.json"},
		Env: map[string]string{"DRYDOCK_TRIED": strconv.FormatInt(time.Now().UnixNano(), 10)}, // not what an earlier run found
	}
	var hosts []string
	for _, m := range set.Endpoints() {
		if host := hostPort(m.URL); host != "" && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
			call.Args = append(call.Args, "--address", host)
		}
	}
	if len(hosts) == 0 {
		return &egress{}, nil
	}
	return tried(steprun.Container(e.Client, call), l)
}

func tried(ctr *dagger.Container, l *Line) (*egress, error) {
	raw, err := ctr.File("/out/reach.json").Contents(l.ctx)
	if err != nil {
		l.note("whether the engine lets steps out could not be tried: %v", steprun.Explain(l.ctx, "trying the network of steps", "", err))
		return &egress{}, context.Cause(l.ctx)
	}
	var r wire.Reach
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		return nil, fmt.Errorf("reading what a step reached: %w", err)
	}
	out := &egress{egressClosed, "and reached none of " + strings.Join(r.Tried, ", ")}
	if len(r.Reached) > 0 {
		out = &egress{egressOpen, "and reached " + strings.Join(r.Reached, ", ") + " past the gateway"}
	}
	l.note("a step tried the engine's network %s", out.text)
	return out, nil
}

// hostPort is where an address leads, "" for none.
func hostPort(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if port == "" {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), port)
}
