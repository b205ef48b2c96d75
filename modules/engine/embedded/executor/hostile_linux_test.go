package executor

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// breach is one attempt that must fail.
type breach struct {
	name string
	try  func(h hostile) error // nil: it went well, which it must not
}

// hostile is what a hostile step knows of the world outside.
type hostile struct {
	engine   int    // process number of the engine
	file     string // a file of the engine's
	abstract string // an abstract socket somebody outside listens on
	port     int    // on 127.0.0.1, outside
}

func parseHostile(args []string) (h hostile) {
	h.engine, _ = strconv.Atoi(args[0])
	h.file, h.abstract = args[1], args[2]
	h.port, _ = strconv.Atoi(args[3])
	return h
}

func (h hostile) args() []string {
	return []string{strconv.Itoa(h.engine), h.file, h.abstract, strconv.Itoa(h.port)}
}

func probeHostile(args []string) int {
	h := parseHostile(args)
	// a number that is also right for the reader of the output
	bad := 0
	for _, b := range breaches() {
		err := b.try(h)
		if err == nil {
			fmt.Println("BREACH", b.name)
			bad++
		}
	}
	if bad > 0 {
		return 1
	}
	fmt.Println(len(breaches()), "attempts failed as they must")
	return 0
}

func breaches() []breach {
	return append(append(processBreaches(), fileBreaches()...), networkBreaches()...)
}

func processBreaches() []breach {
	call := func(n uintptr, args ...uintptr) error {
		for len(args) < 6 {
			args = append(args, 0)
		}
		_, _, errno := unix.Syscall6(n, args[0], args[1], args[2], args[3], args[4], args[5])
		if errno != 0 {
			return errno
		}
		return nil
	}
	return []breach{
		{"ptrace", func(h hostile) error { return unix.PtraceAttach(h.engine) }},
		{"ptrace seize", func(h hostile) error { return unix.PtraceSeize(h.engine) }},
		{"signal", func(h hostile) error { return unix.Kill(h.engine, unix.SIGURG) }},
		{"signal 0", func(h hostile) error { return unix.Kill(h.engine, 0) }},
		{"signal to all", func(hostile) error {
			// everything but ourselves is outside: nothing may be hit
			if err := unix.Kill(-1, unix.SIGUSR1); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ESRCH) {
				return err
			}
			return errors.New("tried: the listener outside counts")
		}},
		{"signal to a thread", func(h hostile) error { return unix.Tgkill(h.engine, h.engine, unix.SIGURG) }},
		{"signal by pidfd", func(h hostile) error {
			fd, err := unix.PidfdOpen(h.engine, 0)
			if err != nil {
				return err
			}
			return unix.PidfdSendSignal(fd, unix.SIGURG, nil, 0)
		}},
		{"signal by descriptor owner", func(h hostile) error {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			defer r.Close()
			defer w.Close()
			if _, err := unix.FcntlInt(r.Fd(), unix.F_SETOWN, h.engine); err != nil {
				return err
			}
			// it can be set where the kernel bounds the sending: whether the
			// engine is hit is seen outside
			_, _ = unix.FcntlInt(r.Fd(), unix.F_SETSIG, int(unix.SIGUSR1))
			flags, _ := unix.FcntlInt(r.Fd(), unix.F_GETFL, 0)
			_, _ = unix.FcntlInt(r.Fd(), unix.F_SETFL, flags|unix.O_ASYNC)
			_, _ = w.Write([]byte("x"))
			return errors.New("tried: the engine counts")
		}},
		{"memory", func(h hostile) error {
			b := make([]byte, 8)
			_, err := unix.ProcessVMReadv(h.engine, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
			return err
		}},
		{"descriptor of another", func(h hostile) error {
			fd, err := unix.PidfdOpen(h.engine, 0)
			if err != nil {
				return err
			}
			_, err = unix.PidfdGetfd(fd, 0, 0)
			return err
		}},
		{"limits", func(h hostile) error {
			return unix.Prlimit(h.engine, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
		}},
		{"priority", func(h hostile) error { return unix.Setpriority(unix.PRIO_PROCESS, h.engine, 19) }},
		{"priority of all", func(hostile) error { return unix.Setpriority(unix.PRIO_USER, 0, 19) }},
		{"affinity", func(h hostile) error {
			var set unix.CPUSet
			set.Set(0)
			return unix.SchedSetaffinity(h.engine, &set)
		}},
		{"io_uring", func(hostile) error {
			var params [120]byte
			return call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)))
		}},
		{"userfaultfd", func(hostile) error { return call(unix.SYS_USERFAULTFD, 0) }},
		{"bpf", func(hostile) error { return call(unix.SYS_BPF, 0, 0, 0) }},
		{"perf", func(hostile) error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0) }},
		{"keyring", func(hostile) error { _, err := unix.KeyctlGetKeyringID(-3, true); return err }},
		{"kcmp", func(h hostile) error { return call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(h.engine), 0, 0, 0) }},
		{"shared memory", func(hostile) error {
			_, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
			return err
		}},
		{"message queue", func(hostile) error {
			name := []byte("drydock\x00")
			return call(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT|unix.O_RDWR, 0o600, 0)
		}},
		{"a user namespace", func(hostile) error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{"a namespace by clone", func(hostile) error {
			cmd := exec.Command("/bin/probe", "exit", "0")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
			return cmd.Run()
		}},
		{"capabilities", func(hostile) error {
			b, err := os.ReadFile("/proc/self/status")
			if err == nil && !bytes.Contains(b, []byte("CapBnd:\t00000000a00005fb")) && !bytes.Contains(b, []byte("CapPrm:\t0000000000000000")) ||
				os.Getuid() != 0 && !bytes.Contains(b, []byte("CapEff:\t0000000000000000")) {
				return nil
			}
			return errors.New("only eleven")
		}},
		{"seccomp listener", func(hostile) error {
			// allow everything, and be told of it: a second listener cannot be had
			ins := unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW}
			prog := unix.SockFprog{Len: 1, Filter: &ins}
			return call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
		}},
	}
}

