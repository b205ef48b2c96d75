package warden

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/internal/statictest"
	"drydock/modules/jail"
)

// TestMain lets the test binary be the init of a step and its starter.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case StarterName:
		os.Exit(StarterMain())
	case "test-init":
		os.Exit(testInit())
	case "/bin/probe":
		os.Exit(probe(os.Args))
	}
	if code, ran := statictest.Main(os.Environ()); ran {
		os.Exit(code)
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
func runTranslated(t testing.TB, root string, more func(*testStep), args ...string) (string, int) {
	t.Helper()
	if !traceable || jail.LandlockABI() < TranslatedABI {
		t.Skip("steps cannot be traced on this architecture, or the kernel has no landlock")
	}
	programs := filepath.Join(filepath.Dir(root), "programs", "step")
	for _, dir := range []string{programs, KeptPrograms(programs), Loaders(programs)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 {
			if err := os.Chown(dir, testUser, testUser); err != nil {
				t.Fatal(err)
			}
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

// probeRoot is a root with this program in it, static, and what it looks for.
func probeRoot(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "dev", "etc", "tmp", "proc/self"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"bin/probe": string(program), "dev/null": "", "etc/inside": "inside\n", "bin/script": "#!/bin/probe said so\n",
		"bin/chain2": "#! /bin/script and more\n", "bin/chain3": "#!/bin/chain2\n", "bin/loop": "#!/bin/loop\n", "../outside": "outside\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		err := filepath.Walk(dir, func(name string, _ os.FileInfo, err error) error {
			return errors.Join(err, os.Lchown(name, testUser, testUser))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestTranslate: what ordinary programs do with paths, owners and processes is
// done in the step's root.
func TestTranslate(t *testing.T) {
	before := lookAt(t, os.DevNull)
	defer func() {
		if after := lookAt(t, os.DevNull); after != before {
			t.Errorf("the machine's %s was %s and is %s", os.DevNull, before, after)
			_ = errors.Join(os.Chmod(os.DevNull, 0o666), os.Chown(os.DevNull, 0, 0))
		}
	}()
	root := probeRoot(t)
	out, code := runTranslated(t, root, nil, "/bin/probe", "ordinary")
	if code != 7 || out != "ordinary: as in a root of its own\n" {
		t.Errorf("exit code %d\n%s", code, out)
	}
	fi, err := os.Lstat(filepath.Join(root, "tmp/made/kept"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("a file nobody may read is not kept readable for its user: %v %v", fi, err)
	}
}

// TestTranslateHostile: nothing outside is reached, though the kernel knows the
// step and its supervisor as one user.
func TestTranslateHostile(t *testing.T) {
	for _, abi := range []int{0, 1, 4} {
		if abi > jail.LandlockABI() {
			continue
		}
		t.Run(fmt.Sprint("landlock ", abi), func(t *testing.T) {
			root := probeRoot(t)
			server, err := net.Listen("unix", filepath.Join(filepath.Dir(root), "socket"))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if err := os.Chmod(filepath.Join(filepath.Dir(root), "socket"), 0o777); err != nil {
				t.Fatal(err)
			}
			// what another step executes
			other := filepath.Join(filepath.Dir(root), "programs", "other", "id")
			if err := errors.Join(os.MkdirAll(other, 0o755), os.Link(filepath.Join(root, "bin/probe"), filepath.Join(other, "probe"))); err != nil {
				t.Fatal(err)
			}
			out, code := runTranslated(t, root, func(s *testStep) {
				if abi > 0 {
					s.Config.ABI = abi
				}
				s.Command.Env = append(s.Command.Env, "OUTSIDE="+filepath.Dir(root))
			}, "/bin/probe", "hostile")
			if code != 0 || out != "hostile: nothing\n" {
				t.Errorf("exit code %d\n%s", code, out)
			}
		})
	}
}

// TestTranslateWithoutLandlock: nothing else holds the step then.
func TestTranslateWithoutLandlock(t *testing.T) {
	out, code := runTranslated(t, probeRoot(t), func(s *testStep) { s.Config.ABI = 0 }, "/bin/probe", "ordinary")
	if code != 251 || !strings.Contains(out, "without landlock") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// TestTranslateDynamic runs a program with a loader and libraries.
func TestTranslateDynamic(t *testing.T) {
	root := probeRoot(t)
	if err := bringDynamic(root, "/bin/bash"); err != nil {
		t.Skipf("bash is no dynamic program here: %v", err)
	}
	script := `cd /tmp && pwd && echo a > b && { read -r x < b; echo "$x"; } && for i in 1 2 3; do (exit $i); echo $?; done
/bin/script; cat=$(</etc/inside); echo "$cat"; [ -e /outside ] || echo none; exec /bin/bash -c 'echo $0 $BASH' x`
	out, code := runTranslated(t, root, nil, "/bin/bash", "-c", script)
	want := "/tmp\na\n1\n2\n3\n[/bin/probe said so /bin/script]\ninside\nnone\nx /bin/bash\n"
	if code != 0 || out != want {
		t.Errorf("exit code %d\n%s\nwant\n%s", code, out, want)
	}
}

// bringDynamic copies a program into a root with what it is linked with.
func bringDynamic(root, name string) error {
	file, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	to := filepath.Join(root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o755)); err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return err
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			loader, err := io.ReadAll(p.Open())
			if err != nil {
				return err
			}
			libraries = append(libraries, string(bytes.TrimRight(loader, "\x00")))
		}
	}
	if len(libraries) == 0 && !strings.Contains(name, ".so") {
		return errors.New("it is static")
	}
	for _, l := range libraries {
		found := filepath.IsAbs(l)
		for _, dir := range []string{"/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"} {
			if _, err := os.Stat(filepath.Join(dir, l)); !found && err == nil {
				l, found = filepath.Join(dir, l), true
			}
		}
		if _, err := os.Stat(filepath.Join(root, l)); err == nil {
			continue
		}
		if err := bringDynamic(root, l); err != nil {
			return err
		}
	}
	return nil
}

// lookAt is owner, mode and time of a file.
func lookAt(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d %#o %d", st.Uid, st.Gid, st.Mode, st.Mtim.Sec)
}
