package containertest

import (
	"testing"
)

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