func fileBreaches() []breach {
	read := func(name string) error { _, err := os.ReadFile(name); return err }
	return []breach{
		{"a file outside", func(h hostile) error { return read(h.file) }},
		{"a file outside, upwards", func(h hostile) error { return read("../../../../../../../.." + h.file) }},
		{"the engine's environment", func(h hostile) error { return read(fmt.Sprintf("/proc/%d/environ", h.engine)) }},
		{"the engine's memory", func(h hostile) error { return read(fmt.Sprintf("/proc/%d/mem", h.engine)) }},
		{"the engine's root", func(h hostile) error { return read(fmt.Sprintf("/proc/%d/root%s", h.engine, h.file)) }},
		{"process 1's environment", func(hostile) error { return read("/proc/1/environ") }},
		{"the parent's environment", func(hostile) error { return read(fmt.Sprintf("/proc/%d/environ", os.Getppid())) }},
		{"the parent's root", func(h hostile) error { return read(fmt.Sprintf("/proc/%d/root%s", os.Getppid(), h.file)) }},
		{"the parent's files", func(hostile) error {
			f, err := os.Open(fmt.Sprintf("/proc/%d/fd/3", os.Getppid()))
			if err == nil {
				f.Close()
			}
			return err
		}},
		{"a file outside, through our own root", func(h hostile) error { return read("/proc/self/root/.." + h.file) }},
		{"a file outside, through a directory descriptor", func(h hostile) error {
			for _, name := range []string{"/", "/proc", "/proc/self", "/proc/self/fd", "/proc/self/task", "/proc/self/cwd", "/proc/self/root", "/dev/fd", "/dev"} {
				fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
				if err != nil {
					continue
				}
				f, err := unix.Openat(fd, strings.Repeat("../", 12)+h.file[1:], unix.O_RDONLY, 0)
				if err == nil {
					unix.Close(f)
					fmt.Println("by", name)
					return nil
				}
			}
			return errors.New("none")
		}},
		{"chroot", func(hostile) error {
			if err := os.MkdirAll("/tmp/jail", 0o755); err != nil {
				return err
			}
			defer os.Remove("/tmp/jail")
			return unix.Chroot("/tmp/jail")
		}},
		{"mount", func(hostile) error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"mount proc", func(hostile) error { return unix.Mount("proc", "/proc", "proc", 0, "") }},
		{"remount", func(hostile) error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
		{"a tree of mounts", func(hostile) error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", 1); return err }},
		{"a new file system", func(hostile) error { _, err := unix.Fsopen("tmpfs", 0); return err }},
		{"pivot_root", func(hostile) error { return unix.PivotRoot("/tmp", "/tmp") }},
		{"a block device", func(hostile) error { return unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))) }},
		{"a character device", func(hostile) error { return unix.Mknod("/tmp/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))) }},
		{"a file by handle", func(hostile) error {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
			if err != nil {
				return err
			}
			_, err = unix.OpenByHandleAt(unix.AT_FDCWD, h, unix.O_RDONLY)
			return err
		}},
		{"privileges of a setuid file", func(hostile) error {
			b, err := os.ReadFile("/bin/probe")
			if err != nil {
				return err
			}
			if err := os.WriteFile("/tmp/suid", b, 0o755); err != nil {
				return err
			}
			defer os.Remove("/tmp/suid")
			if err := os.Chmod("/tmp/suid", 0o4755); err != nil {
				return err
			}
			cmd := exec.Command("/tmp/suid", "id")
			cmd.Args[0] = "probe"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
			out, err := cmd.CombinedOutput()
			if err == nil && strings.HasPrefix(string(out), "0 ") {
				return nil
			}
			return errors.New("none")
		}},
	}
}

func networkBreaches() []breach {
	dial := func(network, address string) error {
		c, err := net.DialTimeout(network, address, 3*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}
	datagram := func(family int, to unix.Sockaddr) error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, []byte("x"), 0, to); err == nil {
			return nil
		}
		if err := unix.Sendmsg(fd, []byte("x"), nil, to, 0); err == nil {
			return nil
		}
		_ = unix.Connect(fd, to)
		_, err = unix.Write(fd, []byte("x"))
		return err
	}
	socket := func(family, kind, proto int) error {
		fd, err := unix.Socket(family, kind, proto)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	return []breach{
		{"tcp to a port outside", func(h hostile) error { return dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.port)) }},
		{"tcp to a port outside, version 6", func(h hostile) error { return dial("tcp6", fmt.Sprintf("[::1]:%d", h.port)) }},
		{"tcp to a port outside, mapped", func(h hostile) error { return dial("tcp6", fmt.Sprintf("[::ffff:127.0.0.1]:%d", h.port)) }},
		{"tcp to another loopback address", func(h hostile) error { return dial("tcp", fmt.Sprintf("127.9.9.9:%d", h.port)) }},
		{"tcp to 0", func(h hostile) error { return dial("tcp", fmt.Sprintf("0.0.0.0:%d", h.port)) }},
		{"tcp to docker's names", func(hostile) error { return dial("tcp", "127.0.0.11:53") }},
		{"tcp to the world", func(hostile) error { return dial("tcp", "192.0.2.1:443") }},
		{"tcp to metadata", func(hostile) error { return dial("tcp", "169.254.169.254:80") }},
		{"udp to the world", func(hostile) error {
			return datagram(unix.AF_INET, &unix.SockaddrInet4{Port: 53, Addr: [4]byte{192, 0, 2, 1}})
		}},
		{"udp to a port outside", func(h hostile) error {
			return datagram(unix.AF_INET, &unix.SockaddrInet4{Port: h.port, Addr: [4]byte{127, 0, 0, 1}})
		}},
		{"udp to a port outside, version 6", func(h hostile) error {
			return datagram(unix.AF_INET6, &unix.SockaddrInet6{Port: h.port, Addr: [16]byte{15: 1}})
		}},
		{"raw socket", func(hostile) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{"ping socket", func(hostile) error { return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) }},
		{"packet socket", func(hostile) error { return socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0) }},
		{"multipath tcp", func(hostile) error { return socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP) }},
		{"sctp", func(hostile) error { return socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP) }},
		{"vsock", func(hostile) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
		{"alg", func(hostile) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }},
		{"netlink, sockets", func(hostile) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_INET_DIAG) }},
		{"smc", func(hostile) error { return socket(unix.AF_SMC, unix.SOCK_STREAM, 0) }},
		{"tcp fast open", func(h hostile) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			to := &unix.SockaddrInet4{Port: h.port, Addr: [4]byte{127, 0, 0, 1}}
			if unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, to) == nil || unix.Sendmsg(fd, []byte("x"), nil, to, unix.MSG_FASTOPEN) == nil {
				return nil
			}
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		}},
		{"leaving loopback", func(hostile) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "")
		}},
		{"a source route", func(hostile) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x83\x07\x04\xc0\x00\x02\x01\x00")
		}},
		{"listening on every address", func(hostile) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Listen(fd, 1); err != nil {
				return err
			}
			at, err := unix.Getsockname(fd)
			if in, ok := at.(*unix.SockaddrInet4); err == nil && ok && in.Addr == [4]byte{} {
				return nil
			}
			return errors.New("on our own")
		}},
		{"an abstract socket", func(h hostile) error { return dial("unix", "@"+h.abstract) }},
		{"an abstract datagram socket", func(h hostile) error {
			return datagram(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@" + h.abstract + "d"})
		}},
		{"a datagram of a pair to an abstract socket", func(h hostile) error {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			to := &unix.SockaddrUnix{Name: "@" + h.abstract + "d"}
			if unix.Connect(fds[0], to) == nil {
				return nil
			}
			return unix.Sendto(fds[0], []byte("x"), 0, to)
		}},
		{"a unix socket outside", func(h hostile) error { return dial("unix", filepath.Dir(h.file)+"/socket") }},
	}
}

