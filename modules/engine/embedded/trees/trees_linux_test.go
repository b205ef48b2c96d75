package trees

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// sh runs a script in a directory.
func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

const baseScript = `mkdir -p bin etc/deep/er usr/lib var
printf sh > bin/sh; printf keep > etc/keep; printf gone > etc/gone; printf deep > etc/deep/er/file
ln bin/sh bin/bash; ln -s sh bin/dash; mkfifo var/pipe; mknod var/null c 1 3
chmod 4755 bin/sh; chown 1000:1001 etc/keep; chmod 2750 usr/lib; chown 33:33 usr/lib
touch -d @1000000000.123456789 etc/keep; touch -h -d @1000000001 bin/dash; touch -d @1000000002 usr`

// steps are what is done to a base, one after the other: every kind of change.
var steps = []string{
	`printf more >> etc/keep; rm etc/gone; printf new > etc/new`,
	`rm -r etc/deep; mkdir etc/deep; printf again > etc/deep/other`,
	`rm -r usr/lib; printf file > usr/lib`,
	`rm usr/lib; mkdir usr/lib; printf x > usr/lib/x; chmod 700 usr/lib`,
	`ln etc/keep etc/keep2; chown 5:6 bin/bash; touch -d @1000000003 var`,
	`mv etc/deep etc/moved; ln -sfn elsewhere bin/dash; rm bin/bash; printf sh > bin/bash`,
	`printf SH > bin/sh; touch -d @1000000004 bin/sh; chmod 4755 bin/sh`,
	`rm var/null; mknod var/null c 1 5; mkdir -m 1777 tmp`,
}

// TestChain: whichever way a snapshot's tree comes to be, it is the same: by
// the steps themselves, from the deltas, by turning another tree, as a view.
func TestChain(t *testing.T) {
	b := open(t, Options{Idle: 8})
	plain := t.TempDir()
	if err := os.Chmod(plain, 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, plain, baseScript)
	b.step("base", "", func(dir string) { sh(t, dir, "cp -a "+plain+"/. .") })
	want := map[string]string{}
	names := []string{"base"}
	for i, script := range steps {
		name := "s" + string(rune('1'+i))
		b.step(name, names[i], func(dir string) {
			if i == 4 {
				b.must(unix.Setxattr(dir+"/etc/new", "user.note", []byte("hello"), 0))
				b.must(unix.Setxattr(dir+"/etc", "user.dir", []byte("note"), 0))
			}
			sh(t, dir, script)
			want[name] = describe(t, dir)
		})
		names = append(names, name)
	}
	for _, name := range names[1:] {
		if got := describe(t, b.fresh(name)); got != want[name] {
			t.Errorf("%s from its deltas:\n%s\nis not\n%s", name, got, want[name])
		}
		if got := describe(t, b.view(name)); got != want[name] {
			t.Errorf("view of %s:\n%s\nis not\n%s", name, got, want[name])
		}
	}
	// a tree of the last is turned into that of every other, there and back
	for _, name := range []string{"s2", "s7", "s1", "s8", "s4", "s5", "s3", "s6"} {
		b.step("turned-"+name, name, func(dir string) {
			if got := describe(t, dir); got != want[name] {
				t.Errorf("tree turned into %s:\n%s\nis not\n%s", name, got, want[name])
			}
		})
		if n := deltaFiles(t, b, "turned-"+name); n != 0 {
			t.Errorf("an untouched step on %s has %d changes", name, n)
		}
	}
}

func deltaFiles(t *testing.T, b *bench, name string) int {
	t.Helper()
	n := 0
	r, err := loadRecord(b.recordPath(b.id(name)))
	b.must(err)
	for _, c := range r.Changes {
		if c.Kind != kindParent {
			n++
			t.Logf("%s: %c %s", name, c.Kind, c.Path)
		}
	}
	return n
}

// id is what the snapshot of a name is called on disk.
func (b *bench) id(name string) string {
	b.t.Helper()
	b.n++
	m, err := b.View(b.t.Context(), "id-"+name, name)
	b.must(err)
	id := b.committed(m[0].Source)
	if id == "" {
		b.t.Fatalf("no id in %s", m[0].Source)
	}
	return id
}

// TestHostile: a step that writes into its files in place reaches no other
// snapshot, however they came to be where they are.
func TestHostile(t *testing.T) {
	b := open(t, Options{})
	b.step("base", "", func(dir string) { sh(t, dir, baseScript) })
	b.step("one", "base", func(dir string) { sh(t, dir, "printf tool > bin/tool; printf v1 > etc/keep") })
	base, one := describe(t, b.view("base")), describe(t, b.view("one"))
	scribble := func(dir string) { sh(t, dir, "for f in bin/sh bin/tool etc/keep etc/new; do echo bad >> $f; done") }
	b.step("two", "one", scribble)              // on the tree of one
	b.step("beside", "one", scribble)           // on one that was turned
	b.step("again", "base", scribble)           // on another
	scribble(b.prepare("given up", "one"))      // whose tree is used by the next
	b.must(b.Remove(t.Context(), "given up"))   //
	after := b.prepare("after given up", "one") //
	for what, got := range map[string]string{
		"base": describe(t, b.view("base")), "base from deltas": describe(t, b.fresh("base")),
	} {
		if got != base {
			t.Errorf("%s was reached:\n%s\nis not\n%s", what, got, base)
		}
	}
	for what, got := range map[string]string{
		"one": describe(t, b.view("one")), "one from deltas": describe(t, b.fresh("one")), "the tree of a step given up": describe(t, after),
	} {
		if got != one {
			t.Errorf("%s was reached:\n%s\nis not\n%s", what, got, one)
		}
	}
}

