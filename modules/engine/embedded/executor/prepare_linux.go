package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	bkexec "github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/util/rootless/mountopts"
	"github.com/moby/sys/user"
	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

const defaultHostname = "drydock"

// step is one running process and what was made for it.
type step struct {
	e           *Executor
	vertex      Vertex
	socket      string // the gateway's
	authority   string // its certificate, as PEM; "" for none
	bundle      string // where the image says its authorities are
	dir         string
	process     bkexec.ProcessInfo
	spec        initproc.Spec
	emulator    *os.File // of its architecture, when the kernel does not execute it
	markStarted func()
	undo        []func() error
	network     Network
	listeners   []net.Listener // for its hosts, of a contained step
	hosts       string         // lines of /etc/hosts for the network
	control     *initSocket
	orders      orders

	limits   Limits
	places   []string // on disk, where it writes
	inMemory []string // where file systems of memory are mounted for it
	groups   cgroups
	printed  atomic.Int64
	stopping sync.Mutex
	stopped  string // by which limit

	addresses *addresses   // of a contained step
	fitting   *fitting     // its /dev, /proc and /sys
	ready     bool         // all of it is in place
	bounded   []bounded    // its directories that stand for a tmpfs with a size
	takeOut   func() error // takes out of its root what was placed there
}

func (s *step) later(f func() error) { s.undo = append(s.undo, f) }

// cleanup undoes, last first. What fails is left to the next engine's New.
func (s *step) cleanup() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		_ = s.undo[i]()
	}
	_ = os.RemoveAll(s.dir)
}

// prepare mounts the root file system and collects what the init will mount.
func (s *step) prepare(ctx context.Context, root bkexec.Mount, mounts []bkexec.Mount, env []string, gateway bool) error {
	meta := s.process.Meta
	rootfs := filepath.Join(s.dir, "rootfs")
	if err := s.mount(ctx, root.Src, rootfs); err != nil {
		return fmt.Errorf("mounting the root file system: %w", err)
	}
	clean := bkexec.MountStubsCleaner(context.WithoutCancel(ctx), rootfs,
		append([]bkexec.Mount{{Dest: "/etc/hostname"}}, mounts...), meta.RemoveMountStubsRecursive)
	s.later(func() error { clean(); return nil })

	who, err := lookupUser(rootfs, meta.User)
	if err != nil {
		return fmt.Errorf("finding user %q in the image: %w", meta.User, err)
	}
	if err := makeCwd(rootfs, meta.Cwd, who); err != nil {
		return err
	}
	hostname := meta.Hostname
	if hostname == "" {
		hostname = defaultHostname
	}
	s.spec = initproc.Spec{
		Emulator: s.spec.Emulator, Addresses: s.spec.Addresses, Listen: s.spec.Listen, Serves: s.spec.Serves,
		Root: rootfs, ReadOnly: root.Readonly || meta.ReadonlyRootFS, Hostname: hostname,
		Args: meta.Args, Env: withHome(env, who.Home), Cwd: filepath.Clean("/" + meta.Cwd),
		UID: uint32(who.Uid), GID: uint32(who.Gid), Groups: groupsOf(who),
		Gateway: gateway, Rlimits: s.limits.rlimitsOf(rlimits(meta.Ulimit)), Filter: s.e.filter,
		NoCapabilities: s.e.opt.SingleID && who.Uid != 0,
	}
	if err := s.nameFiles(hostname, gateway); err != nil {
		return err
	}
	if err := s.mountTrust(rootfs); err != nil {
		return err
	}
	for i, m := range mounts {
		if err := s.addMount(ctx, m, filepath.Join(s.dir, fmt.Sprintf("mount%d", i))); err != nil {
			return fmt.Errorf("mounting %s: %w", m.Dest, err)
		}
	}
	return nil
}

// mount mounts src at target in the engine's own mount namespace.
func (s *step) mount(ctx context.Context, src bkexec.Mountable, target string) error {
	mounts, err := s.open(ctx, src, false)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	return s.mountAll(mounts, target)
}

func (s *step) mountAll(mounts []mount.Mount, target string) error {
	if err := mount.All(mounts, target); err != nil {
		return err
	}
	s.later(func() error { return unix.Unmount(target, unix.MNT_DETACH) })
	s.writes(mounts)
	s.inMemory = append(s.inMemory, target)
	return nil
}

