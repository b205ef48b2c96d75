package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	bkexec "github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/initproc"
	"drydock/modules/engine/embedded/keeper"
	"drydock/modules/engine/embedded/warden"
	"drydock/modules/jail"
)

const (
	// endTime is how long an init may take to end its step.
	endTime = 10 * time.Second
)

// container is what an Executor of TierContainer has.
type container struct {
	programs string            // folders of steps that keep the container's root; "": they change it
	program  *os.File          // of their inits
	launcher *keeper.Launcher  // that starts them
	abi      int               // Landlock ABI that is used
	proc     map[string]string // files of /proc that do not change
	fittings fittings
	fixing   func() (jail.Filter, error) // the filter of steps with directories mounted read-only
	mu       sync.Mutex
	busy     map[string]chan struct{} // writable sources in use, by path
	running  map[int]func()           // inits, and how to end them
	closed   bool
	steps    sync.WaitGroup
}

// newContainer looks what the kernel has and makes the filter of steps.
func newContainer(opt Options) (*container, jail.Filter, error) {
	c := &container{
		abi: jail.LandlockABI(), proc: readProc(procFiles()), fittings: fittings{root: filepath.Join(opt.Root, "fittings"), bare: opt.Tier == TierTranslated},
		busy: map[string]chan struct{}{}, running: map[int]func(){},
	}
	switch {
	case opt.LandlockABI < 0:
		c.abi = 0
	case opt.LandlockABI > 0:
		c.abi = min(c.abi, opt.LandlockABI)
	}
	if opt.Tier == TierTranslated {
		return newTranslated(c, opt)
	}
	if err := probeDev(filepath.Join(opt.Root, "probe")); err != nil {
		return nil, nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "starting the engine", Place: opt.Root, Err: err,
			Message: "steps cannot have devices here",
			Remedy:  "put the state directory on a file system without nodev, and keep the capability MKNOD",
		}
	}
	filter, err := jail.BuildFilter(warden.Capabilities, warden.Rules(c.abi, false)...)
	c.fixing = sync.OnceValues(func() (jail.Filter, error) {
		return jail.BuildFilter(warden.Capabilities, warden.Rules(c.abi, true)...)
	})
	return c, filter, err
}

// contained runs the step in its plain root directory.
func (s *step) contained(ctx context.Context, root bkexec.Mount, mounts []bkexec.Mount, env []string, gateway bool) error {
	err := s.prepareContained(ctx, root, mounts, env, gateway)
	if err == nil {
		err = s.executeContained(ctx)
	}
	if s.takeOut == nil {
		return err
	}
	if out := s.takeOut(); out != nil {
		// what is left in the root would become part of the image
		return errors.Join(err, fmt.Errorf("taking mounts out of the root file system: %w", out))
	}
	return err
}

// prepareContained puts into the root file system what the step sees beside
// it, and finds it addresses.
func (s *step) prepareContained(ctx context.Context, root bkexec.Mount, mounts []bkexec.Mount, env []string, gateway bool) error {
	src, err := s.source(ctx, bkexec.Mount{Src: root.Src})
	if err == nil {
		err = src.resolve()
	}
	if err != nil {
		return fmt.Errorf("opening the root file system: %w", err)
	}
	tree, err := openTree(src.path)
	if err != nil {
		return fmt.Errorf("opening the root file system: %w", err)
	}
	s.later(tree.dir.Close)
	s.places = append(s.places, tree.path)
	if s.addresses, err = newAddresses(); err != nil {
		return err
	}
	s.later(func() error { s.addresses.close(); return nil })
	// first: a working directory that is made here may be a mount point too
	clean := bkexec.MountStubsCleaner(context.WithoutCancel(ctx), tree.path,
		append([]bkexec.Mount{{Dest: "/etc/hostname"}}, mounts...), s.process.Meta.RemoveMountStubsRecursive)
	if err := s.specify(tree, env, gateway); err != nil {
		return err
	}
	s.spec.Contained.ReadOnly = root.Readonly || s.process.Meta.ReadonlyRootFS
	if err := s.joinContained(); err != nil {
		return err
	}
	return s.placeAll(ctx, tree, mounts, s.spec.Contained.Hostname, gateway, clean)
}

