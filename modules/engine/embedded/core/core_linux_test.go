package core

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func wantLogs(t *testing.T, out outcome, lines ...string) {
	t.Helper()
	if out.Err != "" {
		t.Fatalf("failed: %s\n%s", out.Err, out.Logs)
	}
	for _, l := range lines {
		if !strings.Contains(out.Logs, l) {
			t.Errorf("output lacks %q:\n%s", l, out.Logs)
		}
	}
}

func wantErr(t *testing.T, out outcome, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out.Err, p) {
			t.Errorf("error lacks %q: %q\n%s", p, out.Err, out.Logs)
		}
	}
}

func TestSteps(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	c := startChild(t, ChildConfig{})
	run := func(t *testing.T, steps ...stepSpec) outcome {
		t.Helper()
		return do(t, c.Socket, task{Dir: root, Steps: steps})
	}
	t.Run("output", func(t *testing.T) {
		wantLogs(t, run(t, sh("echo out; echo err >&2; id; hostname; cat /etc/hosts")),
			"out\n", "err\n", "uid=0(root)", "drydock\n", "127.0.0.1\tlocalhost")
	})
	t.Run("exit code", func(t *testing.T) {
		wantErr(t, run(t, sh("echo before; exit 7")), "exit code: 7")
	})
	t.Run("signal", func(t *testing.T) {
		wantErr(t, run(t, sh("kill -KILL $$")), "exit code: 137", "killed")
	})
	t.Run("no such command", func(t *testing.T) {
		wantErr(t, run(t, stepSpec{Args: []string{"nothing-here"}}), `"nothing-here": executable file not found in PATH`)
	})
	t.Run("cached the second time", func(t *testing.T) {
		chain := []stepSpec{sh("echo $RANDOM > /made"), sh("cat /made")}
		first, second := run(t, chain...), run(t, chain...)
		wantLogs(t, first)
		wantLogs(t, second)
		if second.Cached < 2 || second.Logs != "" {
			t.Errorf("second run: %+v", second)
		}
	})
	t.Run("cache mount", func(t *testing.T) {
		put, get := sh("mkdir -p /c/d; echo kept > /c/d/f"), sh("cat /c/d/f")
		put.CacheMount, get.CacheMount = "/c", "/c"
		wantLogs(t, run(t, put))
		wantLogs(t, run(t, get), "kept\n")
	})
	t.Run("secret", func(t *testing.T) {
		s := sh("cat /run/secrets/token; echo x >> /run/secrets/token || echo read-only")
		s.Secret = "token"
		wantLogs(t, run(t, s), "s3cret", "read-only")
		wantLogs(t, run(t, s, sh("ls -A /run/secrets 2>/dev/null | wc -l")), "0\n")
	})
	t.Run("user and directory", func(t *testing.T) {
		s := sh("id; pwd; touch here && stat -c %u here; echo $HOME; grep CapEff /proc/self/status")
		s.User, s.Dir = "app", "/srv/work"
		wantLogs(t, run(t, s), "uid=1000(app) gid=1000(app) groups=1000(app),2000(extra)", "/srv/work\n1000\n/home/app\n",
			"CapEff:\t0000000000000000")
	})
	t.Run("hostile", func(t *testing.T) { hostile(t, c, root) })
}

func TestStepLimits(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	c := startChild(t, ChildConfig{})
	run := func(t *testing.T, steps ...stepSpec) outcome {
		t.Helper()
		return do(t, c.Socket, task{Dir: root, Steps: steps})
	}
	t.Run("unknown user", func(t *testing.T) {
		s := sh("true")
		s.User = "nobody-here"
		wantErr(t, run(t, s), `finding user "nobody-here"`)
	})
	t.Run("read-only root", func(t *testing.T) {
		s := sh("touch /x || echo refused; touch /out/y && echo written")
		s.ReadOnly = true
		wantLogs(t, run(t, s), "refused", "written")
	})
	t.Run("other platform", func(t *testing.T) {
		s := sh("true")
		s.Platform = "linux/arm64"
		wantErr(t, run(t, s), "cannot execute linux/arm64", "BUILDPLATFORM")
	})
	t.Run("nothing left in the layer", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh("echo x > /etc/made")}, Export: dir})
		wantLogs(t, out)
		entries, err := os.ReadDir(filepath.Join(dir, "etc"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != "group made passwd" {
			t.Errorf("etc holds %s", got)
		}
	})
	t.Run("process limit", func(t *testing.T) {
		out := run(t, sh("cat /proc/self/cgroup | grep drydock- || echo none"))
		wantLogs(t, out)
		t.Logf("groups: %s", out.Logs)
		left, _ := filepath.Glob("/sys/fs/cgroup/pids/drydock-*")
		if len(left) > 0 {
			t.Logf("groups of other engines: %q", left)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				want := fmt.Sprintf("step-%d", i)
				if out := run(t, sh("sleep 0.3; echo "+want)); out.Err != "" || out.Logs != want+"\n" {
					t.Errorf("%s: %+v", want, out)
				}
			})
		}
		wg.Wait()
	})
	t.Run("cancelled", func(t *testing.T) {
		s := sh("trap '' TERM INT; sleep 5 & sleep 77.5; echo survived")
		if out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{s}, Cancel: 700 * time.Millisecond}); out.Err == "" {
			t.Error("it ended well")
		}
		for end := time.Now().Add(5 * time.Second); len(processes(t, "sleep 77.5")) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("still there: %q", processes(t, "sleep 77.5"))
			}
		}
	})
	t.Run("no network", func(t *testing.T) {
		wantErr(t, run(t, sh("ls /sys/class/net; wget -T 2 http://192.0.2.1/")), "exit code: 1")
	})
	t.Run("hostile", func(t *testing.T) { hostile(t, c, root) })
}

