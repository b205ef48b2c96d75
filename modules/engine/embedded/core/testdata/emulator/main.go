// Command emulator stands for qemu-user in tests. Its foreign programs are an
// ELF header and a shell script, which it has busybox interpret.
package main

import (
	"fmt"
	"os"
	"syscall"
)

const header = 64

func main() {
	// as binfmt_misc calls it: itself, the program, its own argv
	program, argv := os.Args[1], os.Args[2:]
	b, err := os.ReadFile(program)
	if err != nil || len(b) < header {
		fmt.Println("emulator:", len(b), err)
		os.Exit(1)
	}
	env := append(os.Environ(), fmt.Sprintf("EMULATED=%s as %d", argv[0], os.Geteuid()))
	if f, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0); err == nil {
		f.Close()
		env = append(env, "EMULATOR_WRITABLE=yes")
	}
	args := append([]string{"sh", "-c", string(b[header:])}, argv...)
	fmt.Println("emulator:", syscall.Exec("/bin/busybox", args, env))
	os.Exit(1)
}
