package core

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"drydock/modules/artifact"
)

func wantLogs(t *testing.T, out outcome, lines ...string) {
	t.Helper()
	if out.Err != "" {
		t.Fatalf("failed: %s\n%s", out.Err, out.Logs)
	}
	for _, l := range lines {
		if !strings.Contains(out.Logs, l) {
			t.Errorf("output lacks %q:\n%s", l, out.Logs)
		}
	}
}

func wantErr(t *testing.T, out outcome, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out.Err, p) {
			t.Errorf("error lacks %q: %q\n%s", p, out.Err, out.Logs)
		}
	}
}

func TestSteps(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	c := startChild(t, ChildConfig{})
	run := func(t *testing.T, steps ...stepSpec) outcome {
		t.Helper()
		return do(t, c.Socket, task{Dir: root, Steps: steps})
	}
	t.Run("output", func(t *testing.T) {
		wantLogs(t, run(t, sh("echo out; echo err >&2; id; hostname; cat /etc/hosts")),
			"out\n", "err\n", "uid=0(root)", "drydock\n", "127.0.0.1\tlocalhost")
	})
	t.Run("exit code", func(t *testing.T) {
		wantErr(t, run(t, sh("echo before; exit 7")), "exit code: 7")
	})
	t.Run("signal", func(t *testing.T) {
		wantErr(t, run(t, sh("kill -KILL $$")), "exit code: 137", "killed")
	})
	t.Run("no such command", func(t *testing.T) {
		wantErr(t, run(t, stepSpec{Args: []string{"nothing-here"}}), `"nothing-here": executable file not found in PATH`)
	})
	t.Run("cached the second time", func(t *testing.T) {
		chain := []stepSpec{sh("echo $RANDOM > /made"), sh("cat /made")}
		first, second := run(t, chain...), run(t, chain...)
		wantLogs(t, first)
		wantLogs(t, second)
		if second.Cached < 2 || second.Logs != "" {
			t.Errorf("second run: %+v", second)
		}
	})
	t.Run("cache mount", func(t *testing.T) {
		put, get := sh("mkdir -p /c/d; echo kept > /c/d/f"), sh("cat /c/d/f")
		put.CacheMount, get.CacheMount = "/c", "/c"
		wantLogs(t, run(t, put))
		wantLogs(t, run(t, get), "kept\n")
	})
	t.Run("secret", func(t *testing.T) {
		s := sh("cat /run/secrets/token; echo x >> /run/secrets/token || echo read-only")
		s.Secret = "token"
		wantLogs(t, run(t, s), "s3cret", "read-only")
		wantLogs(t, run(t, s, sh("ls -A /run/secrets 2>/dev/null | wc -l")), "0\n")
	})
	t.Run("user and directory", func(t *testing.T) {
		s := sh("id; pwd; touch here && stat -c %u here; echo $HOME; grep CapEff /proc/self/status")
		s.User, s.Dir = "app", "/srv/work"
		wantLogs(t, run(t, s), "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)", "/srv/work\n1000\n/home/app\n",
			"CapEff:\t0000000000000000")
	})
	t.Run("unknown user", func(t *testing.T) {
		s := sh("true")
		s.User = "nobody-here"
		wantErr(t, run(t, s), `finding user "nobody-here"`)
	})
	t.Run("read-only root", func(t *testing.T) {
		s := sh("touch /x || echo refused; touch /out/y && echo written")
		s.ReadOnly = true
		wantLogs(t, run(t, s), "refused", "written")
	})
	t.Run("other platform", func(t *testing.T) {
		s := sh("true")
		s.Platform = "linux/arm64"
		wantErr(t, run(t, s), "cannot execute linux/arm64", "BUILDPLATFORM")
	})
	t.Run("nothing left in the layer", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh("echo x > /etc/made")}, Export: dir})
		wantLogs(t, out)
		entries, err := os.ReadDir(filepath.Join(dir, "etc"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != "group made passwd" {
			t.Errorf("etc holds %s", got)
		}
	})
	t.Run("process limit", func(t *testing.T) {
		out := run(t, sh("cat /proc/self/cgroup | grep drydock- || echo none"))
		wantLogs(t, out)
		t.Logf("groups: %s", out.Logs)
		left, _ := filepath.Glob("/sys/fs/cgroup/pids/drydock-*")
		if len(left) > 0 {
			t.Logf("groups of other engines: %q", left)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				want := fmt.Sprintf("step-%d", i)
				if out := run(t, sh("sleep 0.3; echo "+want)); out.Err != "" || out.Logs != want+"\n" {
					t.Errorf("%s: %+v", want, out)
				}
			})
		}
		wg.Wait()
	})
	t.Run("cancelled", func(t *testing.T) {
		s := sh("trap '' TERM INT; sleep 5 & sleep 77.5; echo survived")
		if out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{s}, Cancel: 700 * time.Millisecond}); out.Err == "" {
			t.Error("it ended well")
		}
		for end := time.Now().Add(5 * time.Second); len(processes(t, "sleep 77.5")) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("still there: %q", processes(t, "sleep 77.5"))
			}
		}
	})
	t.Run("no network", func(t *testing.T) {
		wantErr(t, run(t, sh("ls /sys/class/net; wget -T 2 http://192.0.2.1/")), "exit code: 1")
	})
	t.Run("hostile", func(t *testing.T) { hostile(t, c, root) })
}

