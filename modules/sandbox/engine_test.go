package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/image"
	"drydock/modules/sandbox/suite"
	"drydock/modules/steprun/steptest"
)

func TestMain(m *testing.M) { os.Exit(steptest.Main(m)) }

// program is a static program for tests to run in an image of nothing else.
const program = `package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "who":
		fmt.Println("uid", os.Getuid(), "gid", os.Getgid(), "home", os.Getenv("HOME"), "x", os.Getenv("X"))
	case "write":
		for _, p := range os.Args[2:] {
			err := os.WriteFile(p, []byte("x"), 0o600)
			fmt.Println(p, err == nil)
		}
	case "dial":
		_, err := net.DialTimeout("tcp", os.Args[2], 2*time.Second)
		fmt.Println("dial:", err)
	case "interfaces":
		list, _ := net.Interfaces()
		for _, i := range list {
			fmt.Println(i.Name)
		}
	case "fail":
		fmt.Fprintln(os.Stderr, "went wrong")
		os.Exit(3)
	case "http":
		http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "all is well") })
		go func() { fmt.Println(http.ListenAndServe(":80", nil)); os.Exit(1) }()
		wait()
	case "pong":
		l, err := net.Listen("tcp", "127.0.0.1:6379")
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				buf := make([]byte, 100)
				n, _ := c.Read(buf)
				if strings.TrimSpace(string(buf[:n])) == "PING" {
					io.WriteString(c, "+PONG\r\n")
				}
				c.Close()
			}
		}()
		wait()
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		l, _ := net.Listen("tcp", "127.0.0.1:81")
		_ = l
		select {}
	}
}

func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
	os.Exit(7)
}
`

const dockerfile = `FROM scratch
COPY program /bin/program
COPY passwd group /etc/
COPY --chown=1234:1234 data /data
USER app
WORKDIR /data
ENV X=1
EXPOSE 80
ENTRYPOINT ["/bin/program"]
CMD ["http"]
`

