package keeper

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
	"drydock/modules/jail/notify"
)

func TestSetIDs(t *testing.T) {
	const none = unchanged
	type ids [4]uint32
	root, app, dropped := ids{}, ids{7, 7, 7, 7}, ids{7, 7, 0, 7}
	one := func(id uint32) func(bool, *ids) error {
		return func(p bool, i *ids) error { return setOne(p, id, &i[0], &i[1], &i[2], &i[3]) }
	}
	two := func(r, e uint32) func(bool, *ids) error {
		return func(p bool, i *ids) error { return setTwo(p, r, e, &i[0], &i[1], &i[2], &i[3]) }
	}
	three := func(r, e, s uint32) func(bool, *ids) error {
		return func(p bool, i *ids) error { return setThree(p, r, e, s, &i[0], &i[1], &i[2], &i[3]) }
	}
	for _, c := range []struct {
		name string
		from ids
		do   func(bool, *ids) error
		want ids
		err  error
	}{
		{"setuid as root", root, one(7), app, nil},
		{"setuid to nobody", root, one(none), root, unix.EINVAL},
		{"setuid as somebody", app, one(8), app, unix.EPERM},
		{"setuid to oneself", app, one(7), app, nil},
		{"setuid back to the saved id", dropped, one(0), ids{7, 0, 0, 0}, nil},
		{"setreuid as root", root, two(7, 8), ids{7, 8, 8, 8}, nil},
		{"seteuid by setreuid keeps root saved", root, two(none, 7), ids{0, 7, 7, 7}, nil},
		{"setreuid of nothing", root, two(none, none), root, nil},
		{"setreuid swaps", ids{7, 0, 0, 0}, two(0, 7), ids{0, 7, 7, 7}, nil},
		{"setreuid as somebody", app, two(none, 0), app, unix.EPERM},
		{"setresuid as root", root, three(7, 7, 0), dropped, nil},
		{"setresuid of one", root, three(none, 7, none), ids{0, 7, 0, 7}, nil},
		{"setresuid back", dropped, three(none, 0, none), ids{7, 0, 0, 0}, nil},
		{"setresuid as somebody", app, three(none, none, 0), app, unix.EPERM},
	} {
		got := c.from
		err := c.do(c.from[1] == 0, &got)
		if !errors.Is(err, c.err) || got != c.want {
			t.Errorf("%s: %v, %v, want %v, %v", c.name, got, err, c.want, c.err)
		}
	}
	fs := uint32(7)
	if got := setFS(false, 0, 7, 7, 7, &fs); got != 7 || fs != 7 {
		t.Errorf("setfsuid as somebody: %d, now %d", got, fs)
	}
	if got := setFS(true, 9, 0, 0, 0, &fs); got != 7 || fs != 9 {
		t.Errorf("setfsuid as root: %d, now %d", got, fs)
	}
}

func TestGroupsAndPermissions(t *testing.T) {
	i := identity{fsuid: 7, fsgid: 8, groups: packGroups([]uint32{300, 5, 70000}), groupsKnown: true}
	if got := i.groupList(); !slices.Equal(got, []uint32{5, 300, 70000}) {
		t.Errorf("groups %v", got)
	}
	file := func(mode, uid, gid uint32) looked {
		return looked{Stat_t: unix.Stat_t{Mode: unix.S_IFREG | mode}, owner: owner{uid, gid}}
	}
	for _, c := range []struct {
		l    looked
		want bool
	}{
		{file(0o200, 7, 0), true}, {file(0o020, 7, 5), false}, {file(0o020, 0, 5), true}, {file(0o020, 0, 8), true},
		{file(0o020, 0, 9), false}, {file(0o002, 0, 9), true}, {file(0o002, 0, 70000), false},
	} {
		if got := i.may(c.l, 2); got != c.want {
			t.Errorf("mode %o of %v: %v", c.l.Mode, c.l.owner, got)
		}
	}
	if !(identity{}).may(file(0, 7, 7), 7) {
		t.Error("root may not")
	}
	for _, c := range []struct {
		have     owner
		uid, gid uint32
		want     bool
	}{
		{owner{7, 8}, unchanged, 300, true}, {owner{7, 8}, 7, 8, true}, {owner{7, 8}, 0, unchanged, false},
		{owner{7, 8}, unchanged, 9, false}, {owner{6, 8}, unchanged, 8, false},
	} {
		if got := i.mayChown(c.have, c.uid, c.gid); got != c.want {
			t.Errorf("chown of %v to %d:%d: %v", c.have, c.uid, c.gid, got)
		}
	}
}

