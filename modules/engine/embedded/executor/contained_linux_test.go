package executor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	bkexec "github.com/moby/buildkit/executor"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"drydock/internal/statictest"
	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/engine/embedded/warden"
	"drydock/modules/jail"
)

// inside says, in this program's environment, that it shall become (become) or
// is (is) what an ordinary container as root would run, or as an ordinary user
// (become T3, is T3).
const inside = "DRYDOCK_TEST_CONTAINER"

const (
	becomeT3 = "become T3"
	keepT3   = "keep T3" // the owners of what is T3
	isT3     = "is T3"
)

// launcherFD is where the keeper's socket is in what is T3.
const launcherFD = 3

// pretended are the versions of Landlock to try. T3 does not go without (-1): it
// is refused.
func pretended(abis ...int) []int {
	return slices.DeleteFunc(abis, func(abi int) bool { return abi < 0 && translatedHere() })
}

func translatedHere() bool { return os.Getenv(inside) == isT3 }

// TestMain lets the test binary be the container and the step's command.
func TestMain(m *testing.M) {
	if os.Args[0] == "probe" {
		os.Exit(probeMain(os.Args[1:]))
	}
	if os.Args[0] == "probe-engine" {
		os.Exit(engineMain())
	}
	if os.Args[0] == warden.StarterName {
		os.Exit(warden.StarterMain())
	}
	if code, ran := statictest.Main(os.Environ()); ran {
		os.Exit(code)
	}
	if os.Getenv(inside) == keepT3 {
		os.Exit(keepOwners())
	}
	if strings.HasPrefix(os.Getenv(inside), "become") {
		if err := becomeContainer(os.Getenv(inside) == becomeT3); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// becomeContainer executes this program again with what a container engine
// leaves an ordinary container: fourteen capabilities under its seccomp
// profile. Nothing is mounted and no namespace made from there on.
// An ordinary user has no capabilities.
func becomeContainer(user bool) error {
	runtime.LockOSThread()
	caps, is := jail.DefaultCapabilities, "is"
	if user {
		caps, is = 0, keepT3
	}
	filter, err := jail.DefaultFilter(caps)
	if err != nil {
		return err
	}
	if err := filter.Install(); err != nil {
		return err
	}
	if user {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setgid(1000), syscall.Setuid(1000))
	} else {
		err = jail.KeepCapabilities(caps)
	}
	if err != nil {
		return err
	}
	if err := os.Setenv(inside, is); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// keepOwners runs this program under a keeper, as the engine runs in T3.
func keepOwners() int {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = os.Setenv(inside, isT3)
	}
	if err == nil {
		var e *keeper.Engine
		files := []*os.File{os.Stdin, os.Stdout, os.Stderr, os.NewFile(uintptr(ends[1]), "launcher")}
		if e, err = keeper.StartBare("/proc/self/exe", os.Args, files); err == nil {
			go func() { _ = keeper.Launch(ends[0]) }()
			code := 0
			if code, err = e.Wait(); err == nil {
				return code
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// contained runs the rest of the test three times: as the root there is, in an
// ordinary container, and in one as an ordinary user (T3). It returns in those
// runs only.
func contained(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 && !translatedHere() {
		t.Skip("steps without namespaces need root of a container")
	}
	if os.Getenv(inside) != "" {
		if strings.HasPrefix(os.Getenv(inside), "is") && unix.Unshare(unix.CLONE_NEWNS) == nil {
			t.Fatal("this is no ordinary container: it may make namespaces")
		}
		return
	}
	for name, become := range map[string]string{"container": "become", "user": becomeT3} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$", "-test.v")
			cmd.Env = append(os.Environ(), inside+"="+become)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !bytes.Contains(out, []byte("--- PASS")) {
				t.Fatalf("nothing passed:\n%s", out)
			}
			t.Logf("%s", out)
		})
	}
	if t.Failed() {
		t.FailNow()
	}
}

// plainMount is a mount of a directory, as package trees gives them.
type plainMount struct{ path string }

func (p plainMount) Mount(context.Context, bool) (bkexec.MountableRef, error) {
	return plainRef(p), nil
}

type plainRef struct{ path string }

func (p plainRef) Mount() ([]mount.Mount, func() error, error) {
	return []mount.Mount{{Type: "bind", Source: p.path, Options: []string{"rbind", "rw"}}}, nil, nil
}
func (plainRef) IdentityMapping() *user.IdentityMapping { return nil }

// bench is an executor with one root that has the probe and little else.
type bench struct {
	t    *testing.T
	e    *Executor
	dir  string
	root string
}

func newBench(t *testing.T, o Options) *bench {
	t.Helper()
	contained(t)
	dir, err := os.MkdirTemp("", "drydock-t2-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o.Root, o.Tier = filepath.Join(dir, "steps"), TierContainer
	if translatedHere() {
		o.Tier, o.Launcher = TierTranslated, keeper.NewLauncher(launcherFD)
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	b := &bench{t: t, e: e, dir: dir, root: filepath.Join(dir, "root")}
	for _, d := range []string{"bin", "etc", "tmp", "dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(b.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(b.root, "tmp"), os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.root, "bin/probe"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	return b
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
func (o *output) Close() error { return nil }

// step is one run of the probe.
type stepOpt struct {
	user   string
	mounts []bkexec.Mount
	ro     bool
	stdin  io.ReadCloser
	vertex Vertex
	env    []string
	cwd    string // "" is /
}

func (b *bench) run(ctx context.Context, o stepOpt, args ...string) (string, error) {
	b.t.Helper()
	out := &output{}
	env := append([]string{"PATH=/bin"}, o.env...)
	_, err := b.e.Bind(o.vertex).Run(ctx, "", bkexec.Mount{Src: plainMount{b.root}, Readonly: o.ro}, o.mounts, bkexec.ProcessInfo{
		Meta:  bkexec.Meta{Args: append([]string{"probe"}, args...), Env: env, Cwd: cmp.Or(o.cwd, "/"), User: o.user, RemoveMountStubsRecursive: true},
		Stdin: o.stdin, Stdout: out, Stderr: out,
	}, nil)
	return out.String(), err
}

// must runs the probe and expects it to be content.
func (b *bench) must(o stepOpt, args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	out, err := b.run(ctx, o, args...)
	if err != nil {
		b.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

func TestContainedRuns(t *testing.T) {
	b := newBench(t, Options{})
	before := snapshotTree(t, b.root)
	if out := b.must(stepOpt{}, "echo", "hello"); out != "hello\n" {
		t.Errorf("got %q", out)
	}
	out, err := b.run(t.Context(), stepOpt{}, "exit", "7")
	var e *gatewayapi.ExitError
	if !errors.As(err, &e) || e.ExitCode != 7 {
		t.Errorf("got %v\n%s", err, out)
	}
	_, err = b.run(t.Context(), stepOpt{}, "signal", "15")
	if !errors.As(err, &e) || e.ExitCode != 143 || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("got %v", err)
	}
	if out := b.must(stepOpt{stdin: io.NopCloser(strings.NewReader("from outside"))}, "cat"); out != "from outside" {
		t.Errorf("got %q", out)
	}
	if out := b.must(stepOpt{user: "1000:1001"}, "id"); out != "1000 1001\n" {
		t.Errorf("got %q", out)
	}
	if after := snapshotTree(t, b.root); after != before {
		t.Errorf("the root changed:\n%s\nwas\n%s", after, before)
	}
}

// snapshotTree describes all that a layer would hold.
func snapshotTree(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.Walk(root, func(name string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		link, _ := os.Readlink(name)
		fmt.Fprintf(&out, "%s %v %d:%d %d links %d mtime %v %s\n",
			strings.TrimPrefix(name, root), fi.Mode(), st.Uid, st.Gid, fi.Size(), st.Nlink, fi.ModTime(), link)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
