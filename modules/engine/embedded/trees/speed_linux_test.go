package trees

import (
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkSteps is what a chain of file-heavy steps costs beside the steps
// themselves: CPU of this process, reported as cpu-ms/op.
func BenchmarkSteps(b *testing.B) {
	const files = 4000
	s, err := New(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	n := 0
	step := func(parent, script string) string {
		n++
		key, name := fmt.Sprintf("k%d", n), fmt.Sprintf("n%d", n)
		if _, err := s.Prepare(b.Context(), key, parent); err != nil {
			b.Fatal(err)
		}
		m, err := s.Mounts(b.Context(), key)
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = m[0].Source
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		if err := s.Commit(b.Context(), name, key); err != nil {
			b.Fatal(err)
		}
		return name
	}
	base := step("", fmt.Sprintf(`for d in $(seq 40); do mkdir -p usr/$d; for i in $(seq %d); do echo $d $i > usr/$d/$i; done; done`, files/40))
	var spent int64
	for b.Loop() {
		before := cpu(b)
		name := base
		for _, script := range []string{
			"cp -a usr a", "cp -a usr b", "find a -type f -exec chmod g+w {} +", "cp -al a links", "chown -R 1000:1000 b", "rm -r links", "rm -r a b",
		} {
			name = step(name, script)
		}
		spent += cpu(b) - before
	}
	b.ReportMetric(float64(spent)/1e6/float64(b.N), "cpu-ms/op")
}

func cpu(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