func TestExecuting(t *testing.T) {
	app := identity{ruid: 7, euid: 7, suid: 0, fsuid: 7, rgid: 8, egid: 8, sgid: 8, fsgid: 8}
	for mode, want := range map[uint32][6]uint32{ // effective, saved and of the file system: user, group
		unix.S_IFREG | 0o755:  {7, 7, 7, 8, 8, 8},
		unix.S_IFREG | 0o4755: {3, 3, 3, 8, 8, 8},
		unix.S_IFREG | 0o6755: {3, 3, 3, 4, 4, 4},
		unix.S_IFREG | 0o2745: {7, 7, 7, 8, 8, 8},
		unix.S_IFREG | 0o4644: {7, 7, 7, 8, 8, 8},
		unix.S_IFDIR | 0o6755: {7, 7, 7, 8, 8, 8},
	} {
		i := app.executing(looked{Stat_t: unix.Stat_t{Mode: mode}, owner: owner{3, 4}})
		got := [6]uint32{i.euid, i.suid, i.fsuid, i.egid, i.sgid, i.fsgid}
		if got != want || i.ruid != 7 || i.rgid != 8 {
			t.Errorf("mode %o: %v, want %v", mode, got, want)
		}
	}
}

func TestIdentitiesFollowProcesses(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Prlimit(0, tokenLimit, nil, &before); err != nil || before.Max != unix.RLIM_INFINITY {
		t.Skipf("the limit of file locks is taken: %+v, %v", before, err)
	}
	ids := newIdentities()
	app := identity{ruid: 7, euid: 7}
	if ids.of(os.Getpid()) != (identity{}) {
		t.Error("somebody before anything was set")
	}
	if err := ids.become(os.Getpid(), app); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(tokenLimit, &before); err != nil {
			t.Error(err)
		}
	})
	if ids.of(os.Getpid()) != app {
		t.Error("not who it became")
	}
	if n, err := ids.number(app); n != 0 || err != nil {
		t.Errorf("the same identity again: %d, %v", n, err)
	}
	for i := range uint32(maxIdentities) {
		if _, err := ids.number(identity{ruid: i}); err != nil {
			if i != maxIdentities-1 || !errors.Is(err, unix.EAGAIN) {
				t.Errorf("identity %d: %v", i, err)
			}
			return
		}
	}
	t.Error("it remembers without end")
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	if err := Check(dir); err != nil {
		t.Skip(err)
	}
	make := func(name string, f func(string) error) file {
		path := dir + "/" + name
		if err := f(path); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return ours(fd)
	}
	files := map[string]file{
		"file":    make("file", func(p string) error { return os.WriteFile(p, nil, 0o644) }),
		"folder":  make("folder", func(p string) error { return os.Mkdir(p, 0o755) }),
		"symlink": make("symlink", func(p string) error { return os.Symlink("nowhere", p) }),
		"pipe":    make("pipe", func(p string) error { return unix.Mkfifo(p, 0o644) }),
	}
	for name, f := range files {
		for _, o := range []owner{{1000, 0}, {0, 5}, {65534, 65534}, {}, {3, 4}} {
			l, err := look(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := record(f, l, o); err != nil {
				t.Errorf("%s: recording %v: %v", name, o, err)
			}
			got, err := look(f)
			if err != nil || got.owner != o || got.recorded != (o != owner{}) {
				t.Errorf("%s: %v became %v, %v", name, o, got.owner, err)
			}
			if got.Mtim != l.Mtim || got.marked && got.Atim != got.Mtim {
				t.Errorf("%s: the record shows in its times", name)
			}
		}
	}
	l, err := look(files["symlink"])
	if err != nil {
		t.Fatal(err)
	}
	if err := record(files["symlink"], l, owner{1 << 24, 0}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an owner too large for a link: %v", err)
	}
	for _, bad := range []string{"", "1", "1:", ":1", "a:b", "1:2:3", "-1:0", "4294967296:0"} {
		if o, ok := parseOwner(bad); ok {
			t.Errorf("%q is %v", bad, o)
		}
	}
}