// hostile: what a step tries on the engine and the host must fail. Each probe
// prints its name only when it got through.
func hostile(t *testing.T, c *Child, root string) {
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := strings.Join([]string{
		"cat /proc/1/environ >/dev/null 2>&1 && echo BAD-environ",
		"ls /proc/1/fd/ >/dev/null 2>&1 && ls /proc/1/fd/* >/dev/null 2>&1 && echo BAD-fds",
		"ls /proc/1/root/ >/dev/null 2>&1 && echo BAD-root",
		"head -c 4 /proc/1/mem >/dev/null 2>&1 && echo BAD-mem",
		"cat " + canary + " >/dev/null 2>&1 && echo BAD-canary",
		"test -e " + filepath.Dir(c.Socket) + " && echo BAD-state",
		"mount -t tmpfs none /tmp 2>/dev/null && echo BAD-mount",
		"unshare -U true 2>/dev/null && echo BAD-userns",
		"unshare -m true 2>/dev/null && echo BAD-mntns",
		"echo x > /proc/sys/kernel/core_pattern 2>/dev/null && echo BAD-sysctl",
		"echo h > /proc/sysrq-trigger 2>/dev/null && echo BAD-sysrq",
		"mknod /tmp/disk b 254 0 2>/dev/null && dd if=/tmp/disk of=/dev/null count=1 2>/dev/null && echo BAD-disk",
		"mknod /dev/disk b 254 0 2>/dev/null && dd if=/dev/disk of=/dev/null count=1 2>/dev/null && echo BAD-devdisk",
		"mknod /tmp/zero c 1 5 2>/dev/null && dd if=/tmp/zero of=/dev/null count=1 2>/dev/null && echo BAD-device",
		"ls /proc/self/fd | wc -l | sed 's/^/fds /'", // 0 1 2 and ls's own
		"kill -KILL 1; kill -TERM 1; sleep 0.2; echo alive",
		"for p in /proc/[0-9]*; do cat $p/cmdline | tr '\\0' ' '; done",
		"grep -E 'Cap(Eff|Bnd)|Seccomp:' /proc/self/status",
		"ls /dev",
		"env",
	}, "\n")
	out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh(script)}})
	wantLogs(t, out, "fds 4\n", "alive\n", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "Seccomp:\t2")
	t.Log(out.Logs)
	for _, l := range strings.Split(out.Logs, "\n") {
		if strings.HasPrefix(l, "BAD-") {
			t.Error(l)
		}
	}
	if strings.Contains(out.Logs, "TMPDIR") || strings.Contains(out.Logs, "__drydock-engine") {
		t.Errorf("the engine shows:\n%s", out.Logs)
	}
}

// A build in which nothing changed leaves nothing: what is kept of each makes
// the next slower.
func TestNothingKeptOfBuilds(t *testing.T) {
	needT1(t)
	state := filepath.Join(t.TempDir(), "engine")
	root := busyboxRoot(t)
	c := startChild(t, ChildConfig{Root: state})
	build := func() {
		t.Helper()
		wantLogs(t, do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh("echo made > /made")}}))
	}
	files := func() (n int) {
		t.Helper()
		err := filepath.WalkDir(state, func(string, os.DirEntry, error) error { n++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	build()
	build()
	before := files()
	for range 10 {
		build()
	}
	if after := files(); after > before+3 {
		t.Errorf("%d files before, %d after ten builds", before, after)
	}
}
