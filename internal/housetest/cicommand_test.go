package housetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drydock/modules/artifact"
)

// The jobs' own commands, run by the shells that run them: a runner of GitLab's
// gives a script to bash with errexit, an Azure agent without.
var shells = map[string][]string{
	"gitlab": {"bash", "-eo", "pipefail", "-c"},
	"azure":  {"bash", "--noprofile", "--norc", "-c"},
	"posix":  {"sh", "-c"},
}

// checkout copies the repository to where a command can break things.
func checkout(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the program")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the CI files are for linux")
	}
	for _, tool := range []string{"bash", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this machine", tool)
		}
	}
	dir := t.TempDir()
	for name, b := range repository(t) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// job starts the command of a job in dir. What the program keeps goes under
// dir too.
func job(t *testing.T, dir string, shell []string, script string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(shell[0], append(append([]string{}, shell[1:]...), script)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CI=true", "DRYDOCK_STATE="+filepath.Join(dir, ".drydock", "state"), "GOFLAGS=-buildvcs=false")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, &out
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return exit.ExitCode()
}

func TestExitCodeArrivesFromTheCICommand(t *testing.T) {
	dir := checkout(t)
	all := scripts(t, repository(t))
	if err := os.WriteFile(filepath.Join(dir, "catalog", "mirrors.yaml"), []byte("version: 1\nno-such-field: true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, script := range all {
		system, verb, _ := strings.Cut(name, " ")
		if verb == "promote" {
			continue // needs the summary of a run, see below
		}
		cmd, out := job(t, dir, shells[system], script)
		if code := exitCode(t, cmd.Wait()); code != artifact.ExitUsage {
			t.Errorf("%s: a wrong catalog exits %d, want %d\n%s", name, code, artifact.ExitUsage, out)
		}
		if !strings.Contains(out.String(), "mirrors.yaml:2") {
			t.Errorf("%s: the place is not named\n%s", name, out)
		}
	}
	cmd, out := job(t, dir, shells["posix"], all["gitlab promote"])
	if code := exitCode(t, cmd.Wait()); code != artifact.ExitUsage {
		t.Errorf("promote without a summary exits %d\n%s", code, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "pipeline", "broken.go"), []byte("package main\n\nvar x = declaredNowhere\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd, out = job(t, dir, shells["azure"], all["azure run"])
	if code := exitCode(t, cmd.Wait()); code != artifact.ExitFault {
		t.Errorf("a program that does not build exits %d: an older one may have run\n%s", code, out)
	}
}

func TestSignalsArriveThroughTheCICommand(t *testing.T) {
	dir := checkout(t)
	script := scripts(t, repository(t))["azure run"]
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGKILL} {
		cmd, out := job(t, dir, shells["azure"], script)
		waitForProgram(t, cmd.Process.Pid, filepath.Join(dir, ".drydock", "bin", "drydock"))
		time.Sleep(1500 * time.Millisecond) // into the run: the engine has started, or starts
		family := descendants(cmd.Process.Pid)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatalf("%s: the run was over before it could be stopped\n%s", sig, out)
		}
		code := exitCode(t, cmd.Wait())
		want := artifact.ExitInterrupted
		if sig == syscall.SIGKILL {
			want = 128 + int(syscall.SIGKILL)
		}
		if code != want {
			t.Errorf("%s: exit %d, want %d\n%s", sig, code, want, out)
		}
		for end := time.Now().Add(15 * time.Second); len(alive(family)) > 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s: left behind: %v", sig, alive(family))
				break
			}
		}
	}
}

// waitForProgram waits until the shell has become the program: same pid.
func waitForProgram(t *testing.T, pid int, bin string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			t.Fatalf("the job ended before it became the program: %v", err)
		}
		if exe == bin {
			return
		}
	}
	t.Fatal("the shell never became the program")
}

// process is a pid that cannot be taken for a later one.
type process struct {
	pid   int
	start string // field 22 of /proc/pid/stat
	name  string
}

func stat(pid int) (parent int, p process, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, process{}, false
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < 0 {
		return 0, process{}, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 || f[0] == "Z" {
		return 0, process{}, false
	}
	parent, err = strconv.Atoi(f[1])
	return parent, process{pid, f[19], string(b[open+1 : end])}, err == nil
}

func descendants(root int) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]process{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if parent, p, ok := stat(pid); ok {
				children[parent] = append(children[parent], p)
			}
		}
	}
	var out []process
	for todo := []int{root}; len(todo) > 0; todo = todo[1:] {
		for _, c := range children[todo[0]] {
			out = append(out, c)
			todo = append(todo, c.pid)
		}
	}
	return out
}

func alive(ps []process) []process {
	var out []process
	for _, p := range ps {
		if _, now, ok := stat(p.pid); ok && now.start == p.start {
			out = append(out, p)
		}
	}
	return out
}
