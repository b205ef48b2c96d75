package jail

import (
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be its own confined process.
func TestMain(m *testing.M) {
	switch os.Getenv("DRYDOCK_JAIL_TEST") {
	case "landlock":
		os.Exit(landlockChild(os.Getenv("DRYDOCK_JAIL_DIR")))
	case "thread":
		os.Exit(threadChild())
	case "notify":
		os.Exit(notifyTarget())
	case "notify-calls":
		os.Exit(notifyCalls())
	case "sandbox":
		os.Exit(sandboxChild())
	}
	os.Exit(m.Run())
}

func again(t *testing.T, mode string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), "DRYDOCK_JAIL_TEST="+mode), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestDefaultCapabilities(t *testing.T) {
	if DefaultCapabilities != 0xa80425fb {
		t.Errorf("got %#x", uint64(DefaultCapabilities))
	}
	names := DefaultCapabilities.Names()
	if len(names) != 14 || names[0] != "CAP_CHOWN" || names[13] != "CAP_SETFCAP" {
		t.Errorf("got %q", names)
	}
	if got := (Capabilities(1) << 21).Names(); !reflect.DeepEqual(got, []string{"CAP_SYS_ADMIN"}) {
		t.Errorf("got %q", got)
	}
}

// call runs the filter over one system call, as the kernel would.
func call(t *testing.T, vm *bpf.VM, arch, number uint32, args ...uint64) uint32 {
	t.Helper()
	// the virtual machine reads network byte order
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b[offNumber:], number)
	binary.BigEndian.PutUint32(b[offArch:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(b[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(b[offArgs+8*i+4:], uint32(a>>32))
	}
	r, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(r)
}

func TestDefaultFilter(t *testing.T) {
	raw, err := DefaultFilter(DefaultCapabilities)
	if err != nil {
		t.Skip(err) // another architecture
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter does not disassemble")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	const allow = unix.SECCOMP_RET_ALLOW
	eperm := uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.EPERM)
	enosys := uint32(unix.SECCOMP_RET_ERRNO) | uint32(unix.ENOSYS)
	for _, c := range []struct {
		name   string
		number uint32
		args   []uint64
		want   uint32
	}{
		{"read", unix.SYS_READ, nil, allow},
		{"execve", unix.SYS_EXECVE, nil, allow},
		{"chroot is in the capabilities", unix.SYS_CHROOT, nil, allow},
		{"mount", unix.SYS_MOUNT, nil, eperm},
		{"unshare", unix.SYS_UNSHARE, nil, eperm},
		{"setns", unix.SYS_SETNS, nil, eperm},
		{"bpf", unix.SYS_BPF, nil, eperm},
		{"keyctl", unix.SYS_KEYCTL, nil, eperm},
		{"init_module", unix.SYS_INIT_MODULE, nil, eperm},
		{"clone of a thread", unix.SYS_CLONE, []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
		{"clone with a user namespace", unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER}, eperm},
		{"clone3", unix.SYS_CLONE3, nil, enosys},
		{"inet socket", unix.SYS_SOCKET, []uint64{unix.AF_INET}, allow},
		{"crypto socket", unix.SYS_SOCKET, []uint64{unix.AF_ALG}, eperm},
		{"crypto socket, high bits set", unix.SYS_SOCKET, []uint64{1<<32 | unix.AF_ALG}, eperm},
		{"vsock", unix.SYS_SOCKET, []uint64{unix.AF_VSOCK}, eperm},
		{"personality 0", unix.SYS_PERSONALITY, []uint64{0}, allow},
		{"personality", unix.SYS_PERSONALITY, []uint64{0x0040000}, eperm},
		{"newer than we know", 5000, nil, enosys},
		{"x32", x32Bit | unix.SYS_READ, nil, enosys},
	} {
		if got := call(t, vm, auditArch, c.number, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	if got := call(t, vm, 0x40000003, unix.SYS_READ); got != enosys {
		t.Errorf("a 32-bit call: %#x", got)
	}
}

func TestRanges(t *testing.T) {
	got := ranges(map[uint32]bool{1: true, 2: true, 4: true, 9: true, 8: true})
	if want := [][2]uint32{{1, 2}, {4, 4}, {8, 9}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestSubordinateIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	text := "root:1:1\nada:100000:65536\n# ada:5:5\nada:bad:7\nada:9:-1\n1001:300000:10\nadam:7:7\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := SubordinateIDs(file, "ada", 1001)
	if err != nil {
		t.Fatal(err)
	}
	if want := []IDRange{{100000, 65536}, {300000, 10}}; !reflect.DeepEqual(got, want) || CountIDs(got) != 65546 {
		t.Errorf("got %v", got)
	}
	if none, err := SubordinateIDs(file+"x", "ada", 1); err != nil || none != nil {
		t.Errorf("got %v, %v", none, err)
	}
}

func TestMapIDsArguments(t *testing.T) {
	dir := t.TempDir()
	helper := filepath.Join(dir, "newuidmap")
	if err := os.WriteFile(helper, []byte("#!/bin/sh\necho \"$@\" >"+dir+"/args\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := MapIDs(t.Context(), helper, 42, 1000, []IDRange{{100, 65000}, {200000, 9999}, {5, 5}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(dir + "/args")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(b)); got != "42 0 1000 1 1 100 65000 65001 200000 536" {
		t.Errorf("got %s", got)
	}
	if err := MapIDs(t.Context(), "/bin/false", 42, 1000, nil); err == nil {
		t.Error("a failing helper went unnoticed")
	}
}

func TestLandlock(t *testing.T) {
	if LandlockABI() == 0 {
		t.Skip("this kernel has no landlock")
	}
	dir := t.TempDir()
	for _, d := range []string{"read", "write", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "f"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := again(t, "landlock", "DRYDOCK_JAIL_DIR="+dir); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func landlockChild(dir string) int {
	abi, err := Landlock(FSRules{ReadOnly: []string{dir + "/read", "/proc", "/nonexistent"}, ReadWrite: []string{dir + "/write"}})
	if err != nil || abi == 0 {
		println("landlock:", abi, err != nil)
		return 1
	}
	bad := 0
	check := func(what string, err error, want bool) {
		if (err == nil) != want {
			println(what, "allowed:", err == nil)
			bad++
		}
	}
	_, err = os.ReadFile(dir + "/read/f")
	check("read", err, true)
	check("write to what is read-only", os.WriteFile(dir+"/read/f", nil, 0o644), false)
	check("write", os.WriteFile(dir+"/write/g", nil, 0o644), true)
	_, err = os.ReadFile(dir + "/other/f")
	check("read elsewhere", err, false)
	st, err := Observe()
	check("observe", err, true)
	if !st.NoNewPrivs || st.LandlockABI == 0 {
		println("no-new-privs:", st.NoNewPrivs)
		bad++
	}
	return bad
}

func TestThreadConfinement(t *testing.T) {
	if out, err := again(t, "thread"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// threadChild confines one thread and looks that a process started from it is
// confined while this one is not.
func threadChild() int {
	before, err := Observe()
	if err != nil {
		println(err.Error())
		return 1
	}
	runtime.LockOSThread()
	if err := NoNewPrivileges(); err != nil {
		println(err.Error())
		return 1
	}
	filter, err := DefaultFilter(DefaultCapabilities)
	if err != nil {
		println(err.Error())
		return 0 // another architecture
	}
	if err := filter.Install(); err != nil {
		println(err.Error())
		return 1
	}
	if before.Effective&(1<<8) != 0 { // setpcap: else the bounding set stays
		if err := KeepCapabilities(DefaultCapabilities); err != nil {
			println(err.Error())
			return 1
		}
	}
	out, err := exec.Command("/bin/cat", "/proc/self/status").Output()
	if err != nil {
		println(err.Error())
		return 1
	}
	after, err := Observe()
	if err != nil || !after.NoNewPrivs || !after.Seccomp || after.Effective&^DefaultCapabilities&before.Effective != 0 && before.Effective&(1<<8) != 0 {
		println("this thread is not confined")
		return 1
	}
	if !strings.Contains(string(out), "Seccomp:\t2") || !strings.Contains(string(out), "NoNewPrivs:\t1") {
		println(string(out))
		return 1
	}
	if err := unix.Mount("none", "/nonexistent", "tmpfs", 0, ""); err != unix.EPERM {
		println("mount:", err.Error())
		return 1
	}
	return 0
}

func TestSpawnerKillsWithItself(t *testing.T) {
	s := NewSpawner()
	cmd := exec.Command("/bin/sleep", "60")
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.Close()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v", err)
	}
}

func TestObserveInterfaces(t *testing.T) {
	st, err := Observe()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range st.Interfaces {
		i, err := net.InterfaceByName(name)
		if err != nil || i.Flags&net.FlagLoopback != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
