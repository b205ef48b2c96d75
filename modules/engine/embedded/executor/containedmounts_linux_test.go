package executor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	bkexec "github.com/moby/buildkit/executor"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// script is what the probe does, one word or more to a line.
func script(lines ...string) []string { return []string{"script", strings.Join(lines, "\n")} }

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

func contentOf(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

type tmpfsMount struct{ options []string }

func (m tmpfsMount) Mount(context.Context, bool) (bkexec.MountableRef, error) {
	return tmpfsRef(m), nil
}

type tmpfsRef struct{ options []string }

func (r tmpfsRef) Mount() ([]mount.Mount, func() error, error) {
	return []mount.Mount{{Type: "tmpfs", Source: "tmpfs", Options: r.options}}, func() error { return nil }, nil
}
func (tmpfsRef) IdentityMapping() *user.IdentityMapping { return nil }

// layered is a mount that only mounting gives.
type layered struct{}

func (layered) Mount(context.Context, bool) (bkexec.MountableRef, error) { return layeredRef{}, nil }

type layeredRef struct{}

func (layeredRef) Mount() ([]mount.Mount, func() error, error) {
	return []mount.Mount{{Type: "overlay", Source: "overlay"}}, nil, nil
}
func (layeredRef) IdentityMapping() *user.IdentityMapping { return nil }

func TestContainedMounts(t *testing.T) {
	b := newBench(t, Options{})
	cache, other := filepath.Join(b.dir, "cache"), filepath.Join(b.dir, "other")
	writeTree(t, cache, map[string]string{"kept": "old", "sub/deep": "x"})
	writeTree(t, other, map[string]string{"file": "content", "dir/file": "more"})
	writeTree(t, b.root, map[string]string{"var/cache/image": "of the image", "etc/hosts": "the image's hosts\n", "etc/plain": ""})
	if err := errors.Join(os.Symlink("../run/resolv.conf", filepath.Join(b.root, "etc/resolv.conf")), os.Mkdir(filepath.Join(b.root, "run"), 0o755)); err != nil {
		t.Fatal(err)
	}
	before := snapshotTree(t, b.root)
	mounts := []bkexec.Mount{
		{Src: plainMount{cache}, Dest: "/var/cache"},
		{Src: plainMount{other}, Dest: "/in/other", Readonly: true},
		{Src: plainMount{other}, Selector: "file", Dest: "/in/file", Readonly: true},
		{Src: tmpfsMount{}, Dest: "/scratch"},
	}
	crosses := "fails 18 "
	if translatedHere() { // that it may not be changed is seen first
		crosses = "fails 30 "
	}
	b.must(stepOpt{mounts: mounts}, script(
		"expect /var/cache/kept old", "absent /var/cache/image", "write /var/cache/new fresh", "remove /var/cache/sub",
		"expect /in/other/dir/file more", "refused /in/other/file", "refused /in/other/new", "expect /in/file content",
		"fails 30 remove /in/other/dir/file", "fails 30 remove /in/other/nothing", "fails 16 remove /in/other", "fails 30 mkdir /in/other/sub", "fails 17 mkdir /in/other/dir",
		"fails 30 move /in/other/file /in/other/moved", crosses+"move /in/other/file /var/cache/moved", "write /var/cache/a x", crosses+"move /var/cache/a /in/other/a", "remove /var/cache/a", "fails 16 move /etc/hosts /tmp/hosts",
		"fails 18 link /in/other/file /var/cache/linked", "fails 30 chmod /in/other/file", "fails 30 chmod /in/other/../../in/other/file",
		"cd /in/other", "fails 30 remove file", "fails 30 mkdir sub", "cd /", "mkdir /var/cache/sub", "remove /var/cache/sub",
		"write /scratch/x y", "mode /scratch 1777", "write /dev/shm/x y", "write /dev/null y",
		"contains /etc/hosts localhost", "contains /etc/resolv.conf network", "contains /etc/hostname drydock",
		"refused /etc/hosts", "contains /proc/cpuinfo processor", "contains /proc/self/status probe", "contains /proc/meminfo MemTotal",
		"absent /proc/1/environ", "absent /proc/self/net",
	)...)
	if got := contentOf(t, filepath.Join(cache, "new")); got != "fresh" {
		t.Errorf("the cache has %q", got)
	}
	if _, err := os.Stat(filepath.Join(cache, "sub")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was removed in the cache is there: %v", err)
	}
	if got := contentOf(t, filepath.Join(other, "file")); got != "content" {
		t.Errorf("a read-only source was changed: %q", got)
	}
	if after := snapshotTree(t, b.root); after != before {
		t.Errorf("the root changed:\n%s\nwas\n%s", after, before)
	}
	_, err := b.run(t.Context(), stepOpt{mounts: []bkexec.Mount{{Src: layered{}, Dest: "/x"}}}, "exit", "0")
	if err == nil || !strings.Contains(err.Error(), "without mounting") {
		t.Errorf("got %v", err)
	}
	_, err = b.run(t.Context(), stepOpt{mounts: []bkexec.Mount{
		{Src: plainMount{cache}, Dest: "/x"}, {Src: plainMount{cache}, Dest: "/y"},
	}}, "exit", "0")
	if err == nil || !strings.Contains(err.Error(), "mounted twice") {
		t.Errorf("got %v", err)
	}
	for dest, src := range map[string]bkexec.Mount{
		"/etc/plain": {Src: plainMount{cache}},                                   // a directory over a file
		"/etc":       {Src: plainMount{other}, Selector: "file", Readonly: true}, // and the other way round
	} {
		src.Dest = dest
		_, err = b.run(t.Context(), stepOpt{mounts: []bkexec.Mount{src}}, "exit", "0")
		if err == nil || !strings.Contains(err.Error(), "mounting "+dest+": not a directory") {
			t.Errorf("got %v", err)
		}
	}
	if after := snapshotTree(t, b.root); after != before {
		t.Errorf("the root changed after failed steps:\n%s\nwas\n%s", after, before)
	}
}

// TestContainedMountAtMadeCwd: a working directory that the image has no more,
// and that is a mount point, leaves as little as other mount points.
func TestContainedMountAtMadeCwd(t *testing.T) {
	b := newBench(t, Options{})
	cache := filepath.Join(b.dir, "cache")
	writeTree(t, cache, map[string]string{"kept": "old"})
	b.must(stepOpt{cwd: "/gone/work", mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/gone/work"}}}, script("expect kept old")...)
	if _, err := os.Lstat(filepath.Join(b.root, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point stayed: %v", err)
	}
	b.must(stepOpt{cwd: "/made/work"}, "echo")
	if _, err := os.Lstat(filepath.Join(b.root, "made/work")); err != nil {
		t.Errorf("a working directory that nothing is mounted at did not stay: %v", err)
	}
}

// TestContainedFittings: what a step does to /dev, /proc and /sys is not there
// for the next, which otherwise gets the same.
func TestContainedFittings(t *testing.T) {
	b := newBench(t, Options{})
	made := func() int { return b.e.container.fittings.made }
	look := script("contains /proc/sys/kernel/hostname drydock", "absent /dev/shm/left", "absent /proc/left", "mode /dev/null 666", "absent /sys/left", "write /dev/null x")
	for range 3 {
		b.must(stepOpt{}, look...)
		b.must(stepOpt{user: "1000:1000"}, look...)
	}
	if made() != 1 {
		t.Errorf("%d were made for steps that changed nothing", made())
	}
	before := made()
	changes := []string{
		"write /dev/shm/left x", "write /proc/left x", "write /sys/left x", "write /proc/sys/kernel/hostname other",
		"remove /dev/zero", "write /sys/devices/left x",
	}
	if !translatedHere() { // to which these are the container's
		changes = append(changes, "chmod /dev/null", "move /dev/zero /tmp/zero", "link /dev/null /tmp/null", "touch /dev/null")
	}
	for _, line := range changes {
		b.must(stepOpt{}, script(line)...)
		b.must(stepOpt{}, look...)
		before++
		if made() != before {
			t.Errorf("after %q: %d were made, not %d", line, made(), before)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(b.root, "tmp")); err != nil || len(entries) != 0 {
		t.Errorf("left in the root: %v, %v", entries, err)
	}
}

// TestContainedTmpfsSize: who writes more to a tmpfs than its size is ended, who
// does not is not.
func TestContainedTmpfsSize(t *testing.T) {
	b := newBench(t, Options{})
	small := stepOpt{mounts: []bkexec.Mount{{Src: tmpfsMount{[]string{"nosuid", "size=2000000"}}, Dest: "/scratch"}}}
	b.must(small, script("fill /scratch/a 1000000", "fill /tmp/a 1000000", "fill /tmp/b 1000000", "sleep 500")...)
	start := time.Now()
	_, err := b.run(t.Context(), small, script("fill /scratch/a 1000000", "mkdir /scratch/d", "move /scratch /moved",
		"fill /moved/d/b 1000000", "fill /moved/d/c 1000000", "sleep 50000")...)
	if err == nil || !strings.Contains(err.Error(), "to the tmpfs at /scratch, which is its size") || time.Since(start) > 30*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

// TestContainedMountsMoved: a step may move and link what was placed; nothing
// of it gets into the layer, and the cache is kept.
func TestContainedMountsMoved(t *testing.T) {
	b := newBench(t, Options{})
	cache := filepath.Join(b.dir, "cache")
	writeTree(t, cache, map[string]string{"kept": "old"})
	writeTree(t, b.root, map[string]string{"etc/hosts": "the image's hosts\n"})
	hosts, name, null, zero := "move /etc/hosts /tmp/hosts", "link /etc/hostname /tmp/hostname", "link /dev/null /tmp/null", "move /dev/zero /tmp/zero"
	if translatedHere() { // what something is mounted on, and the container's devices
		hosts, name, null, zero = "fails 16 "+hosts, "fails 18 "+name, "fails 18 "+null, "fails 18 "+zero
	}
	b.must(stepOpt{mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/cache"}}}, script(
		hosts, name, null, zero,
		"move /cache /tmp/stolen", "write /tmp/stolen/more x", "move /proc /tmp/proc", "write /tmp/real file",
	)...)
	if got := contentOf(t, filepath.Join(b.root, "etc/hosts")); got != "the image's hosts\n" {
		t.Errorf("hosts: %q", got)
	}
	entries, err := os.ReadDir(filepath.Join(b.root, "tmp"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "real" {
		t.Errorf("left in the root: %v, %v", entries, err)
	}
	if got := contentOf(t, filepath.Join(cache, "more")) + contentOf(t, filepath.Join(cache, "kept")); got != "xold" {
		t.Errorf("the cache has %q", got)
	}
	for _, name := range []string{"dev", "proc"} {
		if entries, err := os.ReadDir(filepath.Join(b.root, name)); err != nil || len(entries) > 0 {
			t.Errorf("/%s: %v, %v", name, entries, err)
		}
	}
	if translatedHere() {
		return
	}
	// removed altogether
	b.must(stepOpt{mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/cache"}}}, script("remove /etc", "remove /cache", "remove /dev")...)
	if _, err := os.Stat(filepath.Join(b.root, "etc/hosts")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("/etc was removed and has hosts: %v", err)
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) != 0 {
		t.Errorf("the cache was emptied and has %v, %v", entries, err)
	}
}

func TestContainedReadOnlyRoot(t *testing.T) {
	b := newBench(t, Options{})
	cache := filepath.Join(b.dir, "cache")
	writeTree(t, cache, nil)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	b.must(stepOpt{ro: true, mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/cache"}, {Src: tmpfsMount{}, Dest: "/scratch"}}}, script(
		"write /cache/x y", "write /scratch/x y", "write /dev/null y", "refused /tmp/x", "refused /etc/x", "refused /bin/x",
	)...)
	if got := contentOf(t, filepath.Join(cache, "x")); got != "y" {
		t.Errorf("got %q", got)
	}
}

// TestContainedSharedCache: one cache is in one step at a time.
func TestContainedSharedCache(t *testing.T) {
	b := newBench(t, Options{})
	cache := filepath.Join(b.dir, "cache")
	writeTree(t, cache, map[string]string{"n": ""})
	var wg sync.WaitGroup
	for i := range 4 {
		root := filepath.Join(b.dir, "root"+string(rune('0'+i)))
		if err := os.CopyFS(root, os.DirFS(b.root)); err != nil {
			t.Fatal(err)
		}
		other := *b
		other.root = root
		wg.Go(func() {
			out, err := other.run(t.Context(), stepOpt{mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/cache"}}}, script("append /cache/n x", "sleep 20", "append /cache/n y")...)
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if got := contentOf(t, filepath.Join(cache, "n")); got != "xyxyxyxy" {
		t.Errorf("got %q", got)
	}
	// one that waits stops waiting when it is cancelled
	if err := b.e.container.take(t.Context(), cache); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.run(ctx, stepOpt{mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/cache"}}}, "exit", "0"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestContainedKilled: a step that is stopped leaves its root as it was.
func TestContainedKilled(t *testing.T) {
	b := newBench(t, Options{})
	cache := filepath.Join(b.dir, "cache")
	writeTree(t, cache, map[string]string{"kept": "old"})
	writeTree(t, b.root, map[string]string{"etc/hosts": "the image's hosts\n"})
	before := snapshotTree(t, b.root)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := b.run(ctx, stepOpt{mounts: []bkexec.Mount{{Src: plainMount{cache}, Dest: "/cache"}}}, script("ignore", "sleep 60000")...)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if after := snapshotTree(t, b.root); after != before {
		t.Errorf("the root changed:\n%s\nwas\n%s", after, before)
	}
	if got := contentOf(t, filepath.Join(cache, "kept")); got != "old" {
		t.Errorf("the cache has %q", got)
	}
	if left := running("probe"); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

// TestContainedEngineGone: after an engine was killed the next one finds
// everything where it was.
func TestContainedEngineGone(t *testing.T) {
	b := newBench(t, Options{})
	cache := filepath.Join(b.dir, "cache")
	writeTree(t, cache, map[string]string{"kept": "old"})
	writeTree(t, b.root, map[string]string{"etc/hosts": "the image's hosts\n", "cache/hidden": ""})
	names := func() string {
		lines := strings.Split(snapshotTree(t, b.root), "\n")
		for i, l := range lines {
			lines[i], _, _ = strings.Cut(l, "mtime")
		}
		return strings.Join(lines, "\n")
	}
	before := names()
	// place as a step does, and forget about it
	dir := filepath.Join(b.e.opt.Root, "lost")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tree, err := openTree(b.root)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlacer(tree, dir)
	if err != nil {
		t.Fatal(err)
	}
	writeTree(t, dir, map[string]string{"hosts": "ours"})
	for away, dest := range map[string]string{cache: "/cache", filepath.Join(dir, "hosts"): "/etc/hosts"} {
		if err := p.place(away, dest); err != nil {
			t.Fatal(err)
		}
	}
	if got := contentOf(t, filepath.Join(b.root, "etc/hosts")); got != "ours" {
		t.Fatalf("got %q", got)
	}
	if _, err := New(b.e.opt); err != nil {
		t.Fatal(err)
	}
	if after := names(); after != before {
		t.Errorf("the root changed:\n%s\nwas\n%s", after, before)
	}
	if got := contentOf(t, filepath.Join(cache, "kept")); got != "old" {
		t.Errorf("the cache has %q", got)
	}
}

// secretMountInstance has the name and the fields of BuildKit's; that those are
// still so is seen in package core, where a Dockerfile's secret is mounted.
type secretMountInstance struct{ sm *secretMountFields }

type secretMountFields struct {
	mount *secretMountOp
	data  []byte
}
type secretMountOp struct{ SecretOpt *secretMountOpt }
type secretMountOpt struct{ Uid, Gid, Mode uint32 }

func (*secretMountInstance) Mount() ([]mount.Mount, func() error, error) {
	return nil, nil, errors.New("a secret was to be mounted")
}
func (*secretMountInstance) IdentityMapping() *user.IdentityMapping { return nil }

type secretMount struct{ ref *secretMountInstance }

func (s secretMount) Mount(context.Context, bool) (bkexec.MountableRef, error) { return s.ref, nil }

func TestContainedSecret(t *testing.T) {
	b := newBench(t, Options{})
	before := snapshotTree(t, b.root)
	m := bkexec.Mount{Dest: "/run/secrets/key", Readonly: true, Src: secretMount{&secretMountInstance{&secretMountFields{
		mount: &secretMountOp{&secretMountOpt{Uid: 1000, Gid: 1001, Mode: 0o400}}, data: []byte("secret"),
	}}}}
	b.must(stepOpt{user: "1000:1001", mounts: []bkexec.Mount{m}}, script("expect /run/secrets/key secret", "mode /run/secrets/key 400")...)
	if after := snapshotTree(t, b.root); after != before {
		t.Errorf("the root changed:\n%s\nwas\n%s", after, before)
	}
	// a further name of it is empty at best
	if translatedHere() { // and there is none
		b.must(stepOpt{mounts: []bkexec.Mount{m}}, script("fails 18 link /run/secrets/key /tmp/key")...)
	} else {
		b.must(stepOpt{mounts: []bkexec.Mount{m}}, script("link /run/secrets/key /tmp/key")...)
		if got := contentOf(t, filepath.Join(b.root, "tmp/key")); got == "secret" {
			t.Error("the secret is in the layer")
		}
	}
	left, err := os.ReadDir(b.e.opt.Root)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return translatedHere() && e.Name() == "programs" })
	if err != nil || len(left) != 1 || left[0].Name() != "fittings" {
		t.Errorf("left of steps: %v, %v", left, err)
	}
	steps, _ := filepath.Glob(filepath.Join(b.e.opt.Root, "programs", "step*"))
	if len(steps) > 0 {
		t.Errorf("programs of steps that have ended: %v", steps)
	}
}

// TestContainedAgent reaches a socket outside that was mounted.
func TestContainedAgent(t *testing.T) {
	b := newBench(t, Options{})
	sock := filepath.Join(b.dir, "agent")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(sock, 0o600), os.Chown(sock, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	mounts := []bkexec.Mount{{Src: plainMount{sock}, Dest: "/run/agent"}}
	b.must(stepOpt{user: "1000:1000", mounts: mounts}, script("mode /run/agent 600", "talk unix /run/agent hello")...)
	if _, err := b.run(t.Context(), stepOpt{user: "1001:1001", mounts: mounts}, script("talk unix /run/agent hello")...); err == nil {
		t.Error("another user reached the agent")
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(b.root, "run"), &st); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the root has /run: %v", err)
	}
}