// hostile: what a step tries on the engine and the host must fail. Each probe
// prints its name only when it got through.
func hostile(t *testing.T, c *Child, root string) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := strings.Join([]string{
		"cat /proc/1/environ >/dev/null 2>&1 && echo BAD-environ",
		"ls /proc/1/fd/ >/dev/null 2>&1 && ls /proc/1/fd/* >/dev/null 2>&1 && echo BAD-fds",
		"ls /proc/1/root/ >/dev/null 2>&1 && echo BAD-root",
		"head -c 4 /proc/1/mem >/dev/null 2>&1 && echo BAD-mem",
		"cat " + canary + " >/dev/null 2>&1 && echo BAD-canary",
		"test -e " + filepath.Dir(c.Socket) + " && echo BAD-state",
		"mount -t tmpfs none /tmp 2>/dev/null && echo BAD-mount",
		"unshare -U true 2>/dev/null && echo BAD-userns",
		"unshare -m true 2>/dev/null && echo BAD-mntns",
		"echo x > /proc/sys/kernel/core_pattern 2>/dev/null && echo BAD-sysctl",
		"echo h > /proc/sysrq-trigger 2>/dev/null && echo BAD-sysrq",
		"mknod /tmp/disk b 254 0 2>/dev/null && dd if=/tmp/disk of=/dev/null count=1 2>/dev/null && echo BAD-disk",
		"mknod /dev/disk b 254 0 2>/dev/null && dd if=/dev/disk of=/dev/null count=1 2>/dev/null && echo BAD-devdisk",
		"mknod /tmp/zero c 1 5 2>/dev/null && dd if=/tmp/zero of=/dev/null count=1 2>/dev/null && echo BAD-device",
		"ls /proc/self/fd | wc -l", // 0 1 2 and ls's own
		"kill -KILL 1; kill -TERM 1; sleep 0.2; echo alive",
		"for p in /proc/[0-9]*; do cat $p/cmdline | tr '\\0' ' '; done",
		"grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status",
		"ls /dev",
		"env",
	}, "\n")
	out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh(script)}})
	wantLogs(t, out, "\n4\n", "alive\n", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "Seccomp:\t2")
	t.Log(out.Logs)
	for _, l := range strings.Split(out.Logs, "\n") {
		if strings.HasPrefix(l, "BAD-") {
			t.Error(l)
		}
	}
	if strings.Contains(out.Logs, "TMPDIR") || strings.Contains(out.Logs, "__drydock-engine") {
		t.Errorf("the engine shows:\n%s", out.Logs)
	}
}

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
		wantLogs(t, out, "mirror has /debian/x", "8\n")
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
		out := run(t, sh("nslookup -type=a db.example.invalid; echo; exit 3"))
		wantErr(t, out, "exit code: 3", "name lookups: db.example.invalid")
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

