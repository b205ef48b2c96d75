package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drydock/modules/artifact"
)

func TestLockConflict(t *testing.T) {
	needT1(t)
	root := stateDir(t)
	first := startChild(t, ChildConfig{Root: root})
	start := time.Now()
	var notices []string
	_, err := StartChild(t.Context(), ChildConfig{
		Root: root, LockWait: 3 * time.Second, Environ: os.Environ(), build: "another",
		Notice: func(s string) { notices = append(notices, s) },
	})
	if len(notices) != 1 || !strings.Contains(notices[0], strconv.Itoa(os.Getpid())) {
		t.Errorf("it said while it waited: %q", notices)
	}
	var e *artifact.Error
	if !errors.As(err, &e) || e.Kind != artifact.KindFault || !strings.Contains(e.Message, strconv.Itoa(os.Getpid())) || e.Remedy == "" {
		t.Fatalf("got %#v", err)
	}
	if time.Since(start) > 15*time.Second {
		t.Error("it hung")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	startChild(t, ChildConfig{Root: root})
}

func TestStateSurvivesRestart(t *testing.T) {
	needT1(t)
	root, state := busyboxRoot(t), stateDir(t)
	job := task{Dir: root, Steps: []stepSpec{sh("echo once")}}
	first := startChild(t, ChildConfig{Root: state})
	wantLogs(t, do(t, first.Socket, job), "once")
	if err := first.Close(); err != nil || first.Err() != nil {
		t.Fatal(err, first.Err())
	}
	if _, err := os.Stat(first.Socket); err == nil {
		t.Error("the socket is still there")
	}
	second := startChild(t, ChildConfig{Root: state})
	if out := do(t, second.Socket, job); out.Err != "" || out.Logs != "" {
		t.Errorf("ran again: %+v", out)
	}
}

// TestKilledParent kills a program that runs a step and looks for survivors:
// the step holds a file open that is marked by a lock nobody else has.
func TestKilledParent(t *testing.T) {
	needT1(t)
	root, state := busyboxRoot(t), stateDir(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "DRYDOCK_TEST_STATE="+state, "DRYDOCK_TEST_ROOT="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	marker := "31415.926" + strconv.Itoa(os.Getpid())
	sc := bufio.NewScanner(out)
	for sc.Scan() && !strings.Contains(sc.Text(), "serving") {
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(processes(t, marker)) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the step did not start")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline = time.Now().Add(5 * time.Second)
	for len(processes(t, marker)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %q", processes(t, marker))
		}
		time.Sleep(20 * time.Millisecond)
	}
	// the engine held the lock as long as it lived
	unlock, err := lock(t.Context(), Options{Root: state, LockWait: 5 * time.Second})
	if err != nil {
		t.Fatalf("the engine is still there: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	// and the next engine starts on what was left
	next := startChild(t, ChildConfig{Root: state})
	wantLogs(t, do(t, next.Socket, task{Dir: root, Steps: []stepSpec{sh("echo again")}}), "again")
}

// helperParent is the program that TestKilledParent kills.
func helperParent(state, root string) error {
	c, err := StartChild(context.Background(), ChildConfig{Root: state, Environ: os.Environ()})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	conn, err := net.Dial("unix", c.Socket)
	if err != nil {
		return err
	}
	sleep := "sleep 31415.926" + strconv.Itoa(os.Getppid())
	if err := json.NewEncoder(conn).Encode(task{Dir: root, Steps: []stepSpec{sh("(" + sleep + ") & " + sleep)}}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// processes lists the command lines that have the word.
func processes(t *testing.T, word string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range all {
		b, err := os.ReadFile(p)
		if line := strings.ReplaceAll(string(b), "\x00", " "); err == nil && strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return out
}

// TestOrdinaryUser runs the tests of this package again as a user who has
// subordinate ids.
func TestOrdinaryUser(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the other tests again; not in short mode")
	}
	if os.Getuid() != 0 {
		t.Skip("this already is an ordinary user")
	}
	who, uid, gid := subordinateUser()
	if who == "" {
		t.Skip("no ordinary user with 65536 subordinate ids in /etc/subuid and /etc/subgid")
	}
	if _, err := findHelper("newuidmap", os.Environ()); err != nil {
		t.Skip("newuidmap is not installed (package uidmap)")
	}
	if out := testsAs(t, who, uid, gid); strings.Contains(out, "--- SKIP: TestSteps") {
		t.Errorf("user %s has subordinate ids, yet the engine does not start", who)
	}
}

// TestUserOfOneID runs them as a user who has none, and for whom owners are
// kept.
func TestUserOfOneID(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the other tests again; not in short mode")
	}
	if os.Getuid() != 0 {
		t.Skip("this already is an ordinary user")
	}
	out := testsAs(t, "", singleUID, singleUID)
	if strings.Contains(out, "{Name:single-id mode OK:false") {
		t.Skip("an ordinary user gets no user namespace here")
	}
	if strings.Contains(out, "--- SKIP: TestSteps") || !strings.Contains(out, "{Name:single-id mode OK:true") {
		t.Error("the engine does not start with one id")
	}
}

// singleUID is nobody's, so it has no subordinate ids.
const singleUID = 54321

// testsAs runs the tests of what an engine does as another user.
func testsAs(t *testing.T, who string, uid, gid uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "drydock-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "core.test")
	if err := errors.Join(os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.v", "-test.run=^(TestSteps|TestStepLimits|TestGateway|TestDockerfile|TestLockConflict|TestStateSurvivesRestart|TestKilledParent|TestProbe)$")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "USER=" + who}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return string(out)
}

func subordinateUser() (name string, uid, gid uint32) {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return "", 0, 0
	}
	sub, _ := os.ReadFile("/etc/subuid")
	subg, _ := os.ReadFile("/etc/subgid")
	for _, l := range strings.Split(string(passwd), "\n") {
		f := strings.Split(l, ":")
		if len(f) < 7 || f[2] == "0" || !strings.Contains("\n"+string(sub), "\n"+f[0]+":") || !strings.Contains("\n"+string(subg), "\n"+f[0]+":") {
			continue
		}
		u, err1 := strconv.ParseUint(f[2], 10, 32)
		g, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			return f[0], uint32(u), uint32(g)
		}
	}
	return "", 0, 0
}
