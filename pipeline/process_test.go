package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drydock/pipeline/report"
)

// wholeCatalog set to "all" has TestSameDigest and TestContainerCatalog build the
// shipped catalog, which takes minutes for each way.
const wholeCatalog = "DRYDOCK_TEST_SAME"

// patience bounds every run of these tests: nothing may hang.
const patience = 10 * time.Minute

// job is one run of the program.
type job struct {
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	stdout *bytes.Buffer
	ended  chan error
}

// start runs the program in dir with the shared cache and registries, keys and
// reports of its own below dir.
func (d *dock) start(t *testing.T, dir string, args ...string) *job {
	t.Helper()
	return d.startWith(t, dir, nil, args...)
}

// startWith is start with more in the environment.
func (d *dock) startWith(t *testing.T, dir string, environ []string, args ...string) *job {
	t.Helper()
	bound := patience
	if os.Getenv(wholeCatalog) == "all" {
		bound = time.Hour
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bound)
	t.Cleanup(cancel)
	j := &job{cmd: exec.CommandContext(ctx, d.program, args...), stderr: &bytes.Buffer{}, stdout: &bytes.Buffer{}, ended: make(chan error, 1)}
	j.cmd.Dir = dir
	j.cmd.Stdout, j.cmd.Stderr = j.stdout, j.stderr
	j.cmd.Env = append(clientEnviron(t), gitEnviron...)
	j.cmd.Env = append(j.cmd.Env, "PATH="+os.Getenv("PATH"), "HOME="+dir, "DRYDOCK_CACHE="+d.cache,
		"DRYDOCK_DATA="+filepath.Join(dir, "data"), "DRYDOCK_KEYS="+filepath.Join(dir, "keys"), "DRYDOCK_PROGRESS=plain")
	j.cmd.Env = append(j.cmd.Env, environ...)
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { j.ended <- j.cmd.Wait() }()
	return j
}

// exit waits for the end of a run and gives its exit code.
func (j *job) exit(t *testing.T) int {
	t.Helper()
	err := <-j.ended
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return j.cmd.ProcessState.ExitCode()
}

// ours lists the processes of this test's program, which no other has the path
// of, and those whose arguments hold the mark of its steps.
func ours(t *testing.T, program, mark string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(args) == 0 {
			continue // no process, gone, or a zombie
		}
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if exe == program || strings.Contains(string(args), mark) {
			out = append(out, e.Name()+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return out
}

// gone fails unless all processes of the program and its steps end in time.
func gone(t *testing.T, program, mark string) {
	t.Helper()
	end := time.Now().Add(5 * time.Second)
	for {
		left := ours(t, program, mark)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %s", strings.Join(left, "; "))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// waitFor waits until a step with the mark runs.
func (j *job) waitFor(t *testing.T, program, mark string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, p := range ours(t, program, mark) {
			if strings.Contains(p, " sleep "+mark) {
				return
			}
		}
		select {
		case err := <-j.ended:
			t.Fatalf("it ended before its step ran: %v\n%s", err, j.stderr)
		default:
		}
	}
	t.Fatalf("the step never ran:\n%s", j.stderr)
}

// slowCatalog is a repository with two images: one whose step sleeps for as
// long as the mark says, and one that is made at once.
func slowCatalog(t *testing.T, mark string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range map[string]string{
		"catalog/images/slow.yaml":       "version: 1\nname: slow\nplatforms: [linux/amd64]\n",
		"catalog/images/slow/Dockerfile": "FROM full\nRUN sleep " + mark + "\nUSER 65532\n",
		"catalog/images/fast.yaml":       "version: 1\nname: fast\nplatforms: [linux/amd64]\n",
		"catalog/images/fast/Dockerfile": "FROM minimal\nCOPY mark /mark\nUSER 65532\n",
		"catalog/images/fast/mark":       mark + "\n",
		".gitignore":                     "data\nkeys\nout*\n.cache\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyCatalog(filepath.Join(dir, "catalog"), false); err != nil {
		t.Fatal(err)
	}
	if err := commitAll(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSignals: each of the three stops everything and exits 130, a second run
// beside the first shares its engine, and the next run works.
func TestSignals(t *testing.T) {
	d := openDock(t)
	mark := fmt.Sprint(800000 + os.Getpid()%100000)
	dir := slowCatalog(t, mark)
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		j := d.start(t, dir, "run", "--image", "slow")
		j.waitFor(t, d.program, mark)
		if i == 0 { // it joins the engine, and its end leaves the first alone
			second := d.start(t, dir, "run", "--image", "fast", "--out", "out-second")
			if code := second.exit(t); code != 0 {
				t.Errorf("the second run exited %d:\n%s%s", code, second.stdout, second.stderr)
			}
			if len(ours(t, d.program, mark)) < 3 {
				t.Error("the first run did not outlive the second")
			}
		}
		begun := time.Now()
		if err := j.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := j.exit(t); code != 130 {
			t.Errorf("%s: exit code %d, want 130\n%s", sig, code, j.stderr)
		}
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("%s: took %s to stop", sig, took)
		}
		gone(t, d.program, mark)
	}
	next(t, d, dir)
}

// TestKill: kill -9 at any moment leaves no process behind, and the next run works.
func TestKill(t *testing.T) {
	d := openDock(t)
	mark := fmt.Sprint(900000 + os.Getpid()%100000)
	dir := slowCatalog(t, mark)
	for _, after := range []time.Duration{30 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 0} {
		args := []string{"run", "--image", "fast", "--out", "out-" + after.String()}
		if after == 0 {
			args = []string{"run", "--image", "slow"}
		}
		j := d.start(t, dir, args...)
		if after == 0 {
			j.waitFor(t, d.program, mark)
		} else {
			time.Sleep(after)
		}
		if err := j.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		j.exit(t)
		gone(t, d.program, mark)
	}
	next(t, d, dir)
}

// next runs the image that is made at once: killed runs must not be in its way.
func next(t *testing.T, d *dock, dir string) {
	t.Helper()
	j := d.start(t, dir, "run", "--image", "fast", "--trigger", "branch", "--out", "out-next")
	if code := j.exit(t); code != 0 {
		t.Fatalf("the next run exited %d\n%s%s", code, j.stdout, j.stderr)
	}
	s, err := report.ReadFile(filepath.Join(dir, "out-next", "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Images) != 1 || s.Images[0].Stage != "staging" {
		raw, _ := json.Marshal(s)
		t.Errorf("the next run made %s", raw)
	}
}

// TestTwoAtOnce: two runs on one state share its engine, and both end well.
func TestTwoAtOnce(t *testing.T) {
	d := openDock(t)
	const mark = "7.25"
	dir := slowCatalog(t, mark)
	first := d.start(t, dir, "run", "--image", "fast", "--trigger", "branch", "--out", "out-1")
	second := d.start(t, dir, "run", "--image", "fast", "--trigger", "branch", "--out", "out-2")
	for i, j := range []*job{first, second} {
		if code := j.exit(t); code != 0 {
			t.Errorf("run %d exited %d:\n%s%s", i, code, j.stdout, j.stderr)
		}
	}
	gone(t, d.program, mark)
}
