package warden

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe is the command of a translated step.
func probe(args []string) int {
	if len(args) < 2 {
		return 200
	}
	switch args[1] {
	case "ordinary":
		if err := probeOrdinary(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("ordinary: as in a root of its own")
		return 7
	case "users":
		if err := probeUsers(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("users: held apart")
		return 0
	case "other":
		if err := probeOther(args[2]); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("no more than it may")
		return 0
	case "peer":
		return probePeer(args[2])
	case "speed":
		look, start, err := speed(args[2], args[3])
		fmt.Println(look, start)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	case "where": // what it is says where it lies
		self, _ := os.ReadFile("/proc/self/maps")
		fmt.Println(strings.Contains(string(self), "/other/"), "other"[:5*min(1, strings.Count(string(self), "/other/"))])
		return 0
	case "hostile":
		reached := probeHostile()
		if len(reached) > 0 {
			fmt.Println("hostile:", strings.Join(reached, "; "))
			return 1
		}
		fmt.Println("hostile: nothing")
		return 0
	}
	fmt.Println(args)
	return 0
}

// expect fails unless got is want.
func expect(what string, err error, got, want any) error {
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: got %v (%w), want %v", what, got, err, want)
	}
	return nil
}

func probeOrdinary() error {
	return errors.Join(probePaths(), probeOwners(), probeProcesses(), probeSockets(), probePorts())
}

func probePaths() error {
	made := os.MkdirAll("/tmp/made/sub", 0o755)
	changed := os.Chdir("/tmp/made")
	at, err := unix.Getwd()
	out := []error{made, changed, expect("getcwd", err, at, "/tmp/made")}
	wrote := os.WriteFile("a", []byte("text"), 0o644)
	out = append(out, wrote, os.Rename("a", "sub/b"), os.Link("sub/b", "c"), os.Symlink("/tmp/made/c", "l"), os.Symlink("../../../../etc/inside", "up"))
	b, err := os.ReadFile("l")
	out = append(out, expect("a link", err, string(b), "text"))
	b, err = os.ReadFile("up")
	out = append(out, expect("a link that goes up too far", err, string(b), "inside\n"))
	target, err := os.Readlink("l")
	out = append(out, expect("readlink", err, target, "/tmp/made/c"))
	dir, err := unix.Open("sub", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	out = append(out, err)
	fd, err := unix.Openat(dir, "../c", unix.O_RDONLY, 0)
	out = append(out, expect("openat", err, fd > 0, true))
	out = append(out, unix.Fchdir(dir), expect("exclusive", nil, unix.Mkdir("/etc", 0o755), unix.EEXIST))
	out = append(out, probeOnlyPaths())
	entries, err := os.ReadDir(".")
	out = append(out, expect("readdir", err, len(entries), 1), os.Remove("b"), os.Chdir(".."))
	f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err == nil {
		_, err = f.Write([]byte("x"))
		of := int(f.Fd()) // the machine's, which stays as it is
		err = errors.Join(err, unix.Fchmod(of, 0o600), unix.Fchown(of, 5, 6), os.Chtimes(fmt.Sprintf("/proc/self/fd/%d", of), time.Unix(1, 0), time.Unix(1, 0)))
	}
	var st unix.Stat_t
	out = append(out, err, expect("device", unix.Stat("/dev/null", &st), st.Mode&unix.S_IFMT, unix.S_IFCHR))
	exe, err := os.Readlink("/proc/self/exe")
	return errors.Join(append(out, expect("own program", err, exe, "/bin/probe"))...)
}

// probeOnlyPaths: descriptors that are a path only are what C libraries change
// modes by and what is looked at link by link.
func probeOnlyPaths() error {
	var out []error
	for name, want := range map[string]uint32{"/tmp/made/sub": unix.S_IFDIR, "/tmp/made/c": unix.S_IFREG, "/tmp/made/l": unix.S_IFLNK, "/dev/null": unix.S_IFCHR} {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			out = append(out, fmt.Errorf("opening %s as a path: %w", name, err))
			continue
		}
		var st, at unix.Stat_t
		err = errors.Join(unix.Fstat(fd, &st), unix.Fstatat(fd, "", &at, unix.AT_EMPTY_PATH))
		out = append(out, expect("kind of "+name, err, []uint32{st.Mode & unix.S_IFMT, at.Mode & unix.S_IFMT}, []uint32{want, want}))
		own := fmt.Sprintf("/proc/self/fd/%d", fd)
		switch want {
		case unix.S_IFREG:
			out = append(out, unix.Chmod(own, 0o640), expect("mode", unix.Fstat(fd, &st), st.Mode&0o777, 0o640))
		case unix.S_IFLNK:
			b := make([]byte, 64)
			n, err := unix.Readlinkat(fd, "", b)
			out = append(out, expect("where it leads", err, string(b[:max(n, 0)]), "/tmp/made/c"))
		case unix.S_IFDIR:
			in, err := unix.Openat(fd, "b", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			out = append(out, err)
			unix.Close(in)
		}
		unix.Close(fd)
	}
	return errors.Join(out...)
}

func probeOwners() error {
	var st unix.Stat_t
	made := os.WriteFile("/tmp/made/kept", []byte("secret"), 0o600)
	out := []error{
		made, expect("uid", nil, os.Getuid(), 0), os.Chown("/tmp/made/kept", 5, 6), os.Chmod("/tmp/made/kept", 0),
		unix.Stat("/tmp/made/kept", &st),
	}
	out = append(out, expect("owner and mode", nil, fmt.Sprint(st.Uid, st.Gid, st.Mode&0o7777), "5 6 0"))
	b, err := os.ReadFile("/tmp/made/kept")
	out = append(out, expect("root reads it", err, string(b), "secret"))
	out = append(out, expect("executing it", unix.Access("/tmp/made/kept", unix.R_OK), unix.Access("/tmp/made/kept", unix.X_OK), unix.EACCES))
	out = append(out, os.Mkdir("/tmp/made/closed", 0o555), os.WriteFile("/tmp/made/closed/in", nil, 0o444), os.RemoveAll("/tmp/made/closed"))
	return errors.Join(out...)
}

func probeProcesses() error {
	b, err := exec.Command("/bin/probe", "child").CombinedOutput()
	out := []error{expect("a child", err, string(b), "[/bin/probe child]\n")}
	b, err = exec.Command("/bin/script", "more").CombinedOutput()
	out = append(out, expect("a script", err, string(b), "[/bin/probe said so /bin/script more]\n"))
	b, err = exec.Command("/bin/chain3", "more").CombinedOutput()
	out = append(out, expect("a script of a script of a script", err, string(b), "[/bin/probe said so /bin/script and more /bin/chain2 /bin/chain3 more]\n"))
	err = exec.Command("/bin/loop").Run()
	out = append(out, expect("a script that names itself", nil, errors.Is(err, unix.ELOOP), true))
	c := exec.Command("./probe", "relative")
	c.Dir = "/bin"
	c.Args[0] = "/bin/probe"
	b, err = c.CombinedOutput()
	out = append(out, expect("by a relative path", err, string(b), "[/bin/probe relative]\n"))
	done := make(chan error)
	for range 4 { // rooms are shared by threads
		go func() {
			var failed error
			for range 10 {
				b, err := exec.Command("/bin/probe", "child").CombinedOutput()
				failed = errors.Join(failed, expect("a child of a thread", err, string(b), "[/bin/probe child]\n"))
			}
			done <- failed
		}()
	}
	for range 4 {
		out = append(out, <-done)
	}
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	out = append(out, expect("landlock of its own", nil, errno, unix.EOPNOTSUPP))
	err = exec.Command("/bin/nothing").Run()
	out = append(out, expect("a program that is not there", nil, errors.Is(err, os.ErrNotExist), true))
	return errors.Join(out...)
}

func probeSockets() error {
	l, err := net.Listen("unix", "/tmp/made/socket")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("unix", "/tmp/made/socket")
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = net.Interfaces()
	return err
}

// probePorts: a step's servers listen where they are told to, on ports too that
// its user may not have, and are told of no other.
func probePorts() error {
	var out []error
	for _, at := range []string{"127.0.0.1:80", "0.0.0.0:1023", "[::]:443", "127.0.0.1:8080"} {
		if err := probePort(at); err != nil {
			out = append(out, fmt.Errorf("listening on %s: %w", at, err))
		}
	}
	_, err := net.Dial("tcp4", "127.0.0.1:80")
	out = append(out, expect("a port nobody has any more", nil, errors.Is(err, unix.ECONNREFUSED), true))
	_, err = net.Dial("tcp4", "127.0.0.1:58080")
	return errors.Join(append(out, expect("a port nobody had", nil, errors.Is(err, unix.ECONNREFUSED), true))...)
}

func probePort(at string) error {
	_, port, _ := net.SplitHostPort(at)
	portOf := func(a net.Addr) string { _, p, _ := net.SplitHostPort(a.String()); return p }
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	defer l.Close()
	out := []error{expect("its own port", nil, portOf(l.Addr()), port)}
	number, _ := strconv.Atoi(port)
	out = append(out, expect("the port for another", nil, unix.Bind(fd, &unix.SockaddrInet4{Port: number}), unix.EADDRINUSE))
	c, err := net.Dial("tcp4", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	defer s.Close()
	out = append(out, expect("the server's port to the client", nil, portOf(c.RemoteAddr()), port))
	out = append(out, expect("the server's port to itself", nil, portOf(s.LocalAddr()), port))
	out = append(out, expect("the client's port", nil, portOf(s.RemoteAddr()), portOf(c.LocalAddr())))
	_, err = c.Write([]byte("x"))
	var b [1]byte
	_, err2 := s.Read(b[:])
	return errors.Join(append(out, err, err2)...)
}

// probeHostile tries what must fail and says what did not.
func probeHostile() (reached []string) {
	outside := os.Getenv("OUTSIDE")
	note := func(what string, ok bool) {
		if ok {
			reached = append(reached, what)
		}
	}
	init := os.Getppid() // the starter; its parent is the supervisor
	supervisor := init
	if b, err := os.ReadFile("/proc/" + strconv.Itoa(init) + "/stat"); err == nil {
		_, rest, _ := strings.Cut(string(b), ") ")
		supervisor, _ = strconv.Atoi(strings.Fields(rest)[1])
	}
	note("the supervisor is not known", supervisor == init)
	for _, name := range []string{
		filepath.Join(outside, "outside"), "/../outside", "/proc/1/environ", "/proc/" + strconv.Itoa(supervisor) + "/environ",
		filepath.Join("/proc", strconv.Itoa(supervisor), "root", "etc/passwd"), "/proc/self/root/../outside", "/proc/self/cwd/../../outside", "/etc/hostname",
	} {
		_, err := os.ReadFile(name)
		note("read "+name, err == nil)
	}
	if os.Symlink(outside, "/tmp/link") == nil {
		_, err := os.ReadFile("/tmp/link/outside")
		note("read through a link", err == nil)
		note("changed to a link", os.Chdir("/tmp/link") == nil)
	}
	note("changed the root", unix.Chroot("/tmp") == nil)
	note("executed what is outside", exec.Command(filepath.Join(outside, "root/bin/probe"), "x").Run() == nil)
	note("signalled the supervisor", unix.Kill(supervisor, 0) == nil || unix.Kill(supervisor, unix.SIGCONT) == nil)
	note("signalled process 1", unix.Kill(1, unix.SIGCONT) == nil)
	note("traced", unix.PtraceAttach(supervisor) == nil)
	var b [8]byte
	_, err := unix.ProcessVMReadv(supervisor, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
	note("read the supervisor's memory", err == nil)
	for _, at := range []string{filepath.Join(outside, "socket"), "/../socket"} {
		c, err := net.DialTimeout("unix", at, time.Second)
		note("connected to "+at, err == nil)
		if err == nil {
			c.Close()
		}
	}
	_, err = net.DialTimeout("tcp", "192.0.2.1:80", time.Second)
	note("connected out", !errors.Is(err, unix.ENETUNREACH))
	// calls that the kernel would take a path of, and none of us
	fd, err := unix.Openat2(unix.AT_FDCWD, filepath.Join(outside, "outside"), &unix.OpenHow{Flags: unix.O_RDONLY})
	note("openat2", err == nil && fd >= 0)
	// what starts the step's commands descends from the supervisor as they do
	for _, name := range []string{"mem", "environ", "maps", "task/" + strconv.Itoa(init) + "/mem", "fd/0"} {
		f, err := os.OpenFile("/proc/"+strconv.Itoa(init)+"/"+name, os.O_RDONLY, 0)
		note("opened "+name+" of the starter", err == nil)
		if err == nil {
			f.Close()
		}
	}
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_UNTRACED|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	note("started what is not traced", errno == 0)
	note("executed what another step does", raceExecute(filepath.Join(outside, "programs", "other", "id", "probe")) > 0)
	_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	note("a socket whose every message has an address", err == nil)
	note("mounted", unix.Mount("/", "/tmp", "", unix.MS_BIND, "") == nil)
	return reached
}

// raceExecute executes a program while a thread writes another path where the
// tracer writes the one that the kernel is to read, and counts how often that
// was executed.
func raceExecute(other string) (reached int) {
	room, ok := executedBy()
	if !ok {
		return 1 // nothing is shown
	}
	want := append([]byte(other), 0)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		at := unsafe.Slice(*(**byte)(unsafe.Pointer(&room)), roomSize)
		for !stop.Load() {
			copy(at, want)
			copy(at[roomSize-len(want):], want)
		}
	}()
	for range 200 {
		out, err := exec.Command("/bin/probe", "child").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "[/bin/probe child]") || strings.Contains(string(out), "[/proc") {
			reached++
		}
		if out, err := exec.Command("/bin/probe", "where").CombinedOutput(); err == nil && strings.Contains(string(out), "other") {
			reached++
		}
	}
	stop.Store(true)
	<-done
	return reached
}

// executedBy is the address of the path that this program was executed by.
func executedBy() (uintptr, bool) {
	b, err := os.ReadFile("/proc/self/auxv")
	if err != nil {
		return 0, false
	}
	for ; len(b) >= 16; b = b[16:] {
		if binary.NativeEndian.Uint64(b) == unix_AT_EXECFN {
			return uintptr(binary.NativeEndian.Uint64(b[8:])), true
		}
	}
	return 0, false
}
