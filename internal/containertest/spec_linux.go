package containertest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"drydock/modules/jail"
)

// spec is what docker would give runc for the container (moby's
// daemon/pkg/oci/defaults.go).
func spec(c Container, id string) (*specs.Spec, error) {
	user, err := parseUser(c.User)
	if err != nil {
		return nil, err
	}
	caps := append(jail.DefaultCapabilities.Names(), c.AddCapabilities...)
	process := &specs.Process{
		User: user, Args: c.Args, Env: c.Env, Cwd: c.Dir, NoNewPrivileges: c.NoNewPrivileges,
		Capabilities: &specs.LinuxCapabilities{Bounding: caps},
	}
	if process.Cwd == "" {
		process.Cwd = "/"
	}
	if user.UID == 0 {
		process.Capabilities.Effective, process.Capabilities.Permitted = caps, caps
	}
	s := &specs.Spec{
		Version: "1.0.2", Hostname: "container", Process: process,
		Root: &specs.Root{Path: "merged"}, Mounts: mounts(c.Binds),
		Linux: &specs.Linux{CgroupsPath: "/" + id, Namespaces: namespaces(c.HostNetwork), Resources: devices()},
	}
	if !c.SystemPathsUnconfined {
		s.Linux.MaskedPaths = []string{
			"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
			"/sys/devices/virtual/powercap",
		}
		s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if !c.SeccompUnconfined {
		if s.Linux.Seccomp, err = profile(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// profile is docker's default one.
func profile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	// through JSON, so that only what a runtime of 1.0 knows is left
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	p = new(specs.LinuxSeccomp)
	return p, json.Unmarshal(b, p)
}

func parseUser(s string) (specs.User, error) {
	if s == "" {
		return specs.User{}, nil
	}
	uid, gid, ok := strings.Cut(s, ":")
	if !ok {
		gid = "0"
	}
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return specs.User{}, fmt.Errorf("user %q: %w", s, err)
	}
	g, err := strconv.ParseUint(gid, 10, 32)
	if err != nil {
		return specs.User{}, fmt.Errorf("user %q: %w", s, err)
	}
	return specs.User{UID: uint32(u), GID: uint32(g)}, nil
}

func namespaces(hostNetwork bool) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{
		{Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
	}
	if !hostNetwork {
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	return out
}

func mounts(binds []Bind) []specs.Mount {
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
	}
	for _, b := range binds {
		options := []string{"rbind", "rprivate", "rw"}
		if b.ReadOnly {
			options[2] = "ro"
		}
		out = append(out, specs.Mount{Destination: b.Dest, Type: "bind", Source: b.Source, Options: options})
	}
	return out
}

// devices is the device control group: nodes can be made, few can be opened.
func devices() *specs.LinuxResources {
	number := func(n int64) *int64 { return &n }
	out := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}} {
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(d[0]), Minor: number(d[1]), Access: "rwm"})
	}
	return &specs.LinuxResources{Devices: append(out, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(136), Access: "rwm"})}
}
