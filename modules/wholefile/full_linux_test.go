package wholefile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// limitedEnv makes this test program the writer whose files may not grow.
const limitedEnv = "WHOLEFILE_TEST_LIMITED"

// A disk that takes no more, as a limit on the size of files says it: the write
// comes back short and then fails. The limit is a process's, so another one
// writes.
func TestFull(t *testing.T) {
	if path := os.Getenv(limitedEnv); path != "" {
		signal.Ignore(syscall.SIGXFSZ) // else the kernel ends us instead of saying EFBIG
		limit := syscall.Rlimit{Cur: 4096, Max: 4096}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		err := Write(path, make([]byte, 10_000), Options{Mode: 0o644, Sync: true})
		if !errors.Is(err, syscall.EFBIG) {
			t.Fatalf("10000 bytes where 4096 fit: %v", err)
		}
		fmt.Println("refused as it should be")
		return
	}
	for name, before := range map[string]string{"nothing there": "", "a file there": "as it was"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if before != "" {
				if err := Write(path, []byte(before), Options{Mode: 0o640}); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestFull$", "-test.v")
			cmd.Env = append(os.Environ(), limitedEnv+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if before == "" {
				alone(t, filepath.Dir(path), 0)
			} else {
				only(t, path, before, 0o640)
			}
		})
	}
}