func TestDockerfile(t *testing.T) {
	needT1(t)
	c := startChild(t, ChildConfig{})
	build := func(t *testing.T, text string, opts map[string]string) outcome {
		t.Helper()
		root := busyboxRoot(t)
		if err := os.WriteFile(filepath.Join(root, "Dockerfile"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if opts == nil {
			opts = map[string]string{}
		}
		return do(t, c.Socket, task{Dir: root, Dockerfile: true, Opts: opts})
	}
	base := "FROM scratch AS base\nCOPY . /\n"
	t.Run("run", func(t *testing.T) {
		wantLogs(t, build(t, base+"RUN echo built > /made\nUSER app\nWORKDIR /w\nRUN cat /made; id -un; pwd\n", nil), "built\napp\n/w\n")
	})
	t.Run("mounts and heredoc", func(t *testing.T) {
		wantLogs(t, build(t, base+"RUN --mount=type=tmpfs,target=/t --mount=type=bind,source=/etc/passwd,target=/p,ro <<X\n"+
			"mount | grep -c ' /t '\nhead -n 1 /p\nX\n", nil), "1\nroot:x:0:0")
	})
	t.Run("dockerfile syntax line", func(t *testing.T) {
		wantLogs(t, build(t, "# syntax=docker/dockerfile:1.7\n"+base+"RUN echo syntax-ok\n", nil), "syntax-ok")
	})
	t.Run("other syntax image", func(t *testing.T) {
		wantErr(t, build(t, "# syntax=example.invalid/tool:1\n"+base, nil), "a frontend from an image is not run", "example.invalid/tool:1")
	})
	t.Run("image from elsewhere", func(t *testing.T) {
		wantErr(t, build(t, "FROM registry.example.invalid/alpine:3\nRUN true\n", nil), "refused by rule egress/mirror-only", "registry.example.invalid")
	})
	t.Run("file from elsewhere", func(t *testing.T) {
		wantErr(t, build(t, base+"ADD https://example.invalid/x /x\n", nil), "refused by rule egress/mirror-only", "https://example.invalid/x")
	})
	t.Run("repository from elsewhere", func(t *testing.T) {
		wantErr(t, build(t, base+"ADD https://example.invalid/x.git /x\n", nil), "refused by rule egress/mirror-only")
	})
	t.Run("base and cross build", func(t *testing.T) {
		addr, digest := baseRegistry(t, busyboxRoot(t))
		c = startChild(t, ChildConfig{ImagesAddr: addr})
		from := "base.drydock.internal/tools/busybox@" + digest
		text := "FROM --platform=$BUILDPLATFORM " + from + " AS build\nARG TARGETARCH\nRUN echo for $TARGETARCH on $ON > /out; cat /out\n" +
			"FROM scratch\nCOPY --from=build /out /out\n"
		wantLogs(t, build(t, text, map[string]string{"platform": "linux/arm64"}), "for arm64 on amd64")
		wantErr(t, build(t, base+"RUN true\n", map[string]string{"platform": "linux/arm64"}), "cannot execute linux/arm64")
		wantLogs(t, build(t, "FROM "+addr+"/tools/busybox@"+digest+"\nRUN echo loopback-ok\n", nil), "loopback-ok")
	})
}

// baseRegistry serves an image of the root on a loopback registry.
func baseRegistry(t *testing.T, root string) (addr, digest string) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	addr = strings.TrimPrefix(srv.URL, "http://")
	archive, err := exec.Command("tar", "-C", root, "--owner=0", "--group=0", "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.Env = "linux", "amd64", []string{"ON=amd64", "PATH=/bin"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(addr + "/tools/busybox:x")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return addr, d.String()
}

func TestLockConflict(t *testing.T) {
	needT1(t)
	root := stateDir(t)
	first := startChild(t, ChildConfig{Root: root})
	start := time.Now()
	_, err := StartChild(t.Context(), ChildConfig{Root: root, LockWait: 300 * time.Millisecond, Environ: os.Environ()})
	var e *artifact.Error
	if !errors.As(err, &e) || e.Kind != artifact.KindFault || !strings.Contains(e.Message, strconv.Itoa(os.Getpid())) || e.Remedy == "" {
		t.Fatalf("got %#v", err)
	}
	if time.Since(start) > 15*time.Second {
		t.Error("it hung")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	startChild(t, ChildConfig{Root: root})
}

func TestStateSurvivesRestart(t *testing.T) {
	needT1(t)
	root, state := busyboxRoot(t), stateDir(t)
	job := task{Dir: root, Steps: []stepSpec{sh("echo once")}}
	first := startChild(t, ChildConfig{Root: state})
	wantLogs(t, do(t, first.Socket, job), "once")
	if err := first.Close(); err != nil || first.Err() != nil {
		t.Fatal(err, first.Err())
	}
	if _, err := os.Stat(first.Socket); err == nil {
		t.Error("the socket is still there")
	}
	second := startChild(t, ChildConfig{Root: state})
	if out := do(t, second.Socket, job); out.Err != "" || out.Logs != "" {
		t.Errorf("ran again: %+v", out)
	}
}

// TestKilledParent kills a program that runs a step and looks for survivors:
// the step holds a file open that is marked by a lock nobody else has.
func TestKilledParent(t *testing.T) {
	needT1(t)
	root, state := busyboxRoot(t), stateDir(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "DRYDOCK_TEST_STATE="+state, "DRYDOCK_TEST_ROOT="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	marker := "31415.926" + strconv.Itoa(os.Getpid())
	sc := bufio.NewScanner(out)
	for sc.Scan() && !strings.Contains(sc.Text(), "serving") {
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(processes(t, marker)) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the step did not start")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline = time.Now().Add(5 * time.Second)
	for len(processes(t, marker)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %q", processes(t, marker))
		}
		time.Sleep(20 * time.Millisecond)
	}
	// the engine held the lock as long as it lived
	unlock, err := lock(t.Context(), Options{Root: state, LockWait: 5 * time.Second})
	if err != nil {
		t.Fatalf("the engine is still there: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	// and the next engine starts on what was left
	next := startChild(t, ChildConfig{Root: state})
	wantLogs(t, do(t, next.Socket, task{Dir: root, Steps: []stepSpec{sh("echo again")}}), "again")
}

// helperParent is the program that TestKilledParent kills.
func helperParent(state, root string) error {
	c, err := StartChild(context.Background(), ChildConfig{Root: state, Environ: os.Environ()})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	conn, err := net.Dial("unix", c.Socket)
	if err != nil {
		return err
	}
	sleep := "sleep 31415.926" + strconv.Itoa(os.Getppid())
	if err := json.NewEncoder(conn).Encode(task{Dir: root, Steps: []stepSpec{sh("(" + sleep + ") & " + sleep)}}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// processes lists the command lines that have the word.
func processes(t *testing.T, word string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range all {
		b, err := os.ReadFile(p)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return out
}

func TestProbe(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes; not in short mode")
	}
	r, err := Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Logf("%+v", f)
		if !f.OK && f.Remedy == "" {
			t.Errorf("no remedy for %s", f.Name)
		}
	}
}

// TestOrdinaryUser runs the tests of this package again as a user who has
// subordinate ids.
func TestOrdinaryUser(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the other tests again; not in short mode")
	}
	if os.Getuid() != 0 {
		t.Skip("this already is an ordinary user")
	}
	who, uid, gid := subordinateUser()
	if who == "" {
		t.Skip("no ordinary user with 65536 subordinate ids in /etc/subuid and /etc/subgid")
	}
	if _, err := findHelper("newuidmap", os.Environ()); err != nil {
		t.Skip("newuidmap is not installed (package uidmap)")
	}
	dir, err := os.MkdirTemp("", "drydock-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "core.test")
	if err := errors.Join(os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.v", "-test.run=^(TestSteps|TestGateway|TestDockerfile|TestLockConflict|TestStateSurvivesRestart|TestKilledParent|TestProbe)$")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "USER=" + who}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(string(out), "--- SKIP: TestSteps") {
		t.Errorf("user %s has subordinate ids, yet the engine does not start", who)
	}
}

func subordinateUser() (name string, uid, gid uint32) {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", 0, 0
	}
	sub, _ := os.ReadFile("/etc/subuid")
	subg, _ := os.ReadFile("/etc/subgid")
	for _, l := range strings.Split(string(passwd), "\n") {
		f := strings.Split(l, ":")
		if len(f) < 7 || f[2] == "0" || !strings.Contains("\n"+string(sub), "\n"+f[0]+":") || !strings.Contains("\n"+string(subg), "\n"+f[0]+":") {
			continue
		}
		u, err1 := strconv.ParseUint(f[2], 10, 32)
		g, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			return f[0], uint32(u), uint32(g)
		}
	}
	return "", 0, 0
}
