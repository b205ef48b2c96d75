package initproc

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func (t tree) proc() error {
	return t.mount("proc", "/proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
}

// sys mounts sysfs read-only, or nothing where the kernel refuses it (a user
// namespace that does not see the whole of it).
func (t tree) sys() error {
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV | unix.MS_RDONLY
	err := t.mount("sysfs", "/sys", flags, "")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return t.mount("tmpfs", "/sys", flags, "mode=755")
	}
	return err
}

// dev makes /dev of harmless devices. They are bound from the host's, since
// making device nodes is refused in a user namespace.
func (t tree) dev() error {
	if err := t.mount("tmpfs", "/dev", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_STRICTATIME, "mode=755,size=65536k"); err != nil {
		return err
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		src, err := os.OpenFile("/dev/"+name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("mounting /dev/%s: %w", name, err)
		}
		err = t.bind(src, "/dev/"+name, 0)
		src.Close()
		if err != nil {
			return err
		}
	}
	const nodevs = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	pts := t.mount("devpts", "/dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
	if pts != nil { // group 5 is not mapped
		pts = t.mount("devpts", "/dev/pts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
	}
	if pts != nil {
		return pts
	}
	if err := t.mount("tmpfs", "/dev/shm", nodevs, "mode=1777,size=65536k"); err != nil {
		return err
	}
	if err := t.mount("mqueue", "/dev/mqueue", nodevs, ""); err != nil &&
		!errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return t.devLinks()
}

func (t tree) devLinks() error {
	dev, err := openIn(t.root, "/dev", unix.O_PATH)
	if err != nil {
		return err
	}
	defer dev.Close()
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := unix.Symlinkat(target, int(dev.Fd()), name); err != nil {
			return fmt.Errorf("linking /dev/%s: %w", name, err)
		}
	}
	return nil
}

// mask hides and freezes what container engines hide and freeze: files that
// user 0 may read or write whatever its capabilities.
func (t tree) mask() error {
	for _, name := range []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	} {
		if err := t.hide(name); err != nil {
			return err
		}
	}
	for _, name := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		src, err := openIn(t.root, name, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		err = t.bind(src, name, unix.MOUNT_ATTR_RDONLY)
		src.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t tree) hide(name string) error {
	f, err := openIn(t.root, name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		err = unix.Mount("tmpfs", fdPath(f), "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	} else {
		err = unix.Mount("/dev/null", fdPath(f), "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("hiding %s: %w", name, err)
	}
	return nil
}
