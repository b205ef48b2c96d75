package core

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/executor"
	"drydock/modules/jail"
)

const (
	// enoughDisk and enoughMemory are what a small build takes.
	enoughDisk   = 2 << 30
	enoughMemory = 512 << 20
)

// withheld looks, without a child, at what is known to keep steps from running
// in a mode. That something is on the list proves nothing: the child's failure
// does, and the list explains it.
func withheld(mode string, environ []string) []Missing {
	st, err := jail.Observe()
	if err != nil {
		return nil
	}
	if mode == modeContainer || mode == modeTranslated {
		return nil // its child always starts and tells
	}
	if mode == modeRoot && st.Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return []Missing{missing(knobSysAdmin, "not held")}
	}
	var out []Missing
	if calls := filtered(st); calls != "" {
		out = append(out, missing(knobSeccomp, "a filter on this process refuses "+calls))
	}
	if covered := maskedProc("/proc/self/mountinfo"); covered != "" {
		out = append(out, missing(knobMaskedProc, covered))
	}
	if profile := appArmorProfile(); profile != "" {
		out = append(out, missing(knobAppArmor, "this process is under "+profile))
	}
	if mode == modeRoot {
		return out
	}
	out = append(out, withheldUserns()...)
	if mode == modeRootless {
		out = append(out, withheldIDs(st, environ)...)
	}
	return out
}

// withheldUserns: what the machine says about user namespaces.
func withheldUserns() []Missing {
	var out []Missing
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		out = append(out, missing(knobUserns, "this kernel has none"))
	}
	for _, s := range []struct{ name, path, bad string }{
		{knobMaxUserns, "/proc/sys/user/max_user_namespaces", "0"},
		{knobUsernsClone, "/proc/sys/kernel/unprivileged_userns_clone", "0"},
		{knobAppArmorUserns, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"},
	} {
		if b, err := os.ReadFile(s.path); err == nil && strings.TrimSpace(string(b)) == s.bad {
			out = append(out, missing(s.name, "is "+s.bad))
		}
	}
	if chrooted() {
		out = append(out, missing(knobChrooted, "this process is in one"))
	}
	return out
}

// withheldIDs: what keeps several ids from being mapped.
func withheldIDs(st jail.State, environ []string) []Missing {
	var out []Missing
	if st.NoNewPrivs && os.Geteuid() != 0 {
		out = append(out, missing(knobNoNewPrivs, "set on this process"))
	}
	for _, helper := range []string{"newuidmap", "newgidmap"} {
		path, err := findHelper(helper, environ)
		switch {
		case err != nil:
			out = merge(out, missing(knobUidmap, helper+" is not installed"))
		case os.Geteuid() != 0 && !gainsPrivileges(path):
			out = merge(out, missing(knobUidmapSetuid, path+" is neither setuid nor has it file capabilities that count"))
		case os.Geteuid() != 0 && st.Bounding&(1<<unix.CAP_SYS_ADMIN) == 0 && !hasFileCapabilities(path):
			// as root it is not the owner of the namespace, which then takes
			// CAP_SYS_ADMIN to map; with file capabilities it stays who it is
			out = merge(out, missing(knobUidmapCaps, path+" is setuid root, and root of this container may not map others' namespaces"))
		}
	}
	if _, err := mappings(environ); err != nil {
		var e *artifact.Error
		if errors.As(err, &e) && strings.HasPrefix(e.Place, "/etc/sub") {
			m := missing(knobSubIDs, e.Place+": "+e.Message)
			m.Remedy = e.Remedy
			out = append(out, m)
		}
	}
	return out
}

// gainsPrivileges: executing the file can give more than its caller has.
func gainsPrivileges(path string) bool {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Flags&unix.MS_NOSUID != 0 {
		return false
	}
	fi, err := os.Stat(path)
	if err != nil {
		return false
	}
	return fi.Mode()&os.ModeSetuid != 0 || hasFileCapabilities(path)
}