// build makes the test image.
func build(t *testing.T, c *dagger.Client, step, user string) *image.Built {
	t.Helper()
	dir := t.TempDir()
	write := func(name, body string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("src/main.go", program)
	write("src/go.mod", "module program\n\ngo 1.26\n")
	write("passwd", "root:x:0:0::/root:\napp:x:1234:1234::/data:\n")
	write("group", "app:x:1234:\n")
	write("data/keep", "kept")
	cmd := exec.Command("go", "build", "-o", "../program", ".")
	cmd.Dir = filepath.Join(dir, "src")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the test program: %v\n%s", err, out)
	}
	b, err := image.Build(t.Context(), c, step, image.Source{
		Name: "sandbox-test", ContextDir: dir, Ignore: []string{"src"}, Epoch: 1763600000,
		Dockerfile: []byte(strings.Replace(dockerfile, "USER app", "USER "+user, 1)),
		Platform:   artifact.Platform{OS: "linux", Architecture: runtime.GOARCH},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func result(t *testing.T, r *artifact.TestReport, name string) artifact.TestResult {
	t.Helper()
	i := slices.IndexFunc(r.Results, func(x artifact.TestResult) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("no result %q in %+v", name, r.Results)
	}
	return r.Results[i]
}

func spec() Spec {
	seven := 7
	return Spec{NonRoot: true, ReadOnlyRoot: true, Writable: []string{"/var/cache"}, Suite: suite.Suite{
		GlobalEnvVars: []suite.KeyValue{{Key: "X", Value: "$X-2"}},
		Commands: []suite.Command{
			{Name: "who", Command: "program", Args: []string{"who"}, ExpectedOutput: []string{`^uid 1234 gid 1234 home /data x 1-2\n$`}},
			{Name: "write", Command: "/bin/program", Args: []string{"write", "/data/x", "/x", "/tmp/x", "/var/cache/x"},
				ExpectedOutput: []string{"/data/x false", "/x false", "/tmp/x true", "/var/cache/x true"}},
			{Name: "interfaces", Command: "/bin/program", Args: []string{"interfaces"}, ExpectedOutput: []string{`^lo\n$`}},
			{Name: "dial", Command: "/bin/program", Args: []string{"dial", "198.51.100.1:80"}, ExpectedOutput: []string{"unreachable|refused|denied|permitted"}},
			{Name: "exit code", Command: "/bin/program", Args: []string{"fail"}, ExitCode: 3, ExpectedError: []string{"went wrong"}, ExcludedOutput: []string{"."}},
			{Name: "wrong exit code", Command: "/bin/program", Args: []string{"fail"}},
			{Name: "no such program", Command: "nothing"},
		},
		Existence: []suite.FileExistence{{Name: "program", Path: "/bin/program", IsExecutableBy: "other"}},
		Contents:  []suite.FileContent{{Name: "data", Path: "/data/keep", ExpectedContents: []string{"^kept$"}}},
		Metadata:  []suite.Metadata{{User: "app", ExposedPorts: []string{"80"}, Workdir: "/data"}},
		Services: []suite.Service{
			{Name: "web", Port: 80, HTTP: &suite.HTTP{Path: "/health", Body: "well"}, ExitCode: &seven},
			{Name: "wrong status", Port: 80, HTTP: &suite.HTTP{Path: "/nope"}, Timeout: suite.Duration(time.Second)},
			{Name: "ping", Command: []string{"program", "pong"}, Port: 6379, Send: "PING\r\n", Expect: `^\+PONG`},
			{Name: "nobody listens", Command: []string{"program", "pong"}, Port: 1, Timeout: suite.Duration(time.Second)},
			{Name: "ends early", Command: []string{"program", "fail"}, Port: 1},
		},
	}}
}

func TestSandbox(t *testing.T) {
	t.Parallel()
	step := steptest.Binary(t)
	e := steptest.Engine(t)
	b := build(t, e.Client, step, "app")
	r, err := Test(t.Context(), e.Client, step, b.Tar, spec(), b.Platform)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"who": "passed", "write": "passed", "interfaces": "passed", "dial": "passed", "exit code": "passed",
		"wrong exit code": "failed", "no such program": "failed", "program": "passed", "data": "passed", "metadata": "passed",
		"web": "passed", "wrong status": "failed", "ping": "passed", "nobody listens": "failed", "ends early": "failed",
		"runs as a user other than root": "passed",
	} {
		if got := result(t, r, name); got.Status != want {
			t.Errorf("%s %s, want %s: %s", name, got.Status, want, got.Message)
		}
	}
	if m := result(t, r, "ends early").Message; !strings.Contains(m, "exit status 3") || !strings.Contains(m, "went wrong") {
		t.Errorf("the failure does not say how it ended and what it said: %s", m)
	}
	if m := result(t, r, "wrong status").Message; !strings.Contains(m, "404") {
		t.Errorf("the failure does not say what was answered: %s", m)
	}
	c := r.Confinement
	if c.Network != "loopback" || c.User != "1234:1234" || !c.NoNewPrivs || !c.Seccomp || len(c.Capabilities) != 0 {
		t.Errorf("confinement %+v", c)
	}
	if c.LandlockABI > 0 && !c.ReadOnlyRoot {
		t.Errorf("read-only root does not hold: %+v", c)
	}
	if r.StaticOnly || r.Passed+r.Failed+r.Skipped != len(r.Results) {
		t.Errorf("report %+v", r)
	}
	t.Run("static only", func(t *testing.T) {
		s := spec()
		s.StaticOnly = "the engine cannot execute it"
		r, err := Test(t.Context(), e.Client, step, b.Tar, s, b.Platform)
		if err != nil {
			t.Fatal(err)
		}
		if !r.StaticOnly || !r.Confinement.NotExecutable || r.Skipped != len(s.Commands)+len(s.Services) || r.Failed != 0 || r.Passed != 4 {
			t.Errorf("report %+v", r)
		}
		if got := result(t, r, "web"); got.Status != "skipped" || got.Message != s.StaticOnly {
			t.Errorf("web %+v", got)
		}
	})
	t.Run("as root", func(t *testing.T) {
		b := build(t, e.Client, step, "root")
		r, err := Test(t.Context(), e.Client, step, b.Tar, Spec{NonRoot: true, Suite: suite.Suite{
			Commands: []suite.Command{{Name: "who", Command: "program", Args: []string{"who"}, ExpectedOutput: []string{"uid 0"}}},
		}}, b.Platform)
		if err != nil {
			t.Fatal(err)
		}
		if got := result(t, r, "runs as a user other than root"); got.Status != "failed" {
			t.Errorf("%+v", got)
		}
		if result(t, r, "who").Status != "passed" || len(r.Confinement.Capabilities) != 0 {
			t.Errorf("report %+v", r)
		}
	})
	t.Run("unknown user", func(t *testing.T) {
		b := build(t, e.Client, step, "nobody-knows")
		r, err := Test(t.Context(), e.Client, step, b.Tar, Spec{Suite: suite.Suite{Commands: []suite.Command{{Name: "who", Command: "program"}}}}, b.Platform)
		if err != nil {
			t.Fatal(err)
		}
		if got := result(t, r, "who"); got.Status != "failed" || !strings.Contains(got.Message, "nobody-knows") {
			t.Errorf("%+v", got)
		}
	})
}