// specify says what runs, as whom and within what.
func (s *step) specify(tree *rootTree, env []string, gateway bool) error {
	meta := s.process.Meta
	who, err := lookupUser(tree.path, meta.User)
	if err != nil {
		return fmt.Errorf("finding user %q in the image: %w", meta.User, err)
	}
	if err := makeCwd(tree.path, meta.Cwd, who); err != nil {
		return err
	}
	own := s.addresses.own.String()
	if gateway {
		s.ownAddress(env)
	}
	programs, err := s.ownPrograms()
	if err != nil {
		return err
	}
	c := &warden.Config{
		Root: tree.path, ABI: s.e.container.abi, Own: own, Hostname: meta.Hostname,
		MaxProcesses: s.limits.Processes, TooMany: s.limits.tooMany(), Programs: programs, Hosts: map[string]int{},
	}
	if c.Hostname == "" {
		c.Hostname = defaultHostname
	}
	if gateway {
		c.Gateway = s.addresses.gateway.String()
		for port, l := range s.addresses.listeners {
			serves(c.Hosts, s.addresses.gateway, port, l)
		}
	}
	s.spec = initproc.Spec{
		Root: tree.path, Args: meta.Args, Env: withHome(env, who.Home), Cwd: filepath.Clean("/" + meta.Cwd),
		UID: uint32(who.Uid), GID: uint32(who.Gid), Groups: groupsOf(who),
		Rlimits: s.limits.rlimitsOf(rlimits(meta.Ulimit)), Filter: s.e.filter, Contained: c,
	}
	return nil
}

// ownAddress keeps a contained step's own address from proxies: a server of the
// step is told it and passes it on.
func (s *step) ownAddress(env []string) {
	for i, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); s.addresses != nil && strings.EqualFold(name, "no_proxy") {
			env[i] += "," + s.addresses.own.String()
		}
	}
}

// placeAll places devices, /proc, mounts and name files, and sees to it that
// all of that is taken out again, but for what mounting leaves too; clean then
// removes the mount points that were made.
func (s *step) placeAll(ctx context.Context, tree *rootTree, mounts []bkexec.Mount, hostname string, gateway bool, clean func()) error {
	list, err := s.furnishOwn(tree, hostname, gateway)
	if err != nil {
		return err
	}
	defer func() {
		if s.takeOut == nil {
			s.e.container.fittings.give(s.fitting, true)
		}
	}()
	more, err := s.furnishMounts(ctx, mounts)
	if err != nil {
		return err
	}
	list = append(list, more...)
	p, err := newPlacer(tree, s.dir)
	if err != nil {
		return err
	}
	s.takeOut = func() error {
		err := s.takeAll(tree, p, list)
		clean()
		return err
	}
	config := s.spec.Contained
	for _, f := range list {
		if err := p.place(f.away, f.dest); err != nil {
			return fmt.Errorf("mounting %s: %w", f.dest, err)
		}
		if f.fixed {
			fi, err := os.Lstat(f.away) // what stood there, and is of the same kind
			config.Fixed = append(config.Fixed, warden.Fixed{Path: path.Clean("/" + f.dest), Dir: err == nil && fi.IsDir()})
		}
		if config.ReadOnly && f.writable {
			config.Writable = append(config.Writable, p.placed[len(p.placed)-1].Dest)
		}
	}
	p.settle()
	for i, f := range list {
		if f.part != "" {
			s.fitting.placed(f.part, p.placed[i].obj)
		}
		if f.size > 0 {
			s.bounded = append(s.bounded, bounded{dir: p.placed[i].obj, name: f.dest, size: f.size})
		}
	}
	s.ready = true
	return s.refilter()
}

// refilter takes the filter of steps with directories mounted read-only where
// the kernel goes on with paths.
func (s *step) refilter() (err error) {
	c := s.spec.Contained
	if c.Programs == "" && slices.ContainsFunc(c.Fixed, func(f warden.Fixed) bool { return f.Dir }) {
		s.spec.Filter, err = s.e.container.fixing()
	}
	return err
}

// takeAll takes out what was placed, as far as that got.
func (s *step) takeAll(tree *rootTree, p *placer, list []*furnishing) error {
	same := s.ready // else a part was never in place
	for i, e := range p.placed {
		switch f := list[i]; {
		case f.part != "":
			same = same && s.fitting.same(f.part, e.obj)
			continue
		case f.secret:
			_ = os.Truncate(fdPath(e.obj), 0)
		}
		eraseLinks(tree, e.obj)
	}
	if !same {
		eraseDevices(tree, p)
	}
	err := p.restore()
	s.e.container.fittings.give(s.fitting, same && err == nil)
	return err
}

