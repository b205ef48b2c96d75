package engine

import (
	"bufio"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
)

// box is a directory with a static busybox and a Dockerfile on it.
func box(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox on this host: install the package busybox-static")
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Skip("the busybox of this host is not statically linked: install the package busybox-static")
	}
	dir := t.TempDir()
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"busybox": string(program), "Dockerfile": boxFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const boxFile = `FROM scratch
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]
RUN /bin/busybox date +%s%N > /stamp
RUN echo second
`

// gateway is a stand-in for the mirror gateway's socket: the real protocol's
// build and step lines, no network.
type gateway struct {
	path   string
	listen net.Listener
	mu     sync.Mutex
	lines  []map[string]any
	conns  []net.Conn
}

// stop ends it like the end of its process does.
func (g *gateway) stop() {
	g.listen.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
}

func startGateway(t *testing.T) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &gateway{path: filepath.Join(dir, "s")}
	l, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	g.listen = l
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns = append(g.conns, conn)
			g.mu.Unlock()
			go g.answer(conn)
		}
	}()
	return g
}

func (g *gateway) answer(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return
	}
	var m map[string]any
	if json.Unmarshal(line, &m) != nil {
		return
	}
	g.mu.Lock()
	g.lines = append(g.lines, m)
	g.mu.Unlock()
	if m["kind"] == "authority" {
		return
	}
	if m["kind"] == "build" {
		fmt.Fprintln(conn, `{"ok":true}`)
		return
	}
	_, _ = in.WriteTo(new(strings.Builder)) // held open while the step runs
}

// steps are the digests said for one kind of line, in order.
func (g *gateway) steps(kind string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, m := range g.lines {
		if m["kind"] != kind {
			continue
		}
		if s, ok := m["step"].(string); ok {
			out = append(out, s)
		}
		list, _ := m["steps"].([]any)
		for _, e := range list {
			out = append(out, e.(map[string]any)["step"].(string))
		}
	}
	return out
}

