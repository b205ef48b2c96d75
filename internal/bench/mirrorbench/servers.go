//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"drydock/modules/mirror"
)

// hello is how a connection of a step to the gateway begins.
const hello = `{"kind":"conn","proto":"http","step":"sha256:1111111111111111111111111111111111111111111111111111111111111111"}` + "\n"

// parallel is how many files a client fetches at once.
const parallel = 4

// serveGateway is the gateway over a content store, until the process is told to
// end.
func serveGateway(ctx context.Context, socket, upstream, cache string) error {
	set, err := mirror.Discover(ctx, mirror.Config{OCI: mirror.Setting{URLs: []string{upstream}}}, mirror.Host{Environ: os.Environ()}, cache)
	if err != nil {
		return err
	}
	g := mirror.NewGateway(set, mirror.GatewayOptions{CacheDir: cache})
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		_ = g.Close()
	}()
	return g.Serve(l)
}

// client asks one server.
type client struct {
	http *http.Client
	pid  int
}

func newClient(socket, first string, pid int) *client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil && first != "" {
			_, err = io.WriteString(c, first)
		}
		return c, err
	}
	return &client{http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: parallel, DisableCompression: true}}, pid: pid}
}

// fetch gets files and says how fast, in bytes a second. check compares each
// with its digest.
func (c *client) fetch(ctx context.Context, files []file, check bool) (float64, error) {
	var wg sync.WaitGroup
	errs := make([]error, parallel)
	start := time.Now()
	total := int64(0)
	for _, f := range files {
		total += f.size
	}
	for i := range parallel {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for j := i; j < len(files) && errs[i] == nil; j += parallel {
				errs[i] = c.one(ctx, files[j], check, buf)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(total) / time.Since(start).Seconds(), nil
}

func (c *client) one(ctx context.Context, f file, check bool, buf []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+mirror.GatewayHost+f.path(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sum := sha256.New()
	into := io.Discard
	if check {
		into = sum
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{into}, resp.Body, buf)
	if err != nil || resp.StatusCode != http.StatusOK || n != f.size || check && hex.EncodeToString(sum.Sum(nil)) != f.sum {
		return fmt.Errorf("%s: %s, %d bytes of %d: %w", f.path(), resp.Status, n, f.size, err)
	}
	return nil
}

// memory is a figure of the server's process, in bytes (proc(5), status).
func (c *client) memory(name string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("the kernel does not say %s", name)
}

func startGateway(ctx context.Context, tmp, upstream string) (*client, func(), error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(tmp, "gateway")
	pid, stop, err := start(exec.CommandContext(ctx, exe, "serve", socket, upstream, filepath.Join(tmp, "cache")), socket)
	return newClient(socket, hello, pid), stop, err
}

// nginxConf is a cache as its documentation has it, with what makes it fast.
const nginxConf = `daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr crit;
events { worker_connections 256; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 100000;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	proxy_cache_path %[1]s/nginx-cache levels=1:2 keys_zone=all:10m max_size=2g inactive=1d use_temp_path=off;
	server {
		listen unix:%[2]s;
		location / {
			proxy_pass %[3]s;
			proxy_cache all;
			proxy_cache_valid 200 1d;
			proxy_cache_lock on;
		}
	}
}
`

func startNginx(ctx context.Context, program, tmp, upstream string) (*client, func(), error) {
	socket, conf := filepath.Join(tmp, "nginx"), filepath.Join(tmp, "nginx.conf")
	text := fmt.Sprintf(nginxConf, tmp, socket, upstream)
	if os.Geteuid() == 0 {
		text = "user root;\n" + text // the files are ours
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	pid, stop, err := start(exec.CommandContext(ctx, program, "-p", tmp, "-e", "stderr", "-c", conf), socket)
	return newClient(socket, "", pid), stop, err
}

// start runs a server until stop, and waits until its socket is there.
func start(cmd *exec.Cmd, socket string) (pid int, stop func(), err error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is told to end
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			return cmd.Process.Pid, stop, nil
		}
		select {
		case <-ended:
			return 0, nil, fmt.Errorf("%s ended: %s\n%s", cmd.Path, cmd.ProcessState, out.String())
		default:
		}
	}
	stop()
	return 0, nil, fmt.Errorf("%s did not begin to listen\n%s", cmd.Path, out.String())
}

// version is what a program says of itself.
func version(program string) string {
	out, err := exec.Command(program, "-v").CombinedOutput()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "nginx version: "))
}
