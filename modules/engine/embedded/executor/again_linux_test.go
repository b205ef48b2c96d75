package executor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"golang.org/x/sys/unix"
)

// probeAgain executes itself through /proc, as what it is told then.
func probeAgain(args []string) int {
	err := unix.Exec(selfExe, append([]string{"probe"}, args...), os.Environ())
	fmt.Println(err)
	return 1
}

const selfExe = "/proc/self/exe"

// probeWhere says which program this is, and what it was told.
func probeWhere(args []string) int {
	program, err := os.Readlink(selfExe)
	fmt.Println(program, args, err)
	return 0
}

// probeTogether: two programs that execute themselves at a time stay what they are.
func probeTogether() int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for i := range 20 {
		program := []string{"/bin/probe", "/bin/other"}[i%2]
		wg.Go(func() {
			cmd := exec.Cmd{Path: program, Args: []string{"probe", "again", "where", "x"}}
			out, err := cmd.CombinedOutput()
			if want := program + " [x] <nil>\n"; err != nil || string(out) != want {
				mu.Lock()
				defer mu.Unlock()
				fmt.Printf("%s: %v, said %.200q\n", program, err, out)
				failed = 1
			}
		})
	}
	wg.Wait()
	return failed
}

// TestContainedAgain: a step executes /proc/self/exe, as busybox's shell does
// for scripts without a first line.
func TestContainedAgain(t *testing.T) {
	b := newBench(t, Options{})
	program, err := os.ReadFile(filepath.Join(b.root, "bin/probe"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.root, "bin/other"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"", "1000:1001"} {
		if out := b.must(stepOpt{user: user}, "again", "again", "where", "here", "and there"); out != "/bin/probe [here and there] <nil>\n" {
			t.Errorf("user %q: got %q", user, out)
		}
	}
	b.must(stepOpt{ro: true}, "again", "echo", "x")
	b.must(stepOpt{}, "together")

	// one that was removed cannot be executed, and says so by its exit code
	out, err := b.run(t.Context(), stepOpt{}, "removed")
	var e *gatewayapi.ExitError
	want := uint32(126)
	if translatedHere() { // it is found by its name, which is gone
		want = 1
	}
	if !errors.As(err, &e) || e.ExitCode != want || !strings.Contains(out, "removed") {
		t.Errorf("got %v\n%s", err, out)
	}
}

// probeRemoved executes what it was, which is there no more.
func probeRemoved() int {
	if err := os.Remove("/bin/probe"); err != nil {
		return 1
	}
	fmt.Println("removed")
	return probeAgain([]string{"echo", "back"})
}
