package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/core"
)

// helperEnv makes the test binary a drydock of its own.
const helperEnv = "DRYDOCK_TEST_HELPER"

// helperSpec is what a helper does: it connects, and runs a command in a root
// of busybox for every line it reads, until the input ends; for "keep COMMAND"
// what it leaves in the root is wanted, else what it prints.
type helperSpec struct {
	Cache, Box, Gateway string
	Quota               int64
}

func helperRun(text string) int {
	var spec helperSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		fmt.Println("bad", err)
		return 2
	}
	e, err := Connect(context.Background(), Config{
		Tier: os.Getenv("DRYDOCK_TEST_TIER"), // the same another way
		Kind: KindEmbedded, CacheDir: spec.Cache, Gateway: spec.Gateway, Quota: spec.Quota, Environ: os.Environ(), Log: os.Stderr,
		Notice: func(s string) { fmt.Println("notice", s) },
	})
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	fmt.Println("up")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		command, keep := strings.CutPrefix(in.Text(), "keep ")
		ctr := e.Client.Container().WithMountedFile("/bin/busybox", e.Client.Host().File(spec.Box)).
			WithExec([]string{"/bin/busybox", "sh", "-c", command})
		var out string
		if keep {
			_, err = ctr.Sync(context.Background())
			out = "kept"
		} else {
			out, err = ctr.Stdout(context.Background())
		}
		if err != nil {
			fmt.Println("failed", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("out", strings.TrimSpace(out))
	}
	if err := e.Close(); err != nil {
		fmt.Println("failed", err)
		return 1
	}
	fmt.Println("closed")
	return 0
}

// helper is a running drydock.
type helper struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	gate  *gateway
}

func startHelper(t *testing.T, cache string, quota ...int64) *helper {
	t.Helper()
	h := &helper{t: t, gate: startGateway(t), lines: make(chan string, 100)}
	one := helperSpec{Cache: cache, Box: filepath.Join(box(t), "busybox"), Gateway: h.gate.path}
	for _, q := range quota {
		one.Quota = q
	}
	spec, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	h.cmd = exec.Command("/proc/self/exe")
	h.cmd.Env = append(os.Environ(), helperEnv+"="+string(spec))
	h.cmd.Stderr = os.Stderr
	out, err := h.cmd.StdoutPipe()
	if err == nil {
		h.in, err = h.cmd.StdinPipe()
	}
	if err := errors.Join(err, h.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.kill() })
	go func() {
		defer close(h.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if !strings.HasPrefix(sc.Text(), "notice ") { // a busy machine makes one wait
				h.lines <- sc.Text()
			}
		}
	}()
	return h
}

func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

func (h *helper) send(line string) { fmt.Fprintln(h.in, line) }

// expect reads the next line, which must come soon and begin as it says.
func (h *helper) expect(begin string) string {
	h.t.Helper()
	select {
	case line, ok := <-h.lines:
		if !ok || !strings.HasPrefix(line, begin) {
			h.t.Fatalf("got %q (open: %v), want %q", line, ok, begin)
		}
		return line
	case <-time.After(40 * time.Second):
		h.t.Fatalf("nothing came; want %q", begin)
	}
	return ""
}

// do runs a command.
func (h *helper) do(command, want string) {
	h.t.Helper()
	h.send(command)
	h.expect("out " + want)
}

func needEngine(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts engines: left out by -short")
	}
	return engineCache(t)
}

// engineCache is a cache directory, where an engine can run.
func engineCache(t *testing.T) string {
	t.Helper()
	r, err := Probe(t.Context(), t.TempDir(), os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	if r.Tier == "" {
		t.Skipf("no engine can run on this host: %+v", r.Findings)
	}
	cache, err := os.MkdirTemp("", "drydock-join")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(Remove(context.Background(), cache), os.RemoveAll(cache)); err != nil {
			t.Error(err)
		}
	})
	return cache
}

// running is the engine's process, which must be there.
func running(t *testing.T, cache string) int {
	t.Helper()
	r := core.FindRunning(StateDir(cache))
	if r == nil {
		t.Fatal("no engine is running")
	}
	return r.PID
}

// wantGone waits for a process to end.
func wantGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the engine, process %d, is still there", pid)
		}
	}
}

