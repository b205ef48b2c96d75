package confine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// notes collects what could not be done.
type notes []string

func (n *notes) check(what string, err error) bool {
	if err != nil {
		*n = append(*n, fmt.Sprintf("%s: %v", what, err))
	}
	return err == nil
}

// Apply confines the calling thread for good and locks the goroutine to it.
// The caller then calls Become, which leaves no other thread behind.
func Apply(o Options) Done {
	runtime.LockOSThread()
	var n notes
	n.check("network", isolateNetwork())
	if o.ReadOnlyRoot {
		n.check("read-only root", readOnlyRoot(o))
	}
	n.check("no new privileges", jail.NoNewPrivileges())
	done := Done{}
	abi, err := jail.Landlock(landlockRules(o))
	if n.check("landlock", err) {
		done.Landlock, done.ReadOnly = abi, abi > 0 && o.ReadOnlyRoot
	}
	n.check("capabilities", dropBounding())
	n.check("user", setUser(o))
	n.check("capabilities", dropThread())
	filter, err := jail.DefaultFilter(0)
	if err == nil {
		err = filter.Install()
	}
	n.check("seccomp", err)
	done.Notes = n
	return done
}

// Program opens this program, before Apply takes the right to from it: under
// its name in /proc and by its path, as not every tier shows a process its own
// file there, and some show one that cannot be executed.
func Program() []*os.File {
	var out []*os.File
	for _, path := range []string{os.Args[0], "/proc/self/exe"} {
		if f, err := os.Open(path); err == nil && filepath.IsAbs(path) {
			out = append(out, f)
		}
	}
	return out
}

// Become replaces the process by the program with other arguments: the new one
// has the confinement of the calling thread, on every thread.
func Become(program []*os.File, args, env []string) error {
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	empty := []byte{0}
	errno := unix.ENOENT
	for _, f := range program {
		_, _, errno = unix.RawSyscall6(unix.SYS_EXECVEAT, f.Fd(), uintptr(unsafe.Pointer(&empty[0])),
			uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envv[0])), unix.AT_EMPTY_PATH, 0)
	}
	runtime.KeepAlive(program)
	return errno
}

// isolateNetwork leaves loopback, up, and nothing else.
func isolateNetwork() error {
	state, err := jail.Observe()
	if err != nil {
		return err
	}
	if len(state.Interfaces) > 0 {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("leaving the network of %s: %w", strings.Join(state.Interfaces, ", "), err)
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	// As container runtimes do it: in a network of its own, a program without
	// privileges may listen on any port. Where this is not allowed, it may not.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	if ifr.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// readOnlyRoot makes every mount of the image read-only in a mount namespace
// of our own, and mounts empty file systems where writing is allowed.
func readOnlyRoot(o Options) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leaving the mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	writable := append(alwaysWritable(), o.Writable...)
	for _, dir := range writable {
		_ = os.MkdirAll(dir, 0o755) // while it can be made
	}
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	empty := map[string]bool{}
	for _, m := range mounts {
		empty[m.point] = m.kind == "tmpfs" && slices.Contains(writable, m.point)
		if kernelFS(m.point) || empty[m.point] {
			continue
		}
		if err := remountReadOnly(m); err != nil {
			return fmt.Errorf("remounting %s read-only: %w", m.point, err)
		}
	}
	return emptyDirs(o, writable, empty)
}

// emptyDirs mounts an empty file system on every directory that stays writable.
func emptyDirs(o Options, writable []string, empty map[string]bool) error {
	var failed []error
	for i, dir := range writable {
		options := "mode=1777"
		if i >= len(alwaysWritable()) {
			options = fmt.Sprintf("mode=0755,uid=%d,gid=%d", o.UID, o.GID)
		}
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || empty[path.Clean(dir)] {
			continue // an image without /dev/shm, or the engine mounted one already
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			failed = append(failed, fmt.Errorf("mounting an empty %s: %w", dir, err))
		}
	}
	return errors.Join(failed...)
}

func kernelFS(point string) bool {
	for _, p := range []string{"/proc", "/sys", "/dev"} {
		if point == p || strings.HasPrefix(point, p+"/") {
			return true
		}
	}
	return false
}

// remountReadOnly keeps the mount's other flags: in a user namespace they are
// locked.
func remountReadOnly(m mountPoint) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	err := unix.MountSetattr(unix.AT_FDCWD, m.point, 0, &attr)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		err = unix.Mount("", m.point, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|m.flags, "")
	}
	return err
}

// landlockRules is the file system under Landlock: the same as the mounts say
// where they could be made so, and a second wall where they could not.
func landlockRules(o Options) jail.FSRules {
	r := jail.FSRules{ReadOnly: []string{"/"}, ReadWrite: []string{"/dev", "/proc"}}
	if o.ReadOnlyRoot {
		r.ReadWrite = append(append(r.ReadWrite, alwaysWritable()...), o.Writable...)
		return r
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return r
	}
	for _, e := range entries {
		if name := e.Name(); name != ".drydock" && name != "sys" && e.IsDir() {
			r.ReadWrite = append(r.ReadWrite, filepath.Join("/", name))
		}
	}
	return r
}

// dropBounding makes capabilities impossible to gain, also for root.
func dropBounding() error {
	for c := uintptr(0); c < 64; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // past the last one this kernel knows
		}
		if err != nil {
			return fmt.Errorf("dropping the bounding set: %w", err)
		}
	}
	return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
}

// setUser takes on the image's user, on this thread.
func setUser(o Options) error {
	if os.Geteuid() != 0 {
		if os.Geteuid() == o.UID && os.Getegid() == o.GID {
			return nil
		}
		return fmt.Errorf("already %d:%d, cannot become %d:%d", os.Geteuid(), os.Getegid(), o.UID, o.GID)
	}
	groups := make([]uint32, 0, len(o.Groups)+1)
	for _, g := range o.Groups {
		groups = append(groups, uint32(g))
	}
	var first *uint32
	if len(groups) > 0 {
		first = &groups[0]
	}
	var failed []error
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); e != 0 {
		failed = append(failed, fmt.Errorf("setting groups: %w", e))
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(o.GID), uintptr(o.GID), uintptr(o.GID)); e != 0 {
		failed = append(failed, fmt.Errorf("becoming group %d: %w", o.GID, e))
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(o.UID), uintptr(o.UID), uintptr(o.UID)); e != 0 {
		failed = append(failed, fmt.Errorf("becoming user %d: %w", o.UID, e))
	}
	return errors.Join(failed...)
}

// dropThread gives up what the thread still holds.
func dropThread() error {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&hdr, &data[0])
}
