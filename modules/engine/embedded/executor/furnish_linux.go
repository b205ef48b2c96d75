package executor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// devices are the nodes of a contained step's /dev: harmless ones.
var devices = []struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// makeDev makes what is placed at /dev, with further files in it. bare: files
// stand for the nodes, which the warden opens when they are.
func makeDev(dir string, files map[string]string, bare bool) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, d := range devices {
		name := filepath.Join(dir, d.name)
		if bare {
			if err := os.WriteFile(name, nil, 0o666); err != nil {
				return err
			}
			continue
		}
		if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
		if err := unix.Chmod(name, 0o666); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for name, content := range files {
		if _, err := writeFile(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o777); err != nil {
		return err
	}
	return unix.Chmod(shm, 0o1777)
}

// probeDev looks whether device nodes work where steps are.
func probeDev(dir string) error {
	defer os.RemoveAll(dir)
	if err := makeDev(dir, nil, false); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "null"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("using a device made here: %w", err)
	}
	return f.Close()
}

// changingProcFiles are copied from the host's /proc for each step: what tells
// of the machine and of no process. Most are answered anew when they are
// opened.
func changingProcFiles() []string { return []string{"loadavg", "meminfo", "stat", "uptime"} }

// procFiles are those that do not change while the engine runs.
func procFiles() []string {
	return []string{
		"cpuinfo", "filesystems", "version", "sys/kernel/ostype", "sys/kernel/osrelease", "sys/kernel/version",
		"sys/kernel/pid_max", "sys/kernel/threads-max", "sys/kernel/cap_last_cap", "sys/kernel/ngroups_max",
		"sys/kernel/overflowuid", "sys/kernel/overflowgid", "sys/kernel/random/boot_id",
		"sys/kernel/seccomp/actions_avail", "sys/fs/file-max", "sys/fs/nr_open", "sys/fs/pipe-max-size",
		"sys/vm/overcommit_memory", "sys/vm/max_map_count", "sys/net/core/somaxconn",
		"sys/net/ipv4/ip_local_port_range", "sys/net/ipv4/ip_unprivileged_port_start",
	}
}

// readProc reads files of the host's /proc. Not every kernel and container has
// them all.
func readProc(names []string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile("/proc/" + name)
		if err != nil {
			continue
		}
		if name == "stat" {
			b = cutInterrupts(b)
		}
		out[name] = string(b)
	}
	return out
}

// madeProcFiles are told, not copied: the host's are about the host.
func madeProcFiles(hostname string) map[string]string {
	mounts := "drydock / drydock rw,relatime 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n" +
		"tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755 0 0\n"
	return map[string]string{
		"cmdline": "\n", "mounts": mounts, "swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
		"self/cgroup": "0::/\n", "self/status": "", "self/stat": "", "self/statm": "", "self/maps": "", "self/cmdline": "",
		"self/environ": "", "self/comm": "", "self/limits": "",
		"sys/kernel/hostname": hostname + "\n", "sys/kernel/domainname": "(none)\n", "self/mounts": mounts,
		"self/mountinfo": "1 0 0:1 / / rw,relatime - drydock drydock rw\n2 1 0:2 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n",
	}
}

// placeholders are the descriptors that have a name under /proc/self/fd:
// standard ones, and those that shells count down from for <(command).
func placeholders() []int { return []int{0, 1, 2, 3, 4, 58, 59, 60, 61, 62, 63} }

// makeProc makes what is placed at /proc: files that stay as they are. What
// changes, and what is about a process, the warden answers when it is opened;
// these names are there to be seen.
func makeProc(dir, hostname string, steady map[string]string) error {
	if err := os.Mkdir(dir, 0o555); err != nil {
		return err
	}
	write := func(name string, content string) error {
		full := filepath.Join(dir, name)
		err := os.WriteFile(full, []byte(content), 0o444)
		if errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(filepath.Dir(full), 0o555); err != nil {
				return err
			}
			err = os.WriteFile(full, []byte(content), 0o444)
		}
		return err
	}
	for _, files := range []map[string]string{steady, readProc(changingProcFiles()), madeProcFiles(hostname)} {
		for name, content := range files {
			if err := write(name, content); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "self/exe"), []byte(again().executable()), 0o555); err != nil {
		return err
	}
	fds := filepath.Join(dir, "self/fd")
	if err := os.Mkdir(fds, 0o555); err != nil {
		return err
	}
	for _, i := range placeholders() {
		// sockets: opening one by another way than ours fails and never waits
		if err := unix.Mknod(filepath.Join(fds, strconv.Itoa(i)), unix.S_IFSOCK|0o666, 0); err != nil {
			return fmt.Errorf("making /proc/self/fd: %w", err)
		}
	}
	return os.Symlink("self", filepath.Join(dir, "thread-self"))
}

// cutInterrupts takes the counts of interrupts out of /proc/stat.
func cutInterrupts(b []byte) []byte {
	var out []byte
	for line := range bytes.Lines(b) {
		if !strings.HasPrefix(string(line), "intr ") {
			out = append(out, line...)
		}
	}
	return out
}

// makeSys makes what is placed at /sys: what programs look for to count
// processors.
func makeSys(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "devices/system/cpu"), 0o555); err != nil {
		return err
	}
	for _, name := range []string{"devices/system/cpu/online", "devices/system/cpu/possible", "devices/system/cpu/present"} {
		b, err := os.ReadFile("/sys/" + name)
		if err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o444); err != nil {
			return err
		}
	}
	return nil
}