// A build tells the gateway its steps by the names the steps themselves used,
// in this session and, when all is cached, in the next.
func TestBuildSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an image: left out by -short")
	}
	dir, g, cache := box(t), startGateway(t), t.TempDir()
	session := func() (stamp string, events []Event) {
		e, err := Connect(t.Context(), Config{
			Kind: KindEmbedded, CacheDir: cache, Gateway: g.path, Environ: os.Environ(),
			Progress: func(ev Event) { events = append(events, ev) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctr := e.Client.Host().Directory(dir).DockerBuild(dagger.DirectoryDockerBuildOpts{
			BuildArgs: []dagger.BuildArg{{Name: "DRYDOCK_BUILD", Value: "web"}},
		})
		stamp, err = ctr.File("/stamp").Contents(t.Context())
		if err := errors.Join(err, e.Close()); err != nil {
			t.Fatal(err)
		}
		return stamp, events
	}
	first, _ := session()
	ran, told := g.steps("step"), g.steps("build")
	if len(ran) != 2 || strings.Join(ran, " ") != strings.Join(told, " ") {
		t.Fatalf("steps that ran %q, steps of the build %q", ran, told)
	}
	// the same content elsewhere, in another session
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	dir = moved
	second, events := session()
	if second != first {
		t.Error("the second session ran the step again")
	}
	if again := g.steps("build")[len(told):]; strings.Join(again, " ") != strings.Join(told, " ") {
		t.Errorf("the second session named the steps %q, the first %q", again, told)
	}
	if len(g.steps("step")) != len(ran) {
		t.Error("the second session ran steps")
	}
	cached := 0
	for _, ev := range events {
		if ev.Kind == EventDone && ev.Cached && strings.Contains(ev.Name, "RUN") {
			cached++
		}
	}
	if cached != 2 {
		t.Errorf("%d steps were said to be cached: %+v", cached, events)
	}
}

// madeBy is what the last build line says of each step: who made its result.
func (g *gateway) madeBy() (steps, made []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.lines {
		if m["kind"] != "build" {
			continue
		}
		steps, made = nil, nil
		list, _ := m["steps"].([]any)
		for _, e := range list {
			one, _ := e.(map[string]any)
			by, _ := one["madeBy"].(string)
			steps, made = append(steps, fmt.Sprint(one["step"])), append(made, by)
		}
	}
	return steps, made
}

// Steps whose names are new and whose results are not are told with the names
// they ran by: of all of them, though BuildKit loads the last one's alone, also
// by another engine, and by a third after that.
func TestStepsOfNewNames(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an image: left out by -short")
	}
	dir, g, cache := box(t), startGateway(t), t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := func() string {
		e, err := Connect(t.Context(), Config{Kind: KindEmbedded, CacheDir: cache, Gateway: g.path, Environ: os.Environ()})
		if err != nil {
			t.Fatal(err)
		}
		stamp, err := e.Client.Host().Directory(dir).DockerBuild(dagger.DirectoryDockerBuildOpts{
			BuildArgs: []dagger.BuildArg{{Name: "DRYDOCK_BUILD", Value: "web"}},
		}).File("/stamp").Contents(t.Context())
		if err := errors.Join(err, e.Close()); err != nil {
			t.Fatal(err)
		}
		return stamp
	}
	write("Dockerfile", boxFile+"COPY busybox /again\n")
	first := build()
	names, made := g.madeBy()
	if len(names) != 2 || strings.Join(made, "") != "" {
		t.Fatalf("steps %q, made by %q", names, made)
	}
	for round := range 2 {
		write("other", fmt.Sprint(round)) // of the context, and of no COPY
		if build() != first {
			t.Fatal("the steps ran again")
		}
		steps, made := g.madeBy()
		if len(steps) != 2 || steps[0] == names[0] || strings.Join(made, " ") != strings.Join(names, " ") {
			t.Errorf("round %d: steps %q, made by %q, not by %q", round, steps, made, names)
		}
	}
	// a last step that is new stands on the cached one
	write("Dockerfile", boxFile+"RUN echo third\n")
	write("other", "third")
	if build() != first {
		t.Fatal("the steps ran again")
	}
	if steps, made := g.madeBy(); len(steps) != 3 || strings.Join(made, " ") != strings.Join(names, " ")+" " {
		t.Errorf("with a third step: steps %q, made by %q", steps, made)
	}
	write("other", "fourth")
	build()
	if steps, made := g.madeBy(); len(steps) != 3 || strings.Join(made[:2], " ") != strings.Join(names, " ") || made[2] == "" {
		t.Errorf("the third cached: steps %q, made by %q", steps, made)
	}
}

func TestGatewayGone(t *testing.T) {
	dir := box(t)
	e := connect(t, Config{Gateway: filepath.Join(t.TempDir(), "nobody")})
	ctr := e.Client.Directory().WithFile("busybox", e.Client.Host().File(filepath.Join(dir, "busybox"))).
		WithNewFile("Dockerfile", "FROM scratch\nCOPY busybox /\n").
		DockerBuild(dagger.DirectoryDockerBuildOpts{BuildArgs: []dagger.BuildArg{{Name: "DRYDOCK_BUILD", Value: "web"}}})
	_, err := ctr.Sync(t.Context())
	if artifact.ExitCode(Explain("building", err)) != artifact.ExitFault || !strings.Contains(err.Error(), "gateway") {
		t.Errorf("got %v", err)
	}
}

// The child dying in the middle of a query is a fault that says so, and leaves
// no step behind.
func TestChildDies(t *testing.T) {
	dir := box(t)
	e := connect(t, Config{})
	began := make(chan struct{})
	go func() {
		deadline := time.Now().Add(20 * time.Second)
		for len(children(t, os.Getpid())) == 0 && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(700 * time.Millisecond) // into the step
		for _, pid := range children(t, os.Getpid()) {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		close(began)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := e.Client.Container().WithMountedFile("/bin/busybox", e.Client.Host().File(filepath.Join(dir, "busybox"))).
		WithExec([]string{"/bin/busybox", "sleep", "600"}).Sync(ctx)
	<-began
	var fault *artifact.Error
	if !errors.As(err, &fault) || fault.Kind != artifact.KindFault || !strings.Contains(err.Error(), "ended while it was working") {
		t.Errorf("got %v", err)
	}
	if err := e.Close(); artifact.ExitCode(err) != artifact.ExitFault {
		t.Errorf("closing it: %v", err)
	}
}

// children are the processes whose parent is pid.
func children(t *testing.T, pid int) []int {
	t.Helper()
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		dt, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		text := string(dt)
		fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
		var own int
		if _, err := fmt.Sscan(text, &own); err == nil && len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			out = append(out, own)
		}
	}
	return out
}