// The engine goes on for those who joined it when the one who started it ends,
// and ends with the last.
func TestStarterEndsFirst(t *testing.T) {
	cache := needEngine(t)
	a := startHelper(t, cache)
	a.expect("up")
	a.do("echo one", "one")
	b := startHelper(t, cache)
	b.expect("up")
	engine := running(t, cache)
	if err := a.in.Close(); err != nil {
		t.Fatal(err)
	}
	a.expect("closed")
	b.do("echo two", "two")
	if running(t, cache) != engine {
		t.Error("the second run has another engine")
	}
	if len(b.gate.steps("step")) != 1 || len(a.gate.steps("step")) != 1 {
		t.Errorf("the gateways saw %q and %q", a.gate.steps("step"), b.gate.steps("step"))
	}
	if err := b.in.Close(); err != nil {
		t.Fatal(err)
	}
	b.expect("closed")
	wantGone(t, engine)
}

func TestKilledStarterAndJoiner(t *testing.T) {
	cache := needEngine(t)
	a, b := startHelper(t, cache), (*helper)(nil)
	a.expect("up")
	b = startHelper(t, cache)
	b.expect("up")
	engine := running(t, cache)
	a.kill()
	b.do("echo alone", "alone")
	c := startHelper(t, cache)
	c.expect("up")
	b.kill()
	c.do("echo last", "last")
	c.do("echo alone", "alone") // known from the one that was killed
	if n := len(c.gate.steps("step")); n != 1 {
		t.Errorf("%d steps ran for the last one", n)
	}
	if running(t, cache) != engine {
		t.Error("there is another engine")
	}
	c.kill()
	wantGone(t, engine)
	d := startHelper(t, cache)
	d.expect("up")
	d.do("echo again", "again")
}

// A step that two runs want goes on for the second when the first is killed,
// with the gateway of the second.
func TestSharedStep(t *testing.T) {
	cache := needEngine(t)
	a := startHelper(t, cache)
	a.expect("up")
	b := startHelper(t, cache)
	b.expect("up")
	command := "sleep 3; echo shared"
	a.send(command)
	for end := time.Now().Add(20 * time.Second); len(a.gate.steps("step")) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the step did not start")
		}
	}
	b.send(command)
	time.Sleep(500 * time.Millisecond) // until it hangs on the same step
	if len(b.gate.steps("step")) != 0 {
		t.Fatal("it runs twice")
	}
	a.kill()
	a.gate.stop() // a killed run takes its gateway with it
	b.expect("out shared")
	if len(b.gate.steps("step")) != 1 {
		t.Errorf("the second gateway saw %q", b.gate.steps("step"))
	}
}

// What is left of a killed engine is told to everyone in words, and the next
// run starts another.
func TestKilledEngine(t *testing.T) {
	cache := needEngine(t)
	a := startHelper(t, cache)
	a.expect("up")
	b := startHelper(t, cache)
	b.expect("up")
	a.do("echo kept", "kept")
	a.send("sleep 600; echo a")
	b.send("sleep 601; echo b")
	time.Sleep(500 * time.Millisecond)
	if err := unix.Kill(running(t, cache), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*helper{a, b} {
		if line := h.expect("failed"); !strings.Contains(line, "ended while it was working") {
			t.Errorf("it said %q", line)
		}
	}
	c := startHelper(t, cache)
	c.expect("up")
	c.do("echo kept", "kept")
	if n := len(c.gate.steps("step")); n != 0 {
		t.Error("what was finished ran again")
	}
	// the two that lost their engine end without waiting for it
	for _, h := range []*helper{a, b} {
		if err := h.in.Close(); err != nil {
			t.Fatal(err)
		}
		h.expect("")
	}
}

// Five at once, from nothing: one engine, and what all want runs once.
func TestFiveAtOnce(t *testing.T) {
	cache := needEngine(t)
	var all []*helper
	for range 5 {
		all = append(all, startHelper(t, cache))
	}
	var wg sync.WaitGroup
	for _, h := range all {
		wg.Go(func() {
			h.expect("up")
			h.do("sleep 1; echo same", "same")
		})
	}
	wg.Wait()
	ran := 0
	for _, h := range all {
		ran += len(h.gate.steps("step"))
	}
	if ran != 1 {
		t.Errorf("the step ran %d times", ran)
	}
	engine := running(t, cache)
	for _, h := range all {
		wg.Go(func() {
			_ = h.in.Close()
			h.expect("closed")
		})
	}
	wg.Wait()
	wantGone(t, engine)
}
