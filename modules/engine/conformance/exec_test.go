package conformance

import (
	"errors"
	"strings"
	"testing"

	"dagger.io/dagger"
)

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestExec(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := busybox(t, c)
		tests := []struct {
			name string
			ctr  *dagger.Container
			want string // stdout
		}{
			{"stdout", box.WithExec([]string{"echo", "hello"}), "hello\n"},
			{"last command only", box.WithExec([]string{"echo", "one"}).WithExec([]string{"echo", "two"}), "two\n"},
			{"no output", box.WithExec(sh("true || :")), ""},
			{"file system is kept", box.WithExec(sh("echo kept > /tmp/f")).WithExec([]string{"cat", "/tmp/f"}), "kept\n"},
			{"environment", box.WithEnvVariable("A", "x").WithEnvVariable("B", "${A}y", dagger.ContainerWithEnvVariableOpts{Expand: true}).
				WithExec(sh("echo $A $B")), "x xy\n"},
			{"environment taken away", box.WithEnvVariable("A", "x").WithoutEnvVariable("A").WithExec(sh("echo [$A]")), "[]\n"},
			{"expanded arguments", box.WithEnvVariable("A", "x").WithExec([]string{"echo", "$A"}, dagger.ContainerWithExecOpts{Expand: true}), "x\n"},
			{"unexpanded arguments", box.WithEnvVariable("A", "x").WithExec([]string{"echo", "$A"}), "$A\n"},
			{"workdir", box.WithWorkdir("/etc").WithWorkdir("sub").WithExec([]string{"pwd"}), "/etc/sub\n"},
			{"user by name", box.WithUser("app").WithExec(sh("id -u; id -g")), "1000\n1001\n"},
			{"user by number", box.WithUser("12:34").WithExec(sh("id -u; id -g")), "12\n34\n"},
			{"user taken away", box.WithUser("app").WithoutUser().WithExec([]string{"id", "-u"}), "0\n"},
			{"entrypoint", box.WithEntrypoint([]string{"echo", "entry"}).
				WithExec([]string{"arg"}, dagger.ContainerWithExecOpts{UseEntrypoint: true}), "entry arg\n"},
			{"entrypoint ignored", box.WithEntrypoint([]string{"false"}).WithExec([]string{"echo", "plain"}), "plain\n"},
			{"default arguments", box.WithDefaultArgs([]string{"echo", "default"}).WithExec(nil), "default\n"},
			{"stdin", box.WithExec([]string{"cat"}, dagger.ContainerWithExecOpts{Stdin: "from stdin"}), "from stdin"},
			{"stdin from file", box.WithNewFile("/in", "from file").
				WithExec([]string{"cat"}, dagger.ContainerWithExecOpts{RedirectStdin: "/in"}), "from file"},
			{"stdout to file", box.WithExec([]string{"echo", "to file"}, dagger.ContainerWithExecOpts{RedirectStdout: "/out"}).
				WithExec(sh("cat /out; stat -c '%u:%g %a' /out")), "to file\n0:0 600\n"},
			{"stderr to file", box.WithExec(sh("echo oops >&2"), dagger.ContainerWithExecOpts{RedirectStderr: "/err"}).
				WithExec([]string{"cat", "/err"}), "oops\n"},
			{"much output", box.WithExec([]string{"seq", "1", "200000"}), seq(200000)},
		}
		for _, tc := range tests {
			t.Run(tc.name, func(t *testing.T) {
				got, err := tc.ctr.Stdout(within(t))
				if err != nil {
					t.Fatal(err)
				}
				if got != tc.want {
					t.Errorf("got %.80q, want %.80q", got, tc.want)
				}
			})
		}
	})
}

func seq(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		b.WriteString(itoa(i))
		b.WriteByte('\n')
	}
	return b.String()
}

func itoa(i int) string {
	var digits []byte
	for ; i > 0; i /= 10 {
		digits = append([]byte{byte('0' + i%10)}, digits...)
	}
	return string(digits)
}

func TestExecStreams(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ctr := busybox(t, c).WithExec(sh("echo out; echo err >&2; exit 7"), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
		code, err := ctr.ExitCode(ctx)
		if err != nil || code != 7 {
			t.Errorf("exit code %d, %v; want 7", code, err)
		}
		if out, err := ctr.Stdout(ctx); err != nil || out != "out\n" {
			t.Errorf("stdout %q, %v", out, err)
		}
		if out, err := ctr.Stderr(ctx); err != nil || out != "err\n" {
			t.Errorf("stderr %q, %v", out, err)
		}
		both, err := ctr.CombinedOutput(ctx)
		if err != nil || len(both) != len("out\nerr\n") {
			t.Errorf("combined output %q, %v", both, err)
		}
	})
}

func TestExecFailures(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := busybox(t, c)
		tests := []struct {
			name string
			ctr  *dagger.Container
			code int
			out  string
			err  string
		}{
			{"exit code", box.WithExec(sh("echo some; echo why >&2; exit 3")), 3, "some", "why"},
			{"later command", box.WithExec(sh("exit 4")).WithExec([]string{"echo", "never"}), 4, "", ""},
			{"expected failure did not come", box.WithExec(sh("echo fine"), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeFailure}), 0, "fine", ""},
		}
		for _, tc := range tests {
			t.Run(tc.name, func(t *testing.T) {
				_, err := tc.ctr.Stdout(within(t))
				var failed *dagger.ExecError
				if !errors.As(err, &failed) {
					t.Fatalf("got %v (%T), want an ExecError", err, err)
				}
				if failed.ExitCode != tc.code || failed.Stdout != tc.out || failed.Stderr != tc.err {
					t.Errorf("got code %d, stdout %q, stderr %q", failed.ExitCode, failed.Stdout, failed.Stderr)
				}
				if len(failed.Cmd) == 0 || failed.Cmd[0] != "sh" {
					t.Errorf("command %q", failed.Cmd)
				}
				if strings.Contains(err.Error(), "drydock-exec:") {
					t.Errorf("the message shows a token: %v", err)
				}
			})
		}
	})
}

// A scratch container runs a static program that is only mounted.
func TestExecOnScratch(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		path, err := busyboxPath()
		if err != nil {
			t.Skip(err)
		}
		ctx := within(t)
		ctr := c.Container().WithMountedFile("/run/busybox", c.Host().File(path)).
			WithExec([]string{"/run/busybox", "sh", "-c", "echo made > /made"})
		if got, err := ctr.File("/made").Contents(ctx); err != nil || got != "made\n" {
			t.Fatalf("got %q, %v", got, err)
		}
		entries, err := ctr.Rootfs().Entries(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e, ".drydock") || strings.HasPrefix(e, ".dagger") {
				t.Errorf("the root file system has %s", e)
			}
		}
	})
}
