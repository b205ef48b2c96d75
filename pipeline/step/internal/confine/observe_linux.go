package confine

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/jail"
)

// Observe reads back from the kernel what holds for this process. Only of
// Landlock the kernel does not tell; its call having succeeded stands for it.
func Observe(done Done) (artifact.Confinement, error) {
	state, err := jail.Observe()
	if err != nil {
		return artifact.Confinement{}, err
	}
	c := artifact.Confinement{
		Network: "loopback", User: fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
		NoNewPrivs: state.NoNewPrivs, Capabilities: state.Effective.Names(),
		Seccomp: state.Seccomp, LandlockABI: done.Landlock,
	}
	if len(state.Interfaces) > 0 {
		c.Network = strings.Join(append([]string{"loopback"}, state.Interfaces...), ", ")
	}
	mounts, err := mountPoints()
	if err != nil {
		return c, err
	}
	for _, m := range mounts {
		if m.point == "/" {
			c.ReadOnlyRoot = m.flags&unix.MS_RDONLY != 0 // the last one mounted is the one seen
		}
	}
	c.ReadOnlyRoot = c.ReadOnlyRoot || done.ReadOnly
	return c, nil
}

// mountPoint is a mount and its flags.
type mountPoint struct {
	point string
	kind  string // file system
	flags uintptr
}

// mountPoints reads the mounts this thread sees (proc(5), mountinfo).
func mountPoints() ([]mountPoint, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	defer func() { _ = f.Close() }()
	flags := map[string]uintptr{
		"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []mountPoint
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 {
			continue
		}
		m := mountPoint{point: unescape.Replace(fields[4])}
		for _, o := range strings.Split(fields[5], ",") {
			m.flags |= flags[o]
		}
		if i := slices.Index(fields, "-"); i > 0 && i+1 < len(fields) {
			m.kind = fields[i+1]
		}
		out = append(out, m)
	}
	return out, sc.Err()
}
