package core

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeGateway speaks the gateway's side of the protocol: it serves the mirror
// host and refuses every other.
type fakeGateway struct {
	path string
	mu   sync.Mutex
	ctl  map[string]net.Conn
	ends []string // what steps said at their end
	name map[string]string
}

func newGateway(t *testing.T) *fakeGateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &fakeGateway{path: filepath.Join(dir, "s"), ctl: map[string]net.Conn{}, name: map[string]string{}}
	l, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(c)
		}
	}()
	return g
}

func (g *fakeGateway) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	var h struct{ Kind, Proto, Step, Name string }
	line, err := in.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &h) != nil {
		return
	}
	if h.Kind == "step" {
		g.mu.Lock()
		g.ctl[h.Step], g.name[h.Step] = c, h.Name
		g.mu.Unlock()
		end, _ := in.ReadString('\n')
		g.mu.Lock()
		g.ends = append(g.ends, strings.TrimSpace(end))
		g.mu.Unlock()
		return
	}
	url := "https://unknown/"
	if h.Proto == "http" {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.Host == "mirror.drydock.internal" {
			body := "mirror has " + r.URL.Path
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
			return
		}
		url = "http://" + r.Host + r.URL.Path
	}
	g.mu.Lock()
	ctl := g.ctl[h.Step]
	g.mu.Unlock()
	if ctl != nil {
		fmt.Fprintf(ctl, `{"refused":{"url":%q,"rule":"egress/mirror-only","reason":"not a mirror","remedy":"use the mirror"}}`+"\n", url)
	}
	fmt.Fprint(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

func TestGateway(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	g := newGateway(t)
	c := startChild(t, ChildConfig{GatewaySocket: g.path})
	run := func(t *testing.T, s stepSpec) outcome {
		t.Helper()
		return do(t, c.Socket, task{Dir: root, Steps: []stepSpec{s}})
	}
	t.Run("mirror", func(t *testing.T) {
		out := run(t, sh("wget -q -O- http://mirror.drydock.internal/debian/x; env | grep -i -E 'proxy|npm' | wc -l"))
		wantLogs(t, out, "mirror has /debian/x", "10\n")
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.ends) == 0 || g.ends[len(g.ends)-1] != `{"ok":true}` {
			t.Errorf("the gateway heard %q", g.ends)
		}
		if len(out.Steps) != 1 || !strings.HasPrefix(g.name[out.Steps[0]], "RUN /bin/sh") {
			t.Errorf("steps %q, the gateway knows %q", out.Steps, g.name)
		}
	})
	t.Run("refused", func(t *testing.T) {
		start := time.Now()
		out := run(t, sh("wget http://example.invalid/file; sleep 30"))
		wantErr(t, out, "refused http://example.invalid/file by rule egress/mirror-only: not a mirror", "use the mirror")
		if !strings.Contains(out.Logs, "drydock: refused http://example.invalid/file by rule") {
			t.Errorf("output: %s", out.Logs)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("it took %s", d)
		}
	})
	t.Run("refused without proxy variables", func(t *testing.T) {
		out := run(t, sh("unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; wget -q http://example.invalid/direct; true"))
		wantErr(t, out, "refused http://example.invalid/direct")
	})
	t.Run("swallowed refusal fails all the same", func(t *testing.T) {
		wantErr(t, run(t, sh("wget -q http://example.invalid/a || true")), "refused http://example.invalid/a")
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.ends[len(g.ends)-1] != `{"ok":false}` {
			t.Errorf("the gateway heard %q", g.ends)
		}
	})
	t.Run("name lookups are told", func(t *testing.T) {
		// apt asks for the services of every host, the gateway's, too
		out := run(t, sh("nslookup -type=srv _http._tcp.mirror.drydock.internal; nslookup -type=a db.example.invalid; echo; exit 3"))
		wantErr(t, out, "exit code: 3", "name lookups: db.example.invalid (")
		if !strings.Contains(out.Logs, "198.18.0.1") {
			t.Errorf("output: %s", out.Logs)
		}
	})
	t.Run("none", func(t *testing.T) {
		s := sh("env; cat /etc/resolv.conf; wget -T 2 -q http://mirror.drydock.internal/ || echo unreachable")
		s.Env = map[string]string{"DRYDOCK_NETWORK": "none"}
		out := run(t, s)
		wantLogs(t, out, "unreachable", "no network")
		if strings.Contains(out.Logs, "DRYDOCK") || strings.Contains(out.Logs, "http_proxy") {
			t.Errorf("output: %s", out.Logs)
		}
		s.NoNetwork, s.Env = true, nil
		wantLogs(t, run(t, s), "unreachable")
	})
}

func TestGatewayAway(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	c := startChild(t, ChildConfig{GatewaySocket: "/nonexistent/gateway"})
	out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh("true")}})
	wantErr(t, out, "reaching the mirror gateway")
}