// outside is the world a hostile step must not reach: it counts what arrives.
func outside(t *testing.T, dir string) (hostile, *atomic.Int64) {
	t.Helper()
	var hits atomic.Int64
	h := hostile{engine: os.Getpid(), file: filepath.Join(dir, "secret"), abstract: "drydock-test-" + strconv.Itoa(os.Getpid())}
	if err := os.WriteFile(h.file, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	serve := func(l net.Listener, err error) {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				hits.Add(1)
				c.Close()
			}
		}()
	}
	receive := func(p net.PacketConn, err error) {
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			for b := make([]byte, 9); ; {
				if _, _, err := p.ReadFrom(b); err != nil {
					return
				}
				hits.Add(1)
			}
		}()
	}
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	serve(l, err)
	h.port = l.Addr().(*net.TCPAddr).Port
	p, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", h.port))
	receive(p, err)
	l, err = net.Listen("unix", "@"+h.abstract)
	serve(l, err)
	p, err = net.ListenPacket("unixgram", "@"+h.abstract+"d")
	receive(p, err)
	l, err = net.Listen("unix", filepath.Join(dir, "socket"))
	serve(l, err)
	return h, &hits
}

// abis are those that tests pretend to: none, and what came later.
func abis() []int { return pretended(0, -1, 1, 2, 4, 6) }

