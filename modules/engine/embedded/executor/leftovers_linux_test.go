package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bkexec "github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/keeper"
)

// TestContainedLeftovers: what a step leaves running is gone when it ends.
func TestContainedLeftovers(t *testing.T) {
	b := newBench(t, Options{})
	b.must(stepOpt{}, "leave", "20")
	if left := running("probe"); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

func running(name string) []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.HasPrefix(b, []byte(name+"\x00")) {
			out = append(out, f)
		}
	}
	return out
}

// probeLeave starts sessions of their own that ignore signals, and ends.
func probeLeave(args []string) int {
	n, _ := strconv.Atoi(args[0])
	for range n {
		cmd := exec.Command("/bin/probe", "linger")
		cmd.Args[0] = "probe"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// probeLinger forks once more, so that its parent is nobody's.
func probeLinger() int {
	if os.Getenv("LINGER") == "" {
		cmd := exec.Command("/bin/probe", "linger")
		cmd.Args[0] = "probe"
		cmd.Env = append(os.Environ(), "LINGER=1")
		_ = cmd.Start()
		return 0
	}
	time.Sleep(time.Hour)
	return 0
}

func probeBomb() int {
	for {
		cmd := exec.Command("/bin/probe", "bomb")
		cmd.Args[0] = "probe"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = cmd.Start()
	}
}

func probeMemory() int {
	var all [][]byte
	for range 1000 {
		b := make([]byte, 4<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		time.Sleep(2 * time.Millisecond)
	}
	return len(all) % 2
}

// slowWriter takes output slowly and counts it.
type slowWriter struct{ n atomic.Int64 }

func (w *slowWriter) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	time.Sleep(time.Millisecond)
	return len(b), nil
}
func (*slowWriter) Close() error { return nil }

var _ io.WriteCloser = (*slowWriter)(nil)

// TestContainedEndlessOutput: what a step writes waits for its reader and not
// in the engine's memory.
func TestContainedEndlessOutput(t *testing.T) {
	b := newBench(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	w := &slowWriter{}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := b.e.Bind(Vertex{}).Run(ctx, "", bkexec.Mount{Src: plainMount{b.root}}, nil, bkexec.ProcessInfo{
		Meta: bkexec.Meta{Args: []string{"probe", "endless"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, Stdout: w, Stderr: w,
	}, nil)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, context.DeadlineExceeded) || w.n.Load() == 0 {
		t.Errorf("%d bytes, %v", w.n.Load(), err)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

// TestContainedEngineKilled: nothing of a step outlives a killed engine, nor a
// killed init.
func TestContainedEngineKilled(t *testing.T) {
	b := newBench(t, Options{})
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args[0] = "probe-engine"
	engine := b.e.opt.Root
	if translatedHere() { // of which there is one, with programs of its own
		engine += "-killed"
		cmd.ExtraFiles = []*os.File{os.NewFile(launcherFD, "launcher")}
	}
	cmd.Env = append(os.Environ(), "ENGINE="+engine, "ENGINE_ROOT="+b.root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 8)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "started\n" {
		t.Fatalf("%q, %v", line, err)
	}
	end := time.Now().Add(10 * time.Second)
	for found := running("probe"); len(found) < 3; found = running("probe") {
		if time.Now().After(end) {
			t.Fatalf("only %v run", found)
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); len(running("probe")) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still running: %v", running("probe"))
		}
	}
}

// engineMain is an engine that runs one step for ever.
func engineMain() int {
	o := Options{Root: os.Getenv("ENGINE"), Tier: TierContainer}
	if translatedHere() {
		o.Tier, o.Launcher = TierTranslated, keeper.NewLauncher(launcherFD)
	}
	e, err := New(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, err = e.Bind(Vertex{}).Run(context.Background(), "", bkexec.Mount{Src: plainMount{os.Getenv("ENGINE_ROOT")}}, nil, bkexec.ProcessInfo{
		Meta:   bkexec.Meta{Args: []string{"probe", "stay"}, Env: []string{"PATH=/bin"}, Cwd: "/"},
		Stdout: os.Stdout, Stderr: os.Stderr,
	}, nil)
	fmt.Fprintln(os.Stderr, "the step ended:", err)
	return 1
}

// TestContainedInitKilled: the engine ends what a killed init leaves.
func TestContainedInitKilled(t *testing.T) {
	b := newBench(t, Options{})
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := b.e.Bind(Vertex{}).Run(context.Background(), "", bkexec.Mount{Src: plainMount{b.root}}, nil, bkexec.ProcessInfo{
			Meta: bkexec.Meta{Args: []string{"probe", "stay"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, Stdout: w,
		}, nil)
		ended <- err
	}()
	if _, err := io.ReadFull(r, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	b.e.container.mu.Lock()
	for pid := range b.e.container.running {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	b.e.container.mu.Unlock()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "ended early") {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the step goes on")
	}
	left := running("probe")
	for end := time.Now().Add(10 * time.Second); len(left) > 0 && time.Now().Before(end); left = running("probe") {
		time.Sleep(20 * time.Millisecond) // killed, and not yet gone
	}
	if len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

// probeStay leaves processes in sessions of their own and stays.
func probeStay() int {
	if code := probeLeave([]string{"5"}); code != 0 {
		return code
	}
	fmt.Println("started")
	time.Sleep(time.Hour)
	return 0
}
