package jail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

func TestBuildFilterRules(t *testing.T) {
	raw, err := BuildFilter(DefaultCapabilities,
		Rule{Call: "connect", Action: Notify},
		Rule{Call: "mount", Action: Notify},
		Rule{Call: "no_such_call", Action: Notify},
		Rule{Call: "chroot", Action: Refuse, Errno: uint32(unix.EACCES)},
		Rule{Call: "socket", If: []Test{{Arg: 0, Value: unix.AF_INET}, {Arg: 1, Mask: 0xf, Value: unix.SOCK_RAW}}, Action: Refuse, Errno: uint32(unix.EPERM)},
		Rule{Call: "socket", If: []Test{{Arg: 0, Value: unix.AF_INET}}, Action: Notify},
		Rule{Call: "sendto", If: []Test{{Arg: 3, Mask: unix.MSG_FASTOPEN, Not: true}}, Action: Refuse, Errno: uint32(unix.EOPNOTSUPP)},
		Rule{Call: "keyctl", If: []Test{{Arg: 0, Value: 3}}, Action: Allow},
	)
	if err != nil {
		t.Skip(err) // another architecture
	}
	prog, _ := bpf.Disassemble(raw)
	vm, err := bpf.NewVM(prog)
	if err == nil {
		t.Log(len(raw), "instructions")
	} else {
		t.Fatal(err)
	}
	const allow, ask = uint32(unix.SECCOMP_RET_ALLOW), uint32(unix.SECCOMP_RET_USER_NOTIF)
	fail := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	for _, c := range []struct {
		name   string
		number uint32
		args   []uint64
		want   uint32
	}{
		{"notified", unix.SYS_CONNECT, nil, ask},
		{"notified though the profile refuses", unix.SYS_MOUNT, nil, ask},
		{"refused though the profile allows", unix.SYS_CHROOT, nil, fail(unix.EACCES)},
		{"both tests hold", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC}, fail(unix.EPERM)},
		{"high bits change nothing", unix.SYS_SOCKET, []uint64{1<<40 | unix.AF_INET, unix.SOCK_RAW}, fail(unix.EPERM)},
		{"the second rule", unix.SYS_SOCKET, []uint64{unix.AF_INET, unix.SOCK_STREAM}, ask},
		{"no rule, the profile allows", unix.SYS_SOCKET, []uint64{unix.AF_UNIX, unix.SOCK_RAW}, allow},
		{"no rule, the profile refuses", unix.SYS_SOCKET, []uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, fail(unix.EPERM)},
		{"a bit is set", unix.SYS_SENDTO, []uint64{0, 0, 0, unix.MSG_FASTOPEN}, fail(unix.EOPNOTSUPP)},
		{"a bit is not set", unix.SYS_SENDTO, []uint64{0, 0, 0, unix.MSG_NOSIGNAL}, allow},
		{"allowed by a rule", unix.SYS_KEYCTL, []uint64{3}, allow},
		{"not allowed by it", unix.SYS_KEYCTL, []uint64{4}, fail(unix.EPERM)},
		{"no rule at all", unix.SYS_READ, nil, allow},
		{"newer than we know", 5000, nil, fail(unix.ENOSYS)},
	} {
		if got := call(t, vm, auditArch, c.number, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	// what is sent to an init arrives as it was
	b, err := json.Marshal(raw.SockFilter())
	var back []unix.SockFilter
	if err != nil || json.Unmarshal(b, &back) != nil || !reflect.DeepEqual(back, raw.SockFilter()) {
		t.Errorf("the filter does not survive being sent: %v", err)
	}
}

func TestBuildFilterRefuses(t *testing.T) {
	if len(syscallTable()) == 0 {
		t.Skip("no filters for this architecture")
	}
	many := make([]Rule, 200)
	for i := range many {
		many[i] = Rule{Call: "read", If: []Test{{Value: uint32(i)}}, Action: Notify}
	}
	for want, rules := range map[string][]Rule{
		"no action":   {{Call: "read"}},
		"no error":    {{Call: "read", Action: Refuse}},
		"argument 6":  {{Call: "read", Action: Notify, If: []Test{{Arg: 6}}}},
		"argument -1": {{Call: "read", Action: Notify, If: []Test{{Arg: -1}}}},
		"too many":    many,
	} {
		if _, err := BuildFilter(0, rules...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := notify.Install(nil); err == nil {
		t.Error("an empty filter was installed")
	}
}

// target starts a process under a filter and returns its listener.
func target(t *testing.T, what string) (*exec.Cmd, *bytes.Buffer, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socket")
	defer unix.Close(fds[0])
	out := &bytes.Buffer{}
	cmd := exec.Command("/proc/self/exe", what)
	cmd.Env = append(os.Environ(), "DRYDOCK_JAIL_TEST=notify")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	l, err := notify.Accept(fds[0])
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { l.Close() })
	return cmd, out, l
}

const notifyText = "from the supervisor"

// answers is a supervisor that knows the calls notifyTarget makes.
func answers(t *testing.T, kills *atomic.Int64) func(*notify.Request) notify.Response {
	return func(r *notify.Request) notify.Response {
		switch r.Call {
		case unix.SYS_FCHOWNAT:
			name, err := r.ReadString(r.Args[1], 4096)
			switch {
			case errors.Is(err, unix.EFAULT):
				return notify.Errno(unix.EFAULT)
			case errors.Is(err, unix.ENAMETOOLONG):
				return notify.Errno(unix.ENAMETOOLONG)
			case err != nil || !strings.HasPrefix(name, "/not/there"):
				t.Errorf("name %q: %v", name, err)
			}
			return notify.Return(0)
		case unix.SYS_MLOCKALL:
			return notify.Errno(unix.EXDEV)
		case unix.SYS_TRUNCATE: // to be killed in the middle
			kills.Add(1)
			_ = unix.Kill(r.PID, unix.SIGKILL)
			for r.Valid() {
				time.Sleep(time.Millisecond)
			}
			if err := r.ReadMemory(r.Args[0], make([]byte, 1)); !errors.Is(err, notify.ErrGone) {
				t.Errorf("reading from the dead: %v", err)
			}
			if err := r.WriteMemory(r.Args[0], make([]byte, 1)); !errors.Is(err, notify.ErrGone) {
				t.Errorf("writing to the dead: %v", err)
			}
			if _, err := r.PutFD(0, -1, true); !errors.Is(err, unix.ENOENT) {
				t.Errorf("a descriptor for the dead: %v", err)
			}
			return notify.Return(0)
		case unix.SYS_GETRESUID:
			for i, a := range r.Args[:3] {
				v := uint32(100 + i)
				if err := r.WriteMemory(a, unsafe.Slice((*byte)(unsafe.Pointer(&v)), 4)); err != nil {
					return notify.Errno(unix.EFAULT)
				}
			}
			return notify.Return(0)
		case unix.SYS_SOCKET:
			fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
			if err != nil {
				t.Error(err)
			}
			_, err = unix.Pwrite(fd, []byte(notifyText), 0)
			if err != nil {
				t.Error(err)
			}
			if n, err := r.PutFD(fd, 60, true); err != nil || n != 60 {
				t.Errorf("descriptor 60: %d, %v", n, err)
			}
			return notify.GiveFD(fd, r.Args[1]&unix.SOCK_CLOEXEC != 0)
		}
		return notify.Continue()
	}
}

func TestNotify(t *testing.T) {
	if len(syscallTable()) == 0 {
		t.Skip("no filters for this architecture")
	}
	for _, c := range []struct {
		what    string
		workers int
	}{{"each", 1}, {"each", 3}, {"many", 1}, {"many", 4}, {"killed", 2}, {"user", 1}} {
		if c.what == "user" && os.Getuid() != 0 {
			continue // only root has others
		}
		t.Run(fmt.Sprint(c.what, c.workers), func(t *testing.T) {
			cmd, out, l := target(t, c.what)
			served := make(chan error, 1)
			var kills, calls atomic.Int64
			handle := answers(t, &kills)
			go func() {
				served <- notify.Serve(l, c.workers, func(r *notify.Request) notify.Response {
					calls.Add(1)
					return handle(r)
				})
			}()
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			select {
			case err := <-served:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("serving goes on though nobody is left")
			}
			t.Logf("%d calls", calls.Load())
			if c.what == "many" && calls.Load() != manyProcesses*manyCalls {
				t.Errorf("%d calls", calls.Load())
			}
			if c.what == "killed" && kills.Load() != 1 {
				t.Errorf("%d were killed", kills.Load())
			}
		})
	}
}

// A supervisor that is gone leaves nobody waiting.
func TestNotifyAbandoned(t *testing.T) {
	if len(syscallTable()) == 0 {
		t.Skip("no filters for this architecture")
	}
	cmd, out, l := target(t, "abandoned")
	l.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAcceptNothing(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	if _, err := unix.Write(fds[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	if f, err := notify.Accept(fds[0]); err == nil {
		t.Errorf("got %v", f)
	}
	unix.Close(fds[1])
	if f, err := notify.Accept(fds[0]); err == nil {
		t.Errorf("got %v", f)
	}
}

// The same inside what an ordinary container gives: its seccomp profile and
// capabilities, as root and as somebody.
func TestNotifyNested(t *testing.T) {
	if len(syscallTable()) == 0 {
		t.Skip("no filters for this architecture")
	}
	if os.Getenv("DRYDOCK_JAIL_NESTED") != "" {
		t.Skip("this is inside already")
	}
	users := []uint32{uint32(os.Getuid())}
	if os.Getuid() == 0 {
		users = append(users, 65534)
	}
	for _, uid := range users {
		t.Run(fmt.Sprint("uid", uid), func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), "DRYDOCK_JAIL_TEST=sandbox", "DRYDOCK_JAIL_NESTED=1")
			if uid != uint32(os.Getuid()) {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("--- PASS: TestNotify/each1")) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// sandboxChild turns into an ordinary container's process and runs the tests.
func sandboxChild() int {
	runtime.LockOSThread()
	os.Unsetenv("DRYDOCK_JAIL_TEST")
	filter, err := DefaultFilter(DefaultCapabilities)
	if err == nil {
		err = NoNewPrivileges()
	}
	if st, oerr := Observe(); oerr == nil && st.Effective&(1<<8) != 0 && err == nil {
		err = KeepCapabilities(DefaultCapabilities)
	}
	if err == nil {
		err = filter.Install()
	}
	if err == nil {
		err = unix.Exec("/proc/self/exe", []string{"jail.test", "-test.run=^TestNotify$", "-test.v", "-test.count=1"}, os.Environ())
	}
	println(err.Error())
	return 1
}

const (
	manyProcesses = 12
	manyCalls     = 300
)

// notifyTarget installs a filter, passes its listener on and makes calls.
func notifyTarget() int {
	runtime.LockOSThread()
	filter, err := BuildFilter(DefaultCapabilities,
		Rule{Call: "fchownat", Action: Notify}, Rule{Call: "mlockall", Action: Notify},
		Rule{Call: "truncate", Action: Notify}, Rule{Call: "getresuid", Action: Notify},
		Rule{Call: "socket", If: []Test{{Value: unix.AF_INET}}, Action: Notify},
		Rule{Call: "getpriority", Action: Notify},
	)
	if err == nil {
		err = NoNewPrivileges()
	}
	if err != nil {
		println(err.Error())
		return 1
	}
	l, err := filter.InstallNotify()
	if err == nil {
		err = notify.Pass(3, l)
		l.Close()
		unix.Close(3)
	}
	if err != nil {
		println(err.Error())
		return 1
	}
	switch what := os.Args[1]; what {
	case "each":
		return notifyCalls()
	case "given":
		return notifyGiven()
	case "abandoned":
		for {
			if err := unix.Mlockall(0); errors.Is(err, unix.ENOSYS) {
				return 0
			}
			time.Sleep(time.Millisecond)
		}
	case "killed":
		var cmds []*exec.Cmd
		for _, mode := range []string{"killed", "each"} {
			cmd := exec.Command("/proc/self/exe", mode)
			cmd.Env = []string{"DRYDOCK_JAIL_TEST=notify-calls"}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				println(err.Error())
				return 1
			}
			cmds = append(cmds, cmd)
		}
		killed, other := cmds[0].Wait(), cmds[1].Wait()
		if killed == nil || killed.Error() != "signal: killed" || other != nil {
			println(fmt.Sprint(killed, other))
			return 1
		}
		return 0
	case "user":
		cmd := exec.Command("/proc/self/exe", "each")
		cmd.Env = []string{"DRYDOCK_JAIL_TEST=notify-calls"}
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1235}}
		if err := cmd.Run(); err != nil {
			println(err.Error())
			return 1
		}
		return 0
	default:
		return notifyMany()
	}
}

func notifyMany() int {
	var cmds []*exec.Cmd
	for range manyProcesses {
		cmd := exec.Command("/proc/self/exe", "many")
		cmd.Env = []string{"DRYDOCK_JAIL_TEST=notify-calls"}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			println(err.Error())
			return 1
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			println(err.Error())
			return 1
		}
	}
	return 0
}

func notifyCalls() int {
	switch os.Args[1] {
	case "killed":
		println(fmt.Sprint(unix.Truncate("x", 0)), "but should be dead")
		return 1
	case "many":
		for range manyCalls {
			if err := unix.Fchownat(unix.AT_FDCWD, "/not/there", 1, 1, 0); err != nil {
				println(err.Error())
				return 1
			}
		}
		return 0
	}
	bad := 0
	check := func(what string, ok bool, err error) {
		if !ok {
			println(what, fmt.Sprint(err))
			bad++
		}
	}
	err := unix.Fchownat(unix.AT_FDCWD, "/not/there/"+strings.Repeat("x", 4000), 1, 1, 0)
	check("fchownat", err == nil, err)
	err = unix.Fchownat(unix.AT_FDCWD, "/not/there/"+strings.Repeat("x", 4096), 1, 1, 0)
	check("fchownat of a long name", errors.Is(err, unix.ENAMETOOLONG), err)
	_, _, errno := unix.Syscall6(unix.SYS_FCHOWNAT, 0, 1, 1, 1, 0, 0)
	check("fchownat of no name", errno == unix.EFAULT, errno)
	// a name that ends where the mapping does
	page, err := unix.Mmap(-1, 0, 2*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	check("mmap", err == nil, err)
	check("mprotect", unix.Mprotect(page[4096:], unix.PROT_NONE) == nil, nil)
	copy(page[4096-11:], "/not/there\x00")
	_, _, errno = unix.Syscall6(unix.SYS_FCHOWNAT, 0, uintptr(unsafe.Pointer(&page[4096-11])), 1, 1, 0, 0)
	check("fchownat of a name at the edge", errno == 0, errno)
	err = unix.Mlockall(0)
	check("mlockall", errors.Is(err, unix.EXDEV), err)
	r, e, s := unix.Getresuid()
	check("getresuid", r == 100 && e == 101 && s == 102, nil)
	_, err = unix.Getpriority(unix.PRIO_PROCESS, 0)
	check("getpriority", err == nil, err)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check("socket", err == nil, err)
	for _, n := range []int{fd, 60} {
		b := make([]byte, 100)
		got, err := unix.Pread(n, b, 0)
		check("what was given", err == nil && string(b[:max(got, 0)]) == notifyText, err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	check("close-on-exec", err == nil && flags&unix.FD_CLOEXEC != 0, err)
	other, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check("unix socket", err == nil && slices.Contains([]int{fd + 1, fd + 2, fd + 3}, other), err)
	return bad
}