// furnishOwn makes what is placed in every step, in the order of placing.
func (s *step) furnishOwn(tree *rootTree, hostname string, gateway bool) ([]*furnishing, error) {
	var err error
	if s.fitting, err = s.e.container.fittings.take(hostname, s.e.container.proc, s.trustFiles(tree.path)); err != nil {
		return nil, err
	}
	var list []*furnishing
	for _, name := range []string{"dev", "proc", "sys"} {
		list = append(list, &furnishing{dest: "/" + name, away: filepath.Join(s.fitting.dir, name), writable: name == "dev", part: name})
	}
	contents := s.nameContents(hostname, gateway)
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		file, err := writeFile(filepath.Join(s.dir, name), contents[name])
		if err != nil {
			return nil, err
		}
		list = append(list, &furnishing{dest: "/etc/" + name, away: file, fixed: true})
	}
	return list, nil
}

// furnishMounts makes what is placed for the step's mounts.
func (s *step) furnishMounts(ctx context.Context, mounts []bkexec.Mount) ([]*furnishing, error) {
	var sources []*source
	for _, m := range mounts {
		src, err := s.source(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.Dest, err)
		}
		sources = append(sources, src)
	}
	copied, err := s.lockSources(ctx, sources)
	defer copied()
	if err != nil {
		return nil, err
	}
	var list []*furnishing
	for i, src := range sources {
		err := src.resolve()
		if err == nil {
			var f *furnishing
			if f, err = s.furnish(src, filepath.Join(s.dir, fmt.Sprintf("mount%d", i))); err == nil {
				list = append(list, f)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("mounting %s: %w", src.m.Dest, err)
		}
	}
	return list, placedOnce(list, s.dir)
}

// placedOnce refuses two mounts of one directory, or of one in the other:
// without mounts it is in one place only.
func placedOnce(list []*furnishing, own string) error {
	var paths []string
	for _, f := range list {
		if path.Dir(f.away) != own {
			paths = append(paths, f.away)
		}
	}
	slices.Sort(paths)
	for i, p := range paths {
		if i > 0 && sameOrBelow(p, paths[i-1]) {
			return fmt.Errorf("one cache or directory is mounted twice (%s): that cannot be had without mounting", filepath.Base(p))
		}
	}
	return nil
}

// nameContents are the files by which a step finds names.
func (s *step) nameContents(hostname string, gateway bool) map[string]string {
	// no ::1: the step has no address of version 6
	hosts := "127.0.0.1\tlocalhost " + hostname + "\n" + s.hosts
	resolv := "# this step has no network\n"
	if gateway {
		ip := s.addresses.gateway.String()
		hosts += ip + "\t" + initproc.GatewayHost + "\n"
		// over TCP: a contained step sends no datagrams
		resolv = "nameserver " + ip + "\noptions use-vc timeout:2 attempts:1\n"
	}
	for _, h := range s.process.Meta.ExtraHosts {
		hosts += h.IP.String() + "\t" + h.Host + "\n"
	}
	return map[string]string{"hosts": hosts, "resolv.conf": resolv, "hostname": hostname + "\n"}
}

// lockSources waits until no other step has one of the sources in place: a
// directory can be in one root only. All are taken in one order, so that two
// steps never wait for each other. Those that are only copied are free again
// when copied is called, which it may always be.
func (s *step) lockSources(ctx context.Context, sources []*source) (copied func(), err error) {
	writable := map[string]bool{}
	for _, src := range sources {
		if src.path != "" {
			writable[src.path] = writable[src.path] || !src.m.Readonly
		}
	}
	var free []string
	copied = func() {
		for _, p := range free {
			s.e.container.release(p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(writable)) {
		if err := s.e.container.take(ctx, p); err != nil {
			return copied, err
		}
		if writable[p] {
			s.later(func() error { s.e.container.release(p); return nil })
		} else {
			free = append(free, p)
		}
	}
	return copied, nil
}

func (c *container) take(ctx context.Context, name string) error {
	for {
		c.mu.Lock()
		taken := c.busy[name]
		if taken == nil {
			c.busy[name] = make(chan struct{})
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *container) release(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.busy[name])
	delete(c.busy, name)
}

// eraseDevices removes device nodes that the step linked or moved out of /dev.
func eraseDevices(t *rootTree, p *placer) {
	if len(p.placed) == 0 { // /dev is the first
		return
	}
	dev := fdPath(p.placed[0].obj)
	for _, d := range devices {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dev, d.name), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Nlink == 1 {
			continue
		}
		eraseNodes(t)
		return
	}
}

// eraseNodes removes every device node the root has: nothing but us makes any.
func eraseNodes(t *rootTree) {
	_ = filepath.WalkDir(t.path, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeCharDevice != 0 {
			_ = unix.Unlink(name)
		}
		return nil
	})
}
