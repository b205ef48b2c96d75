package warden

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// TestMain lets the test binary be the init of a step and its starter.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case StarterName:
		os.Exit(StarterMain())
	case "test-init":
		os.Exit(testInit())
	}
	os.Exit(m.Run())
}

type testStep struct {
	Config  Config
	Command Command
}

// testInit is the init of a step that a test describes.
func testInit() int {
	var s testStep
	if err := json.Unmarshal([]byte(os.Getenv("TEST_STEP")), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 250
	}
	filter, err := jail.BuildFilter(0, TranslatedRules(s.Config.ABI)...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 250
	}
	w, err := New(s.Config)
	if err == nil {
		_, err = w.Start(s.Command, filter.SockFilter())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		return 251
	}
	ws, err := w.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		return 252
	}
	if r := w.Reason(); r != "" {
		fmt.Fprintln(os.Stderr, "init: reason:", r)
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

const testUser = 1000

// runTranslated runs a command in a root as a user without privileges.
func runTranslated(t *testing.T, root string, more func(*testStep), args ...string) (string, int) {
	t.Helper()
	if !traceable || jail.LandlockABI() < TranslatedABI {
		t.Skip("steps cannot be traced on this architecture, or the kernel has no landlock")
	}
	programs := filepath.Join(filepath.Dir(root), "programs")
	if err := os.MkdirAll(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(programs, testUser, testUser); err != nil {
			t.Fatal(err)
		}
	}
	s := testStep{
		Config:  Config{Root: root, ABI: jail.LandlockABI(), Own: "127.0.9.2", Hostname: "box", Programs: programs},
		Command: Command{Path: args[0], Args: args, Cwd: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}},
	}
	if more != nil {
		more(&s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"test-init"}
	cmd.Env = []string{"TEST_STEP=" + string(b)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: testUser, Gid: testUser}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	kill := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	if err := cmd.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

var _ = unix.Getpid
var _ = strings.TrimSpace

func TestTry(t *testing.T) {
	root := os.Getenv("TRY_ROOT")
	if root == "" {
		t.Skip("no root")
	}
	out, code := runTranslated(t, root, nil, "/bin/sh", "-c", os.Getenv("TRY"))
	fmt.Printf("%s\ncode %d\n", out, code)
}
