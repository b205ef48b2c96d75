package core

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/executor"
	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

// container tries what steps without namespaces need: what an ordinary
// container has as root, and a supervisor of system calls within it.
func (p *prober) container() {
	if os.Geteuid() != 0 {
		// the rest follows from it
		p.try("root", knobRoot, func() (string, error) { return "", fmt.Errorf("this is user %d", os.Geteuid()) })
		return
	}
	p.try("capabilities", knobCapabilities, func() (string, error) {
		return "those of an ordinary container", containerProcess()
	})
	dir, err := os.MkdirTemp("", "container")
	if err != nil {
		p.try("temporary files", knobVersion, func() (string, error) { return "", err })
		return
	}
	defer os.RemoveAll(dir)
	p.try("ownership", knobCapabilities, func() (string, error) { return "real", probeOwnership(dir) })
	p.try("device nodes", knobMknod, func() (string, error) { return "can be made", probeMknod(dir) })
	p.try("openat2", knobOpenat2, probeOpenat2)
	p.try("seccomp notification", knobNotify, func() (string, error) { return "works, descriptors included", onThread(probeNotify) })
	p.try("engine", knobVersion, func() (string, error) {
		e, err := executor.New(executor.Options{Root: filepath.Join(dir, "steps"), Tier: TierContainer})
		if err == nil {
			e.Close()
		}
		return "runs steps this way", err
	})
	p.try("landlock", knobLandlock, probeLandlockABI)
	p.try("chroot", knobCapabilities, func() (string, error) {
		// everything open has been opened: the rest of this process is in it
		return "works", errors.Join(os.RemoveAll(filepath.Join(dir, "steps")), unix.Chroot(dir), os.Chdir("/"))
	})
	p.filter()
}

func probeOwnership(dir string) error {
	file := filepath.Join(dir, "owned")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Chown(file, 65534, 65534); err != nil {
		return err
	}
	if err := unix.Chmod(file, 0o4711); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	if st.Uid != 65534 || st.Mode&0o7777 != 0o4711 {
		return fmt.Errorf("a file given to 65534 with mode 4711 is %d's with mode %o", st.Uid, st.Mode&0o7777)
	}
	return os.Remove(file)
}

// probeMknod makes the null device and writes to it: a device control group or
// nodev may forbid either.
func probeMknod(dir string) error {
	file := filepath.Join(dir, "null")
	if err := unix.Mknod(file, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("making the null device: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("opening the null device: %w", err)
	}
	_, err = f.Write([]byte{0})
	return errors.Join(err, f.Close(), os.Remove(file))
}

func probeOpenat2() (string, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", err
	}
	return "works", unix.Close(fd)
}

// probeNotify supervises one thread: a call is answered, its memory is read,
// and a descriptor is given to it.
func probeNotify() error {
	filter, err := jail.BuildFilter(jail.DefaultCapabilities, jail.Rule{Call: "socket", Action: jail.Notify})
	if err != nil {
		return err
	}
	if err := jail.NoNewPrivileges(); err != nil {
		return err
	}
	listener, err := filter.InstallNotify()
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	word, read := []byte("drydock"), make([]byte, 7)
	var failed error
	go func() {
		_ = notify.Serve(listener, 1, func(r *notify.Request) notify.Response {
			if failed = r.ReadMemory(r.Args[3], read); failed != nil {
				return notify.Errno(unix.EIO)
			}
			return notify.AddFD(int(null.Fd()), true)
		})
		listener.Close()
	}()
	// socket takes three arguments; the supervisor looks at the fourth
	fd, _, errno := unix.Syscall6(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0, uintptr(unsafe.Pointer(&word[0])), 0, 0)
	runtime.KeepAlive(word)
	if errno != 0 {
		return errors.Join(fmt.Errorf("a supervised call: %w", errno), failed)
	}
	defer unix.Close(int(fd))
	var want, got unix.Stat_t
	if err := errors.Join(unix.Fstat(int(null.Fd()), &want), unix.Fstat(int(fd), &got)); err != nil {
		return err
	}
	if string(read) != string(word) || want.Ino != got.Ino || want.Rdev != got.Rdev {
		return errors.New("a supervised call did not end as its supervisor said")
	}
	return nil
}