func (s *step) open(ctx context.Context, src bkexec.Mountable, readonly bool) ([]mount.Mount, error) {
	ref, err := src.Mount(ctx, readonly)
	if err != nil {
		return nil, err
	}
	mounts, release, err := ref.Mount()
	if err != nil {
		return nil, err
	}
	if s.e.opt.Mounted != nil {
		s.e.opt.Mounted()
	}
	if release != nil {
		s.later(release)
	}
	if userns.RunningInUserNS() {
		return mountopts.FixUp(mounts)
	}
	return mounts, nil
}

// addMount makes one mount of the step a bind mount for the init. Plain binds
// are passed as they are (they may be of a file), others are mounted first.
func (s *step) addMount(ctx context.Context, m bkexec.Mount, stage string) error {
	if m.Src == nil {
		return errors.New("the mount has no source")
	}
	mounts, err := s.open(ctx, m.Src, m.Readonly)
	if err != nil {
		return err
	}
	out := initproc.Mount{Selector: m.Selector, Dest: m.Dest, ReadOnly: m.Readonly, Source: stage}
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		out.Source = mounts[0].Source
		out.ReadOnly = out.ReadOnly || mounts[0].ReadOnly()
		if !out.ReadOnly {
			s.writes(mounts)
		}
		s.spec.Mounts = append(s.spec.Mounts, out)
		return nil
	}
	if err := os.Mkdir(stage, 0o700); err != nil {
		return err
	}
	if err := s.mountAll(mounts, stage); err != nil {
		return err
	}
	s.spec.Mounts = append(s.spec.Mounts, out)
	return nil
}

// nameFiles are mounted over the image's, so that none of it stays in a layer.
func (s *step) nameFiles(hostname string, gateway bool) error {
	hosts := "127.0.0.1\tlocalhost " + hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if s.network.Reachable { // what listens on its name is reached there
		hosts = initproc.OwnIP + "\t" + hostname + "\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	}
	hosts += s.hosts
	resolv := "# this step has no network\n"
	if gateway {
		hosts += initproc.GatewayIP + "\t" + initproc.GatewayHost + "\n"
		resolv = "nameserver " + initproc.GatewayIP + "\noptions timeout:2 attempts:1\n"
	}
	for _, h := range s.process.Meta.ExtraHosts {
		hosts += h.IP.String() + "\t" + h.Host + "\n"
	}
	for name, content := range map[string]string{"hosts": hosts, "resolv.conf": resolv, "hostname": hostname + "\n"} {
		path, err := writeFile(filepath.Join(s.dir, name), content)
		if err != nil {
			return err
		}
		s.spec.Mounts = append(s.spec.Mounts, initproc.Mount{Source: path, Dest: "/etc/" + name, ReadOnly: true})
	}
	return nil
}

// maxUserFile is the most that is read of an image's passwd and group files.
const maxUserFile = 10 << 20

// groupsOf are a process's groups, each once: /etc/group may name the user in
// the group it has anyway.
func groupsOf(who *user.ExecUser) []uint32 {
	groups := []uint32{uint32(who.Gid)} //nolint:gosec // it is an id
	for _, g := range who.Sgids {
		if !slices.Contains(groups, uint32(g)) { //nolint:gosec // it is an id
			groups = append(groups, uint32(g)) //nolint:gosec // it is an id
		}
	}
	return groups
}

// lookupUser resolves user[:group], by name or number, in the image.
func lookupUser(rootfs, spec string) (*user.ExecUser, error) {
	var files [2]io.Reader
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		path, err := fs.RootPath(rootfs, name)
		if err != nil {
			continue
		}
		fi, err := os.Lstat(path)
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		files[i] = io.LimitReader(f, maxUserFile)
	}
	isDefault := spec == ""
	if isDefault {
		spec = "0"
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, files[0], files[1])
	if err != nil && isDefault {
		return &user.ExecUser{Home: "/"}, nil
	}
	return u, err
}

func withHome(env []string, home string) []string {
	for _, kv := range env {
		if strings.HasPrefix(kv, "HOME=") {
			return env
		}
	}
	if home == "" {
		home = "/"
	}
	return append(env, "HOME="+home)
}

// makeCwd makes the working directory, owned by the user, as WORKDIR promises.
func makeCwd(rootfs, cwd string, who *user.ExecUser) error {
	path, err := fs.RootPath(rootfs, cwd)
	if err != nil {
		return fmt.Errorf("resolving working directory %s: %w", cwd, err)
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := user.MkdirAllAndChown(path, 0o755, who.Uid, who.Gid); err != nil {
		return fmt.Errorf("making working directory %s: %w", cwd, err)
	}
	return nil
}
