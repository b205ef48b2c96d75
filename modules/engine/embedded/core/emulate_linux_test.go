package core

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"

	"drydock/modules/engine/embedded/executor"
)

// testEmulator builds the emulator of testdata.
func testEmulator(t *testing.T) executor.Emulator {
	t.Helper()
	out := filepath.Join(t.TempDir(), "emulator")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "./testdata/emulator")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return executor.Emulator{Path: out, SHA256: hex.EncodeToString(sum[:])}
}

// foreignRoot is busyboxRoot with programs of another architecture, as
// testdata's emulator understands them.
func foreignRoot(t *testing.T, scripts map[string]string) string {
	t.Helper()
	root := busyboxRoot(t)
	header := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xb7\x00" + strings.Repeat("\x00", 44)
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(root, name), []byte(header+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func needBinfmt(t *testing.T) {
	t.Helper()
	r := needT1(t)
	for _, f := range r.Findings {
		if f.Name == findingForeign && !f.OK {
			t.Skip("this host gives a user namespace no binfmt_misc of its own: " + f.Detail)
		}
	}
}

func TestForeignSteps(t *testing.T) {
	needBinfmt(t)
	emulator := testEmulator(t)
	root := foreignRoot(t, map[string]string{
		"hello":   `echo "$EMULATED $EMULATOR_WRITABLE."; id -u; cat /proc/sys/kernel/osrelease >/dev/null && echo $0-$1`,
		"owners":  `echo x >/made; busybox chown 1234:4321 /made; busybox chmod 4751 /made; busybox mkfifo /pipe; busybox chown 65534:65534 /pipe; mkdir -p /d; busybox chown 7:8 /d; rm /etc/group`,
		"inside":  `grep -E 'CapEff|Seccomp:' /proc/self/status; mount | grep binfmt; ls /proc/sys/fs/binfmt_misc; unshare -m true || echo no-unshare; mount -t tmpfs x /tmp || echo no-mount; busybox chroot / /bin/true && echo chroots; mount -t binfmt_misc x /tmp || echo no-binfmt; cat /proc/1/maps || echo not-init`,
		"setuid":  `echo "$EMULATED"`,
		"network": `busybox wget -T 2 -O - http://10.0.0.1/ || echo no-network`,
	})
	c := startChild(t, ChildConfig{Emulators: executor.Emulators{"arm64": emulator}})
	arm := func(args ...string) stepSpec { return stepSpec{Args: args, Platform: "linux/arm64"} }
	run := func(t *testing.T, steps ...stepSpec) outcome {
		t.Helper()
		return do(t, c.Socket, task{Dir: root, Steps: steps})
	}
	t.Run("runs", func(t *testing.T) {
		wantLogs(t, run(t, arm("/hello", "arg")), "/hello as 0 .\n0\n/hello-arg\n")
	})
	t.Run("from a shell of this machine", func(t *testing.T) {
		wantLogs(t, run(t, arm("/bin/sh", "-c", "exec /hello x")), "/hello as 0 .")
	})
	t.Run("owners", func(t *testing.T) {
		s := sh("stat -c '%n %u:%g %a %F' /made /pipe /d; test -e /etc/group || echo removed; /hello 2>/dev/null")
		s.Platform = platforms.DefaultString()
		out := run(t, arm("/owners"), s)
		wantLogs(t, out, "/made 1234:4321 4751 regular file", "/pipe 65534:65534 644 fifo", "/d 7:8 755 directory",
			"removed\n")
		if strings.Contains(out.Logs, "/hello as") {
			t.Errorf("the emulator is still there in the next step:\n%s", out.Logs)
		}
	})
	t.Run("confined", func(t *testing.T) {
		out := run(t, arm("/inside"))
		wantLogs(t, out, "CapEff:\t00000000a80425fb", "Seccomp:\t2", "no-unshare", "no-mount", "chroots", "no-binfmt", "not-init")
		if strings.Contains(out.Logs, " type binfmt_misc ") || strings.Contains(out.Logs, "register") {
			t.Errorf("binfmt_misc is seen:\n%s", out.Logs)
		}
	})
	t.Run("credentials of the program", func(t *testing.T) {
		s := arm("/setuid")
		s.User = "app"
		wantLogs(t, run(t, sh("busybox chmod 4755 /setuid"), s), "/setuid as 0")
	})
	t.Run("without its platform", func(t *testing.T) {
		wantErr(t, run(t, stepSpec{Args: []string{"/hello"}}), "exec format error")
	})
	t.Run("asked for by a step of this machine", func(t *testing.T) {
		s := sh("/hello both; echo ${DRYDOCK_EMULATE-unset}")
		s.Env = map[string]string{executor.EmulateEnv: "arm64"}
		wantLogs(t, run(t, s), "/hello-both", "unset")
	})
	t.Run("network", func(t *testing.T) {
		wantLogs(t, run(t, arm("/network")), "no-network")
	})
	t.Run("another architecture", func(t *testing.T) {
		s := sh("true")
		s.Env = map[string]string{executor.EmulateEnv: "riscv64"}
		wantErr(t, run(t, s), "cannot execute riscv64", "emulators.yaml", "BUILDPLATFORM")
	})
	t.Run("nothing left in the layer", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		wantLogs(t, do(t, c.Socket, task{Dir: root, Steps: []stepSpec{arm("/hello")}, Export: dir}))
		var have []string
		for _, sub := range []string{"", "bin", "proc", "dev", "sys"} {
			entries, err := os.ReadDir(filepath.Join(dir, sub))
			if err != nil && sub != "proc" && sub != "dev" && sub != "sys" {
				t.Fatal(err)
			}
			for _, e := range entries {
				have = append(have, e.Name())
			}
		}
		if s := strings.Join(have, " "); strings.Contains(s, "qemu") || strings.Contains(s, "emulator") || strings.Contains(s, "binfmt") {
			t.Errorf("the layer has %s", s)
		}
	})
}

func TestForeignRefused(t *testing.T) {
	needBinfmt(t)
	emulator := testEmulator(t)
	root := foreignRoot(t, map[string]string{"hello": "echo hello"})
	arm := stepSpec{Args: []string{"/hello"}, Platform: "linux/arm64"}
	c := startChild(t, ChildConfig{})
	wantErr(t, do(t, c.Socket, task{Dir: root, Steps: []stepSpec{arm}}),
		"cannot execute linux/arm64", "emulators.yaml names no emulator", "BUILDPLATFORM", "Dagger Engine")

	other := emulator
	other.SHA256 = strings.Repeat("0", 64)
	c = startChild(t, ChildConfig{Emulators: executor.Emulators{"arm64": other}})
	wantErr(t, do(t, c.Socket, task{Dir: root, Steps: []stepSpec{arm}}), "is not the file that is locked")

	other.Path += ".not-there"
	c = startChild(t, ChildConfig{Emulators: executor.Emulators{"arm64": other}})
	wantErr(t, do(t, c.Socket, task{Dir: root, Steps: []stepSpec{arm}}), "reading the emulator", "no such file")
}