// TestTouchedTwice: writing again within one tick of the file system's clock,
// to the same size, is a change.
func TestTouchedTwice(t *testing.T) {
	b := open(t, Options{})
	b.step("base", "", func(dir string) { sh(t, dir, "printf aaaa > f; touch -d @1000000000 f") })
	parent := "base"
	for i := range 20 {
		text := strings.Repeat(string(rune('b'+i)), 4)
		name := "n" + text
		b.step(name, parent, func(dir string) {
			b.must(os.WriteFile(dir+"/f", []byte(text), 0o644))
			b.must(setTime(dir+"/f", 1000000000e9))
		})
		if got, err := os.ReadFile(b.view(name) + "/f"); err != nil || string(got) != text {
			t.Fatalf("%s holds %q (%v)", name, got, err)
		}
		parent = name
	}
}

// TestPinned: what is being read stays, also when the snapshot is committed and
// a child begins meanwhile.
func TestPinned(t *testing.T) {
	b := open(t, Options{})
	b.step("base", "", func(dir string) { sh(t, dir, baseScript) })
	dir := b.prepare("work", "base")
	sh(t, dir, "printf one > etc/keep")
	release, ok := b.Pin(dir)
	if !ok {
		t.Fatal("it cannot be pinned")
	}
	b.must(b.Commit(t.Context(), "one", "work"))
	child := b.prepare("child", "one")
	sh(t, child, "printf two > etc/keep")
	if got, err := os.ReadFile(dir + "/etc/keep"); err != nil || string(got) != "one" {
		t.Errorf("the reader sees %q (%v)", got, err)
	}
	release()
	if _, ok := b.Pin(dir); ok {
		t.Error("it can be pinned after it is gone")
	}
	if got, err := os.ReadFile(child + "/etc/keep"); err != nil || string(got) != "two" {
		t.Errorf("the child has %q (%v)", got, err)
	}
}

// TestDeep: directories deeper than any path fail the step that made them, and
// the next one gets a tree without them.
func TestDeep(t *testing.T) {
	b := open(t, Options{})
	b.step("base", "", func(dir string) { sh(t, dir, baseScript) })
	want := describe(t, b.view("base"))
	dir := b.prepare("deep", "base")
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	b.must(err)
	for range 30 {
		name := strings.Repeat("d", 200)
		b.must(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		b.must(err)
		b.must(unix.Close(fd))
		fd = next
	}
	b.must(unix.Close(fd))
	if err := b.Commit(t.Context(), "never", "deep"); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("committing it: %v", err)
	}
	b.must(b.Remove(t.Context(), "deep"))
	if got := describe(t, b.prepare("next", "base")); got != want {
		t.Errorf("the next tree:\n%s\nis not\n%s", got, want)
	}
}

// TestManyNames: where a file system allows no further link to a delta, the
// names of a file in a view are still one file, and it is there once.
func TestManyNames(t *testing.T) {
	b := open(t, Options{})
	b.step("a", "", func(dir string) {
		sh(t, dir, "mkdir d; echo x > one; ln one two; ln one d/three; ln one d/four; echo y > other; chmod 700 d; touch -d @1000 d")
	})
	ids, err := b.chain(b.id("a"))
	b.must(err)
	want, err := b.flat(ids)
	b.must(err)
	for allowed := range 5 {
		dir := t.TempDir()
		var mu sync.Mutex
		made := 0
		sy := &syncer{dir: dir, link: true, src: b.source, linkat: func(from, to string) error {
			mu.Lock()
			defer mu.Unlock()
			if made++; made > allowed {
				return unix.EMLINK
			}
			return os.Link(from, to)
		}}
		if _, err := sy.sync(nil, want); err != nil {
			t.Fatal(err)
		}
		var first unix.Stat_t
		b.must(unix.Lstat(filepath.Join(dir, "one"), &first))
		for _, name := range []string{"two", "d/three", "d/four"} {
			var st unix.Stat_t
			b.must(unix.Lstat(filepath.Join(dir, name), &st))
			if st.Ino != first.Ino {
				t.Errorf("after %d links %s is a file of its own", allowed, name)
			}
		}
		if got, fresh := describe(t, dir), describe(t, b.fresh("a")); allowed < 4 && got != fresh {
			t.Errorf("after %d links:\n%s\nwant\n%s", allowed, got, fresh)
		}
	}
}
