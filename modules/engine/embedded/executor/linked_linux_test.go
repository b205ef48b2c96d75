package executor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bkexec "github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"
)

// probeLinked calls by the names that descriptors have, and says what each gave.
func probeLinked(args []string) int {
	dir := args[0]
	say := func(what string, values ...any) { fmt.Println(append([]any{what + ":"}, values...)...) }
	for _, names := range []string{"/proc/self/fd/%d", "/dev/fd/%d", "/proc/thread-self/fd/%d"} {
		file := filepath.Join(dir, "file")
		fd, err := unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			say("open", err)
			return 1
		}
		name := fmt.Sprintf(names, fd)
		status := func() string {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return err.Error()
			}
			return fmt.Sprint(st.Uid, ":", st.Gid, " ", st.Size)
		}
		modified := func() bool {
			var st unix.Stat_t
			return unix.Fstat(fd, &st) == nil && st.Mtim.Sec == 1e9+1
		}
		say(names)
		say("chown", unix.Chown(name, 12, 34), status())
		say("fchownat", unix.Fchownat(unix.AT_FDCWD, name, -1, 35, 0), status())
		say("lchown", unix.Lchown(name, 1, 1) != nil, status())
		say("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{{Sec: 1e9}, {Sec: 1e9 + 1}}, 0), modified())
		say("truncate", unix.Truncate(name, 3), status())
		say("setxattr", unix.Setxattr(name, "user.probe", []byte("value"), 0), unix.Setxattr(name, "user.probe", nil, unix.XATTR_CREATE))
		buf := make([]byte, 100)
		n, err := unix.Getxattr(name, "user.probe", buf)
		say("getxattr", err, string(buf[:max(n, 0)]))
		n, err = unix.Getxattr(name, "user.probe", nil)
		say("its size", err, n)
		_, err = unix.Getxattr(name, "user.probe", buf[:2])
		say("too short", err)
		_, err = unix.Getxattr(name, "user.absent", buf)
		say("no attribute", err)
		n, err = unix.Listxattr(name, buf)
		say("listxattr", err, strings.Contains(string(buf[:max(n, 0)]), "user.probe"))
		say("removexattr", unix.Removexattr(name, "user.probe"), unix.Removexattr(name, "user.probe"))
		say("of security", unix.Setxattr(name, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
		say("link",
			unix.Linkat(unix.AT_FDCWD, name, unix.AT_FDCWD, filepath.Join(dir, "made"), unix.AT_SYMLINK_FOLLOW),
			unix.Linkat(unix.AT_FDCWD, name, unix.AT_FDCWD, filepath.Join(dir, "made"), unix.AT_SYMLINK_FOLLOW),
			unix.Linkat(unix.AT_FDCWD, name, unix.AT_FDCWD, filepath.Join(dir, "nowhere/made"), unix.AT_SYMLINK_FOLLOW))
		say("unlink", unix.Unlink(filepath.Join(dir, "made")))
		say("link at", linkTemp(dir, names))
		for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR | unix.O_TRUNC, unix.O_PATH} {
			again, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
			say("open", flags, err, status())
			_ = unix.Close(again)
		}
		_ = unix.Close(fd)
		say("closed", unix.Chown(name, 1, 1), unix.Truncate(name, 1))
	}
	return 0
}

// linkTemp names a file that has none, as what writes whole files does, by a
// path relative to a descriptor.
func linkTemp(dir, names string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("whole")); err != nil {
		return err
	}
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf(names, fd), at, "temp", unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(dir, "temp"))
	if err == nil && string(b) != "whole" {
		err = fmt.Errorf("it has %q", b)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, "temp"))
	}
	return err
}

// TestContainedLinked: what calls do by the name of a descriptor is what they do
// outside, as root and as another user.
func TestContainedLinked(t *testing.T) {
	b := newBench(t, Options{})
	prepare := func(dir string, owner int) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("some text"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{dir, filepath.Join(dir, "file")} {
			if err := os.Chown(p, owner, owner); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name        string
		user, owner int
	}{{"root", 0, 0}, {"own", 1000, 1000}, {"of root", 1000, 0}} {
		if translatedHere() && tc.user != 0 && tc.owner == 0 {
			continue // outside, where the engine is, they are not held apart
		}
		outside, in := filepath.Join(b.dir, "out", tc.name), filepath.Join(b.root, "srv", tc.name)
		prepare(outside, tc.owner)
		prepare(in, tc.owner)
		cmd := exec.CommandContext(t.Context(), filepath.Join(b.root, "bin/probe"), "linked", outside)
		cmd.Args[0] = "probe"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(tc.user), Gid: uint32(tc.user)}}
		want, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", tc.name, err, want)
		}
		got := b.must(stepOpt{user: fmt.Sprintf("%d:%d", tc.user, tc.user)}, "linked", "/srv/"+tc.name)
		if got != string(want) {
			t.Errorf("%s: in the step\n%s\noutside\n%s", tc.name, got, want)
		}
	}
	fixed := filepath.Join(b.dir, "fixed")
	writeTree(t, fixed, map[string]string{"file": "x"})
	mounts := []bkexec.Mount{{Src: plainMount{fixed}, Dest: "/fixed", Readonly: true}}
	got := b.must(stepOpt{mounts: mounts}, "linked", "/fixed")
	for _, call := range []string{"chown", "fchownat", "utimensat", "truncate", "setxattr", "removexattr"} {
		if !strings.Contains(got, "\n"+call+": read-only file system") {
			t.Errorf("mounted read-only, %s:\n%s", call, got)
		}
	}
}
