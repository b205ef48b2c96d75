package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/userns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/jail"
)

const probeFlags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Probe tries in child processes what the engine will do and says what this
// host offers. The error is about the probing itself; what is missing is in
// the findings.
func Probe(ctx context.Context) (Report, error) {
	var report Report
	for _, mode := range []string{modeRoot, modeRootless} {
		if report.Tier != "" {
			break
		}
		findings, err := probeIn(ctx, mode)
		if ctx.Err() != nil {
			return Report{}, context.Cause(ctx)
		}
		if err != nil {
			findings = append(explain(mode, err), findings...)
		}
		report.Findings = append(report.Findings, findings...)
		if err == nil && works(findings) {
			report.Tier, report.Mode = TierNamespaces, mode
		}
	}
	return report, nil
}

// works: overlay alone can be done without, by copying.
func works(findings []Finding) bool {
	for _, f := range findings {
		if !f.OK && f.Name != "overlay" && f.Name != "landlock" {
			return false
		}
	}
	return true
}

func probeIn(ctx context.Context, mode string) ([]Finding, error) {
	dir, err := os.MkdirTemp("", "drydock-probe-")
	if err != nil {
		return nil, fmt.Errorf("probing: %w", err)
	}
	defer os.RemoveAll(dir)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("probing: %w", err)
	}
	defer r.Close()
	sp := jail.NewSpawner()
	defer sp.Close()
	cmd, lifeline, err := spawn{
		program: executable(""), arg: argProbe, mode: mode, flags: probeFlags, tmp: dir, files: []*os.File{w},
	}.start(ctx, sp, nil)
	w.Close()
	if err != nil {
		return nil, err
	}
	defer lifeline.Close()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	var findings []Finding
	err = json.NewDecoder(r).Decode(&findings)
	_ = cmd.Wait() // what it found is all it says
	if err != nil {
		return nil, fmt.Errorf("probing in %s mode: %w", mode, err)
	}
	return append([]Finding{{Name: mode + " namespaces", OK: true, Detail: "given"}}, findings...), nil
}

// explain turns a child that could not start into findings, with the knobs
// that are known to forbid it.
func explain(mode string, err error) []Finding {
	f := Finding{Name: mode + " namespaces", Detail: err.Error()}
	if mode == modeRoot {
		f.Remedy = "run as root with CAP_SYS_ADMIN, or without root in a user namespace"
		return []Finding{f}
	}
	var e *artifact.Error
	if errors.As(err, &e) {
		f.Name, f.Remedy = "subordinate ids", e.Remedy
	}
	out := []Finding{f}
	knob := func(path, bad, remedy string) {
		b, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(b)) == bad {
			out = append(out, Finding{Name: filepath.Base(path), Detail: "is " + bad, Remedy: remedy})
		}
	}
	knob("/proc/sys/user/max_user_namespaces", "0", "have root run: sysctl user.max_user_namespaces=65536")
	knob("/proc/sys/kernel/unprivileged_userns_clone", "0", "have root run: sysctl kernel.unprivileged_userns_clone=1")
	if f.Remedy == "" {
		st, serr := jail.Observe()
		if serr == nil && st.Seccomp {
			out = append(out, Finding{
				Name: "seccomp", Detail: "a filter is on this process and may refuse unshare and mount",
				Remedy: "run outside this container, or in one whose seccomp profile allows user namespaces",
			})
		}
		out[0].Remedy = "allow unprivileged user namespaces on this host, or run drydock as root"
	}
	return out
}

// probeMain is the probing child: it does once each thing a step needs.
func probeMain(in *bufio.Reader, out *os.File) error {
	if _, err := in.ReadBytes('\n'); err != nil {
		return fmt.Errorf("waiting for the parent: %w", err)
	}
	refused := "a seccomp, AppArmor or SELinux profile refuses it: run outside this container, " +
		"or with a profile that allows user namespaces"
	if b, err := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"); err == nil && strings.TrimSpace(string(b)) == "1" {
		refused = "have root run: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give the program an AppArmor profile with userns"
	}
	var findings []Finding
	try := func(name, remedy string, f func() (string, error)) {
		detail, err := f()
		finding := Finding{Name: name, OK: err == nil, Detail: detail}
		if err != nil {
			finding.Detail, finding.Remedy = err.Error(), remedy
		}
		findings = append(findings, finding)
	}
	try("mount", refused, func() (string, error) {
		return "private mounts", errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), mountOnce("tmpfs", ""))
	})
	try("proc", "the container hides parts of /proc, which forbids a new one: run outside it", func() (string, error) {
		return "can be mounted", mountOnce("proc", "")
	})
	try("overlay", "use a Linux of 5.11 or newer and a file system overlay accepts; without it every step copies its root", probeOverlay)
	try("loopback", refused, func() (string, error) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return "", err
		}
		return "can be brought up", netlink.LinkSetUp(lo)
	})
	try("openat2", "use a Linux of 5.6 or newer", func() (string, error) {
		fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if err != nil {
			return "", err
		}
		return "works", unix.Close(fd)
	})
	try("landlock", "steps are confined without it; a Linux of 5.13 or newer with landlock in its lsm= list has it", func() (string, error) {
		abi := jail.LandlockABI()
		if abi == 0 {
			return "", errors.New("this kernel does not have it")
		}
		return fmt.Sprintf("ABI %d", abi), nil
	})
	try("seccomp filter", "use a kernel with CONFIG_SECCOMP_FILTER", func() (string, error) {
		filter, err := jail.DefaultFilter(jail.DefaultCapabilities)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d instructions", len(filter)), filter.InstallAll()
	})
	return json.NewEncoder(out).Encode(findings)
}

// mountOnce mounts a file system and unmounts it.
func mountOnce(fstype, data string) error {
	dir, err := os.MkdirTemp("", "mount")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount(fstype, dir, fstype, unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return fmt.Errorf("mounting %s: %w", fstype, err)
	}
	return unix.Unmount(dir, 0)
}

func probeOverlay() (string, error) {
	dir, err := os.MkdirTemp("", "overlay")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	opts := []string{"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}
	if userns.RunningInUserNS() {
		opts = append(opts, "userxattr")
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: opts}
	if err := m.Mount(dir + "/merged"); err != nil {
		return "", fmt.Errorf("mounting overlay: %w", err)
	}
	return "can be mounted", unix.Unmount(dir+"/merged", 0)
}
