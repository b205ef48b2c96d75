//go:build linux

package core

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/tonistiigi/fsutil"
)

func TestMain(m *testing.M) {
	if handled, code := ChildMain(os.Args, serveTasks); handled {
		os.Exit(code)
	}
	if len(os.Args) == 2 && os.Args[1] == argProbeReport {
		os.Exit(printReport())
	}
	if len(os.Args) == 4 && os.Args[1] == argOwners {
		os.Exit(printOwners(os.Args[2], os.Args[3]))
	}
	if state := os.Getenv("DRYDOCK_TEST_STATE"); state != "" {
		if err := helperParent(state, os.Getenv("DRYDOCK_TEST_ROOT")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// task is work done inside the engine child: solving the chain of steps over
// the root in Dir, or the Dockerfile there.
type task struct {
	Dir        string
	Steps      []stepSpec
	Dockerfile bool
	Opts       map[string]string // of the frontend
	Source     string            // image of the frontend; "" is the built-in one
	Export     string            // where the result's files go
	Image      string            // where the result goes as an image with its times rewritten
	Cancel     time.Duration     // after which it is cancelled; 0 never
}

// stepSpec is one RUN.
type stepSpec struct {
	Args       []string
	User       string
	Dir        string
	Env        map[string]string
	NoNetwork  bool
	CacheMount string
	Secret     string // mounted at /run/secrets/it
	ReadOnly   bool
	Platform   string // "" is that of the step before
}

// outcome is what a task gave.
type outcome struct {
	Logs   string
	Cached int
	Steps  []string // digests of the vertices that are RUNs
	Err    string
}

func serveTasks(ctx context.Context, c *Core, l net.Listener) error {
	go func() { <-ctx.Done(); l.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close()
			var t task
			if err := json.NewDecoder(conn).Decode(&t); err != nil {
				return
			}
			_ = json.NewEncoder(conn).Encode(doTask(ctx, c, t))
		})
	}
}

func (t task) definition(ctx context.Context) (*llb.Definition, error) {
	st := llb.Scratch().File(llb.Copy(llb.Local("root"), "/", "/"))
	for _, s := range t.Steps {
		opts := []llb.RunOption{llb.Args(s.Args), llb.WithCustomName("RUN " + strings.Join(s.Args, " "))}
		if s.User != "" {
			opts = append(opts, llb.User(s.User))
		}
		if s.Dir != "" {
			opts = append(opts, llb.Dir(s.Dir))
		}
		for k, v := range s.Env {
			opts = append(opts, llb.AddEnv(k, v))
		}
		if s.NoNetwork {
			opts = append(opts, llb.Network(llb.NetModeNone))
		}
		if s.CacheMount != "" {
			opts = append(opts, llb.AddMount(s.CacheMount, llb.Scratch(), llb.AsPersistentCacheDir("t"+s.CacheMount, llb.CacheMountShared)))
		}
		if s.Secret != "" {
			opts = append(opts, llb.AddSecret("/run/secrets/"+s.Secret, llb.SecretID(s.Secret)))
		}
		if s.ReadOnly {
			opts = append(opts, llb.ReadonlyRootFS())
		}
		if s.Platform != "" {
			p, err := platforms.Parse(s.Platform)
			if err != nil {
				return nil, err
			}
			opts = append(opts, llb.Platform(p))
		}
		next := st.Run(opts...)
		if !s.ReadOnly {
			st = next.Root()
			continue
		}
		st = next.AddMount("/out", llb.Scratch())
	}
	return st.Marshal(ctx)
}

func doTask(ctx context.Context, c *Core, t task) outcome {
	var out outcome
	if t.Cancel > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t.Cancel, context.Canceled)
		defer cancel()
	}
	fs, err := fsutil.NewFS(t.Dir)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	so := client.SolveOpt{
		LocalMounts: map[string]fsutil.FS{"root": fs, "context": fs, "dockerfile": fs},
		Session:     []session.Attachable{secretsprovider.FromMap(map[string][]byte{"token": []byte("s3cret")})},
	}
	if t.Export != "" {
		so.Exports = []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: t.Export}}
	}
	if t.Image != "" {
		so.Exports = []client.ExportEntry{{
			Type: client.ExporterDocker, Attrs: map[string]string{"rewrite-timestamp": "true"},
			Output: func(map[string]string) (io.WriteCloser, error) { return os.Create(t.Image) },
		}}
	}
	var def *llb.Definition
	if t.Dockerfile {
		so.Frontend, so.FrontendAttrs = "dockerfile.v0", t.Opts
		if t.Source != "" {
			so.Frontend, so.FrontendAttrs["source"] = "gateway.v0", t.Source
			so.FrontendAttrs["cmdline"] = t.Source
			so.FrontendInputs = map[string]llb.State{"context": llb.Local("context"), "dockerfile": llb.Local("dockerfile")}
		}
	} else if def, err = t.definition(ctx); err != nil {
		return outcome{Err: err.Error()}
	}
	ch := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		seen := map[string]bool{}
		for s := range ch {
			for _, l := range s.Logs {
				out.Logs += string(l.Data)
			}
			for _, v := range s.Vertexes {
				if strings.Contains(v.Name, "RUN") && !seen[v.Digest.String()] {
					seen[v.Digest.String()] = true
					out.Steps = append(out.Steps, v.Digest.String())
				}
				if v.Cached && !seen["c"+v.Digest.String()] {
					seen["c"+v.Digest.String()] = true
					out.Cached++
				}
			}
		}
	}()
	_, err = c.Client().Solve(ctx, def, so, ch)
	<-done
	if err != nil {
		out.Err = err.Error()
	}
	return out
}