func hasFileCapabilities(path string) bool {
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

// filtered names the calls a seccomp filter refuses among those that make
// namespaces. Each is made in a form that does nothing and that the kernel
// itself does not answer with EPERM.
func filtered(st jail.State) string {
	if !st.Seccomp {
		return ""
	}
	var out []string
	if _, _, e := unix.RawSyscall(unix.SYS_UNSHARE, 0, 0, 0); e != 0 {
		out = append(out, "unshare")
	}
	// a new user namespace cannot share its file system view: EINVAL
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS, 0, 0, 0, 0, 0)
	if pid == 0 && e == 0 {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0) //nolint:errcheck // does not return
	}
	if e == unix.EPERM || e == unix.ENOSYS {
		out = append(out, "clone")
	}
	// the type is at no address, which the kernel says before it looks at rights
	if _, _, e := unix.RawSyscall6(unix.SYS_MOUNT, 0, 0, 1, 0, 0, 0); e != unix.EFAULT {
		out = append(out, "mount")
	}
	return strings.Join(out, ", ")
}

// maskedProc names what is mounted over parts of /proc.
func maskedProc(mountinfo string) string {
	raw, err := os.ReadFile(mountinfo)
	if err != nil {
		return ""
	}
	var over []string
	for _, line := range strings.Split(string(raw), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], "/proc/") {
			over = append(over, fields[4])
		}
	}
	if len(over) > 3 {
		over = append(over[:3], fmt.Sprintf("%d more", len(over)-3))
	}
	if len(over) == 0 {
		return ""
	}
	return "covered: " + strings.Join(over, ", ")
}

// appArmorProfile is the profile that is enforced on this process, or "".
// Other security modules write the same file in another form.
func appArmorProfile() string {
	for _, file := range []string{"/proc/self/attr/apparmor/current", "/proc/self/attr/current"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		name, mode, ok := strings.Cut(strings.TrimSpace(strings.Trim(string(raw), "\x00")), " ")
		if ok && mode == "(enforce)" {
			return name
		}
		return ""
	}
	return ""
}

// chrooted: the root is not that of the mount namespace, whose mounts are then
// not all seen from here.
func chrooted() bool {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for _, line := range strings.Split(string(raw), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 4 && fields[4] == "/" {
			return false
		}
	}
	return true
}

// resources looks at what every tier uses of the machine.
func resources(root string) []Finding {
	list := []Finding{disk(root), memory(), cgroupLimits()}
	for i := range list {
		if list[i].OK {
			list[i].Remedy = ""
		}
	}
	return list
}

// nearest is root or the first directory above it that is there.
func nearest(root string) string {
	for dir := root; ; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

func disk(root string) Finding {
	f := Finding{Name: "disk", Optional: true, Remedy: "free some, or give another directory with --cache"}
	dir := nearest(root)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		f.Detail = fmt.Sprintf("free space of %s cannot be read: %v", dir, err)
		return f
	}
	free := int64(st.Bavail) * st.Bsize
	f.OK = free >= enoughDisk
	f.Detail = fmt.Sprintf("%.1f GiB free in %s", float64(free)/(1<<30), dir)
	return f
}

func memory() Finding {
	f := Finding{Name: "memory", Optional: true, Remedy: "give this machine or container more memory"}
	free := number("/proc/meminfo", "MemAvailable:") << 10
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if n := number(file, ""); n > 0 && n < free {
			free = n
		}
	}
	f.OK = free >= enoughMemory
	f.Detail = fmt.Sprintf("%.1f GiB available", float64(free)/(1<<30))
	return f
}

// number reads the number after a word at the start of a line; 0 without one.
func number(file, word string) int64 {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(raw), "\n") {
		rest, ok := strings.CutPrefix(line, word)
		if !ok {
			continue
		}
		var n int64
		if _, err := fmt.Sscan(rest, &n); err == nil {
			return n
		}
	}
	return 0
}

func cgroupLimits() Finding {
	f := Finding{
		Name: "cgroup limits", Optional: true,
		Remedy: "delegate a control group to this user (systemd: Delegate=yes); without, a step's limits are rlimits and the engine's own watch",
	}
	if have := executor.CgroupControllers(); len(have) > 0 {
		f.OK, f.Detail = true, strings.Join(have, ", ")
		return f
	}
	f.Detail = "no control group can be made here"
	return f
}
