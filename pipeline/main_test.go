package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	testscript.Main(tidy{m}, map[string]func(){"drydock": main, "daggerclient": daggerClient, "leaklook": leakLook})
}

// tidy removes what the tests that build share once all have run.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	code := t.m.Run()
	leaveDock()
	return code
}

// TestScripts runs the end-to-end tests of the command line that build nothing.
func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, scripts(t, false), func(e *testscript.Env) error {
		e.Setenv("DRYDOCK_STATE", filepath.Join(e.WorkDir, "state"))
		return nil
	}))
}

// TestBuildScripts runs those that make images, as many at once as there are
// cores, with one cache and so one engine: mirrors, bases and the step program
// are fetched and built once. Scripts that harm a cache have one of their own.
func TestBuildScripts(t *testing.T) {
	d := openDock(t)
	p := params(t, scripts(t, true), func(e *testscript.Env) error {
		e.Setenv("DRYDOCK_CACHE", d.cache)
		e.Setenv("DRYDOCK_DATA", filepath.Join(e.WorkDir, "data"))
		e.Setenv("DRYDOCK_KEYS", filepath.Join(e.WorkDir, "keys"))
		// The path of a unix socket has 108 bytes at most, and scripts lie deep.
		e.Setenv("TMPDIR", os.TempDir())
		return nil
	})
	p.Cmds["warm"] = d.warm
	testscript.RunT(turns{T: t}, p)
}

// alone is what runs before the others and beside nothing: it measures time, and
// leaves them the bases most of them want.
const alone = "build_a_ship"

// turns is a testscript.T of scripts that run in parallel, but for one.
type turns struct {
	*testing.T
	alone bool
}

func (t turns) Verbose() bool { return testing.Verbose() }
func (t turns) Parallel() {
	if !t.alone {
		t.T.Parallel()
	}
}

func (t turns) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(turns{t, name == alone}) })
}

// scripts lists those whose names begin with "build", or the others.
func scripts(t *testing.T, build bool) []string {
	all, err := filepath.Glob(filepath.Join("testdata", "script", "*.txt"))
	if err != nil || len(all) == 0 {
		t.Fatal("no scripts", err)
	}
	var out []string
	for _, f := range all {
		if strings.HasPrefix(filepath.Base(f), "build") == build {
			out = append(out, f)
		}
	}
	return out
}

// params is how every script runs; setup adds to its environment.
func params(t *testing.T, files []string, setup func(*testscript.Env) error) testscript.Params {
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	client := clientEnviron(t)
	return testscript.Params{
		Files: files,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "sed": replaceIn, "fixture": fixture, "commit": commit, "json": jsonIs, "setjson": setJSON,
			"within": within, "server": server, "awaitfile": awaitFile, "pull": pull, "sametree": sameTree, "cut": cut,
			"certificate": certificate, "outside": outside, "smalldisk": smallDisk, "copybusybox": copyBusybox, "leaks": leaks, "wheel": wheel, "frontend": frontend,
			"agent": agentOf, "upstream": upstream, "signer": signer, "cosigned": cosigned, "keyless": keyless, "clone": clone,
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "vulndb":
				return vulnDB(repo) != "", nil
			case "brownfield":
				return os.Getenv(brownfield) != "", nil
			case "mount":
				return mayMount(), nil
			case "netns":
				return exec.Command("unshare", "--net", "ip", "link", "set", "lo", "up").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("REPO", repo)
			e.Setenv("VULNDB", vulnDB(repo))
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			for _, name := range []string{"GITLAB_CI", "TF_BUILD", "GITHUB_ACTIONS", "CI"} {
				e.Setenv(name, "")
			}
			e.Vars = append(e.Vars, client...)
			e.Vars = append(e.Vars, gitEnviron...)
			if err := setup(e); err != nil {
				return err
			}
			return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o755)
		},
	}
}

// vulnDB is the folder of a sample vulnerability database, "" when there is none.
func vulnDB(repo string) string {
	for _, dir := range []string{os.Getenv("DRYDOCK_TEST_VULNDB"), filepath.Join(repo, "..", "shared", "vulndb"), filepath.Join(repo, "..", "..", "shared", "vulndb")} {
		if dir != "" && exists(filepath.Join(dir, "latest.json")) {
			return dir
		}
	}
	return ""
}
