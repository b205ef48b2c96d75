package statictest

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
)

// Main runs the tests of the working directory's package built without C, in
// place of a test program that was built with it: what go test makes where there
// is a C compiler. TestMain calls it before all else, but in what the tests
// execute, and ends with the code when it ran.
func Main(environ []string) (code int, ran bool) {
	if !dynamic() {
		return 0, false
	}
	code, err := run(environ)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testing without C:", err)
		code = 1
	}
	return code, true
}

func run(environ []string) (code int, err error) {
	dir, err := os.MkdirTemp("", "static-test-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // tests execute it as other users
		return 0, err
	}
	program := filepath.Join(dir, "static.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(slices.Clip(environ), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building: %w: %s", err, out)
	}
	runtime.LockOSThread() // which must live as long as it shall
	test := exec.Command(program, os.Args[1:]...)
	test.Stdin, test.Stdout, test.Stderr = os.Stdin, os.Stdout, os.Stderr
	test.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = test.Run()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		return max(ended.ExitCode(), 1), nil
	}
	return 0, err
}

// dynamic: a loader starts this program.
func dynamic() bool {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}
