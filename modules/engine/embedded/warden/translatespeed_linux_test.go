package warden

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkTranslate measures what a translated step pays for a look at a file,
// as its root and as somebody else, and for starting a program, which is linked
// with the C library: beside what the same takes without translation.
func BenchmarkTranslate(b *testing.B) {
	root := probeRoot(b)
	if err := bringDynamic(root, "/bin/true"); err != nil {
		b.Skipf("true is no dynamic program here: %v", err)
	}
	for b.Loop() {
		for _, uid := range []uint32{0, 5} {
			out, code := runTranslated(b, root, func(s *testStep) { s.Command.UID, s.Command.GID = uid, uid }, "/bin/probe", "speed", "/etc/inside", "/bin/true")
			var look, start float64
			if n, err := fmt.Sscan(strings.TrimSpace(out), &look, &start); code != 0 || n != 2 || err != nil {
				b.Fatalf("exit code %d: %s", code, out)
			}
			b.ReportMetric(look, fmt.Sprintf("µs/look-as-%d", uid))
			b.ReportMetric(start, fmt.Sprintf("µs/start-as-%d", uid))
		}
	}
	look, start, err := speed(filepath.Join(root, "etc/inside"), "/bin/true")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(look, "µs/look-outside")
	b.ReportMetric(start, "µs/start-outside")
}

// speed is what a look at a file and starting a program take, in microseconds.
func speed(file, program string) (look, start float64, err error) {
	const looks, starts = 2000, 200
	var st unix.Stat_t
	begun := time.Now()
	for range looks {
		if err := unix.Stat(file, &st); err != nil {
			return 0, 0, err
		}
	}
	look = float64(time.Since(begun).Nanoseconds()) / 1000 / looks
	begun = time.Now()
	for range starts {
		pid, err := syscall.ForkExec(program, []string{"true"}, &syscall.ProcAttr{})
		if err != nil {
			return 0, 0, err
		}
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil || ws != 0 {
			return 0, 0, fmt.Errorf("it ended with %v: %w", ws, err)
		}
	}
	return look, float64(time.Since(begun).Nanoseconds()) / 1000 / starts, nil
}