// do sends a task to a child.
func do(t *testing.T, socket string, job task) outcome {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(job); err != nil {
		t.Fatal(err)
	}
	var out outcome
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if err := json.NewDecoder(c).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// busyboxRoot makes a small root file system.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	const bin = "/usr/bin/busybox"
	if out, err := exec.Command(bin, "--list").Output(); err != nil || !bytes.Contains(out, []byte("wget")) {
		t.Skip("needs a static busybox: install package busybox-static")
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range strings.Fields("sh cat ls echo id wget mount touch mknod sleep true false env test grep nslookup head ps kill dd chroot unshare rm stat wc hostname tr mkdir pwd") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", n)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
		"etc/group":  "root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stateDir is a directory for an engine. In a user namespace its files belong
// to ids this user cannot touch, so they are removed from inside one.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "drydock-core")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveState(context.Background(), ChildConfig{Root: dir, Environ: os.Environ()}); err != nil {
			t.Errorf("removing the state: %v", err)
		}
	})
	return dir
}

// needT1 skips where the tier cannot be had.
func needT1(t *testing.T) Report {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the engine; not in short mode")
	}
	r, err := Probe(t.Context(), t.TempDir(), os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	if r.Tier == "" {
		t.Skipf("this host gives no namespaces: %+v", r.Findings)
	}
	return r
}

func startChild(t *testing.T, c ChildConfig) *Child {
	t.Helper()
	if c.Root == "" {
		c.Root = stateDir(t)
	}
	c.Environ = os.Environ()
	c.Log = &logWriter{t: t}
	if c.Tier == "" { // DRYDOCK_TEST_TREES and DRYDOCK_TEST_TIER run the same tests another way
		c.Tier = os.Getenv("DRYDOCK_TEST_TIER")
	}
	c.NoOverlay = c.NoOverlay || os.Getenv("DRYDOCK_TEST_TREES") != ""
	child, err := StartChild(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Close() })
	return child
}

type logWriter struct{ t *testing.T }

func (l *logWriter) Write(b []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "[engine] %s", b)
	return len(b), nil
}

func sh(script string) stepSpec { return stepSpec{Args: []string{"/bin/sh", "-c", script}} }
