package containertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestDaemonThatEnded: a container runs although docker's daemon was killed
// after the last one.
func TestDaemonThatEnded(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil || os.Getuid() != 0 {
		t.Skip("docker's daemon needs root, and its container busybox")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := Docker(t.Context(), root, filepath.Join(dir, "docker"), os.Environ())
	if err != nil {
		t.Skip("docker does not run here: " + err.Error())
	}
	defer r.Close()
	for range 2 {
		res, err := r.Run(t.Context(), Container{Args: []string{"/bin/busybox", "echo", "it runs"}})
		if err != nil || res.Code != 0 || res.Stdout != "it runs\n" {
			t.Fatalf("%+v, %v", res, err)
		}
		if err := r.(*docker).daemon.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-r.(*docker).ended
	}
}

// TestSpec: the containers of the tests are docker's default ones.
func TestSpec(t *testing.T) {
	s, err := spec(Container{Args: []string{"/bin/true"}}, "x")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.Process.Capabilities.Effective); n != 14 {
		t.Errorf("%d capabilities", n)
	}
	if s.Linux.Seccomp == nil || len(s.Linux.MaskedPaths) < 10 || len(s.Linux.ReadonlyPaths) != 5 || len(s.Linux.Namespaces) != 5 {
		t.Errorf("%+v", s.Linux)
	}
	u, err := spec(Container{User: "1000", SeccompUnconfined: true, SystemPathsUnconfined: true, HostNetwork: true}, "x")
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Process.Capabilities.Effective) != 0 || len(u.Process.Capabilities.Bounding) != 14 || u.Process.User.UID != 1000 {
		t.Errorf("%+v", u.Process)
	}
	if u.Linux.Seccomp != nil || len(u.Linux.MaskedPaths) != 0 || len(u.Linux.Namespaces) != 4 {
		t.Errorf("%+v", u.Linux)
	}
	for _, bad := range []string{"a", "1:b", "-1"} {
		if _, err := spec(Container{User: bad}, "x"); err == nil {
			t.Errorf("user %q passed", bad)
		}
	}
}
