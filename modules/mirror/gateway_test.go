package mirror

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testGateway serves a set's gateway on a real unix socket.
func testGateway(t *testing.T, s *Set, cacheDir string) (*Gateway, string) {
	t.Helper()
	g := NewGateway(s, GatewayOptions{CacheDir: cacheDir, Log: testLog{t}})
	sock := filepath.Join(t.TempDir(), "gw")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return g, sock
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	fmt.Fprint(l.t.Output(), string(p))
	return len(p), nil
}

// greet opens a connection to the gateway with its first line.
func greet(t *testing.T, sock string, hello any) net.Conn {
	t.Helper()
	c, err := dialGreeting(sock, hello)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dialGreeting(sock string, hello any) (net.Conn, error) {
	c, err := net.Dial("unix", sock)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(hello)
	if err != nil {
		return nil, err
	}
	_, err = c.Write(append(line, '\n'))
	return c, err
}

type m = map[string]any

// stepClient is an HTTP client as a step has it: whatever name it asks for, it
// gets to the gateway; with proxy it asks in absolute form.
func stepClient(t *testing.T, sock, step string, proxy bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dialGreeting(sock, m{"kind": "conn", "proto": "http", "step": step})
		},
		DisableCompression: true,
	}
	if proxy {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: GatewayHost + ":80"})
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
}

// bridge is a TCP port that leads to the gateway, for real clients.
func bridge(t *testing.T, sock, step string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				up, err := dialGreeting(sock, m{"kind": "conn", "proto": "http", "step": step})
				if err != nil {
					return
				}
				defer up.Close()
				go func() { _, _ = io.Copy(up, c) }()
				_, _ = io.Copy(c, up)
			}()
		}
	}()
	return l.Addr().String()
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return resp, string(b)
}

const step1 = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// nextRefusal reads a control connection's next line.
func nextRefusal(t *testing.T, r *bufio.Reader) refusal {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Refused refusal }
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	return got.Refused
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

func contains1(t *testing.T, what, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("%s: no %q in %q", what, want, text)
	}
}
