package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"drydock/modules/engine"
)

// TestMain makes this test binary the program too: scripts run it as drydock,
// and it starts itself again as the engine's process and a step's init.
func TestMain(m *testing.M) {
	if handled, code := engine.Child(os.Args); handled {
		os.Exit(code)
	}
	testscript.Main(m, map[string]func(){"drydock": main})
}

// TestScripts runs the end-to-end tests of the command line. Scripts whose name
// begins with "build" make images and are left out by -short.
func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: false,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "sed": replaceIn},
		Condition: func(cond string) (bool, error) {
			if cond == "linux" {
				return runtime.GOOS == "linux", nil
			}
			return false, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("REPO", repo)
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("DRYDOCK_STATE", filepath.Join(e.WorkDir, "state"))
			for _, name := range []string{"GITLAB_CI", "TF_BUILD", "GITHUB_ACTIONS", "CI"} {
				e.Setenv(name, "")
			}
			for _, name := range []string{"GOPROXY", "GOMODCACHE", "GOCACHE", "GOFLAGS", "npm_config_registry"} {
				if v, ok := os.LookupEnv(name); ok {
					e.Setenv(name, v)
				}
			}
			return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o755)
		},
	})
}

// exits runs drydock and asks for its very exit code: exits CODE ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want := args[0]
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != want {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

// replaceIn changes a file: sed OLD NEW FILE.
func replaceIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: sed OLD NEW FILE")
	}
	path := ts.MkAbs(args[2])
	raw := ts.ReadFile(args[2])
	if !strings.Contains(raw, args[0]) {
		ts.Fatalf("%s does not contain %q", args[2], args[0])
	}
	ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(raw, args[0], args[1])), 0o644))
}
