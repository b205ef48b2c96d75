package executor

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bkexec "github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"
)

// probeMode changes a mode by the name of a descriptor under /proc, as C libraries
// do for what must be no link.
func probeMode(args []string) int {
	for _, name := range args {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		own := fmt.Sprintf("/proc/self/fd/%d", fd)
		if err = unix.Chmod(own, 0o711); err == nil {
			err = unix.Fchmodat(unix.AT_FDCWD, own, 0o751, 0)
		}
		fmt.Println(name, err)
	}
	return 0
}

// TestContainedModes: what the name of a descriptor leads to is what changes, or
// it is refused; a directory that GNU tar made in T2 stayed closed to others.
func TestContainedModes(t *testing.T) {
	b := newBench(t, Options{})
	dir := filepath.Join(b.root, "srv")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mode := func() os.FileMode {
		fi, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	if out := b.must(stepOpt{user: "1000:1001"}, "mode", "/srv"); out != "/srv operation not permitted\n" || mode() != 0o700 {
		t.Errorf("somebody else's: %q, mode %o", out, mode())
	}
	if out := b.must(stepOpt{}, "mode", "/srv"); out != "/srv <nil>\n" || mode() != 0o751 {
		t.Errorf("got %q, mode %o", out, mode())
	}
	fixed := filepath.Join(b.dir, "fixed")
	writeTree(t, fixed, map[string]string{"file": "x"})
	mounts := []bkexec.Mount{{Src: plainMount{fixed}, Dest: "/fixed", Readonly: true}}
	if out := b.must(stepOpt{mounts: mounts}, "mode", "/fixed/file", "/srv"); out != "/fixed/file read-only file system\n/srv <nil>\n" {
		t.Errorf("mounted read-only: %q", out)
	}
}