func TestRootsAreForgotten(t *testing.T) {
	var places roots
	c := call{Request: &notify.Request{PID: os.Getpid()}, roots: &places}
	take := func() *root {
		r, err := places.take(c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := take()
	other := take() // while the first is in use
	if first == other {
		t.Error("two use one root")
	}
	places.put(first)
	places.put(other)
	if again := take(); again != first {
		t.Error("the root is looked for again")
	} else {
		places.put(again)
	}
	c.changesRoot()
	changed := take()
	if changed == first {
		t.Error("a root from before it may have changed")
	}
	changed.until = time.Now().Add(-1)
	places.put(changed)
	old := take()
	if old == changed {
		t.Error("a root that is too old")
	}
	places.put(old)
	c.PID += len(places.slots)
	if r, err := places.take(c); err == nil && r.pid != c.PID {
		t.Error("another process's root")
	}
}

func TestStatus(t *testing.T) {
	var c call
	here, _, err := c.status(os.Getpid())
	if err != nil || here != os.Getpid() {
		t.Errorf("%d is %d: %v", os.Getpid(), here, err)
	}
	if here, inner, err := c.status(1 << 30); err == nil {
		t.Errorf("nobody is %d, %d", here, inner)
	}
}

func TestDescriptorName(t *testing.T) {
	for name, want := range map[string]int32{"/dev/stdin": 0, "/dev/stderr": 2, "/proc/self/fd/12": 12, "/dev/fd/3": 3} {
		if n, ok := descriptorName(name); !ok || n != want {
			t.Errorf("%s: %d, %v", name, n, ok)
		}
	}
	for _, name := range []string{"/dev/stdin/x", "/proc/self/fd/", "/proc/self/fd/1/x", "/proc/self/fd/-1", "/dev/fd/99999999999", "dev/fd/1", "/proc/1/fd/1"} {
		if n, ok := descriptorName(name); ok {
			t.Errorf("%s: %d", name, n)
		}
	}
}

// Every call has a filter rule and every rule a call that exists here.
func TestBelowDescriptor(t *testing.T) {
	for name, want := range map[string]string{
		"/proc/self/fd/15/shm": "15 shm", "/dev/fd/3//a/../b": "3 a/../b", "/proc/thread-self/fd/0/x": "0 x",
		"/proc/self/fd/15": "", "/proc/self/fd/15/": "", "/proc/self/fd/x/y": "", "/proc/self/fd/-1/y": "", "/proc/12/fd/1/x": "",
	} {
		got := ""
		if n, below, ok := belowDescriptor(name); ok {
			got = fmt.Sprint(n, " ", below)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestRulesCompile(t *testing.T) {
	all := handlers()
	if len(rules()) != len(all) {
		t.Errorf("%d rules for %d calls", len(rules()), len(all))
	}
	filter, err := jail.RuleFilter(rules()...)
	if err != nil {
		t.Skip(err) // another architecture
	}
	for _, h := range all {
		alone, err := jail.RuleFilter(jail.Rule{Call: h.name, If: h.only, Action: jail.Notify})
		if err != nil || len(alone) < 6 {
			t.Errorf("%s: no such call (%d instructions, %v)", h.name, len(alone), err)
		}
	}
	t.Log(len(filter), "instructions")
}
