package executor

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	bkexec "github.com/moby/buildkit/executor"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
)

// TestContainedExec: further processes of a running step are confined as its
// command is, and may signal it.
func TestContainedExec(t *testing.T) {
	contained(t)
	for _, abi := range pretended(0, -1) {
		t.Run(strconv.Itoa(abi), func(t *testing.T) { testExec(t, abi) })
	}
}

func testExec(t *testing.T, abi int) {
	b := newBench(t, Options{LandlockABI: abi})
	h, hits := outside(t, b.dir)
	caught := countSignals(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		out := &output{}
		_, err := b.e.Bind(Vertex{}).Run(ctx, "running", bkexec.Mount{Src: plainMount{b.root}}, nil, bkexec.ProcessInfo{
			Meta: bkexec.Meta{Args: []string{"probe", "script", "here\nsleep 50000"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, Stdout: out, Stderr: out,
		}, started)
		ended <- err
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatal(err)
	}
	run := func(user string, stdin io.ReadCloser, args ...string) (string, error) {
		out := &output{}
		err := b.e.Exec(ctx, "running", bkexec.ProcessInfo{
			Meta:  bkexec.Meta{Args: append([]string{"probe"}, args...), Env: []string{"PATH=/bin"}, Cwd: "/", User: user},
			Stdin: stdin, Stdout: out, Stderr: out,
		})
		return out.String(), err
	}
	if out, err := run("", io.NopCloser(strings.NewReader("from outside")), "cat"); err != nil || out != "from outside" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := run("1000:1001", nil, "id"); err != nil || out != "1000 1001\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := run("", nil, script("contains /proc/self/status probe", "contains /etc/hosts localhost", "write /dev/null x")...); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	var e *gatewayapi.ExitError
	if _, err := run("", nil, "exit", "7"); !errors.As(err, &e) || e.ExitCode != 7 {
		t.Errorf("got %v", err)
	}
	if _, err := run("", nil, "signal", "15"); !errors.As(err, &e) || e.ExitCode != 143 {
		t.Errorf("got %v", err)
	}
	if err := b.e.Exec(ctx, "running", bkexec.ProcessInfo{Meta: bkexec.Meta{Args: []string{"nothing"}, Cwd: "/"}}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
	for _, user := range []string{"", "1000:1000"} {
		if out, err := run(user, nil, append([]string{"hostile"}, h.args()...)...); err != nil {
			t.Errorf("as %q: %v\n%s", user, err, out)
		}
	}
	if hits.Load() > 0 || caught() > 0 {
		t.Errorf("%d messages and %d signals arrived outside", hits.Load(), caught())
	}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	err := b.e.Exec(short, "running", bkexec.ProcessInfo{Meta: bkexec.Meta{Args: []string{"probe", "script", "sleep 50000"}, Env: []string{"PATH=/bin"}, Cwd: "/"}})
	if err == nil || ctx.Err() != nil {
		t.Errorf("one that was given up: %v", err)
	}
	endRunning(t, run, ended)
}

// endRunning ends the step from within.
func endRunning(t *testing.T, run func(string, io.ReadCloser, ...string) (string, error), ended <-chan error) {
	t.Helper()
	// it may be killed with the step before that is told
	if out, err := run("", nil, script("kill "+strconv.Itoa(int(syscall.SIGTERM)))...); out != "" {
		t.Errorf("the command could not be signalled: %v, %s", err, out)
	}
	var e *gatewayapi.ExitError
	select {
	case err := <-ended:
		if !errors.As(err, &e) || e.ExitCode != 143 {
			t.Errorf("the step ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the step goes on")
	}
	if out, err := run("", nil, "echo", "x"); err == nil {
		t.Errorf("a process was started in a step that has ended: %q", out)
	}
}