func TestContainedHostile(t *testing.T) {
	contained(t)
	for _, abi := range abis() {
		t.Run(strconv.Itoa(abi), func(t *testing.T) { testHostile(t, abi) })
	}
}

func testHostile(t *testing.T, abi int) {
	b := newBench(t, Options{LandlockABI: abi})
	h, hits := outside(t, b.dir)
	caught := countSignals(t)
	for _, user := range []string{"", "1000:1000"} {
		out, err := b.run(t.Context(), stepOpt{user: user}, append([]string{"hostile"}, h.args()...)...)
		if err != nil {
			t.Errorf("as %q: %v\n%s", user, err, out)
		}
	}
	if n := hits.Load(); n > 0 {
		t.Errorf("%d messages arrived outside", n)
	}
	if n := caught(); n > 0 {
		t.Errorf("%d signals arrived outside", n)
	}
}

// TestContainedConnectRace changes what a connect is about while it is being
// decided on.
func TestContainedConnectRace(t *testing.T) {
	contained(t)
	for _, abi := range pretended(0, -1) {
		t.Run(strconv.Itoa(abi), func(t *testing.T) { testConnectRace(t, abi) })
	}
}

func testConnectRace(t *testing.T, abi int) {
	b := newBench(t, Options{LandlockABI: abi})
	h, hits := outside(t, b.dir)
	tries := 20000
	if testing.Short() {
		tries = 2000
	}
	out, err := b.run(t.Context(), stepOpt{}, append([]string{"race", strconv.Itoa(tries)}, h.args()...)...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := hits.Load(); n > 0 {
		t.Errorf("%d connections arrived outside", n)
	}
	t.Log(strings.TrimSpace(out))
}

// probeRace: one thread rewrites the address, another swaps descriptors, and a
// third connects.
func probeRace(args []string) int {
	tries, _ := strconv.Atoi(args[0])
	h := parseHostile(args[1:])
	runtime.GOMAXPROCS(4)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	own := l.Addr().(*net.TCPAddr)
	var good, bad, buf unix.RawSockaddrInet4
	fill := func(a *unix.RawSockaddrInet4, ip [4]byte, port int) {
		a.Family, a.Addr = unix.AF_INET, ip
		a.Port = uint16(port)<<8 | uint16(port)>>8
	}
	fill(&good, [4]byte(own.IP.To4()), own.Port)
	fill(&bad, [4]byte{127, 0, 0, 1}, h.port)
	buf = good
	stop := make(chan struct{})
	var wg sync.WaitGroup
	spin := func(f func()) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
				}
			}
		})
	}
	spin(func() { buf = bad; buf = good })
	const target = 200
	local, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	spin(func() {
		if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0); err == nil {
			_ = unix.Dup3(fd, target, 0)
			unix.Close(fd)
		}
		_ = unix.Dup3(local, target, 0)
	})
	connected := 0
	for range tries {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, target, uintptr(unsafe.Pointer(&buf)), unix.SizeofSockaddrInet4)
		if errno == 0 || errno == unix.EINPROGRESS {
			connected++
		}
	}
	close(stop)
	wg.Wait()
	fmt.Println("connected to ourselves", connected, "times of", tries)
	return 0
}

// countSignals counts signals to this process that nobody here sends.
func countSignals(t *testing.T) func() int {
	t.Helper()
	c := make(chan os.Signal, 100)
	signal.Notify(c, unix.SIGUSR1, unix.SIGIO)
	t.Cleanup(func() { signal.Stop(c) })
	return func() int { time.Sleep(50 * time.Millisecond); return len(c) }
}
