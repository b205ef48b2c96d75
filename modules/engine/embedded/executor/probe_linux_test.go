package executor

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// probeMain is what steps of the tests run: this program, in the step's root.
func probeMain(args []string) int {
	if len(args) == 0 {
		return 99
	}
	switch name, rest := args[0], args[1:]; name {
	case "echo":
		fmt.Println(strings.Join(rest, " "))
	case "exit":
		n, _ := strconv.Atoi(rest[0])
		return n
	case "signal":
		n, _ := strconv.Atoi(rest[0])
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		select {}
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "id":
		fmt.Println(os.Getuid(), os.Getgid())
	case "again":
		return probeAgain(rest)
	case "where":
		return probeWhere(rest)
	case "mode":
		return probeMode(rest)
	case "linked":
		return probeLinked(rest)
	case "together":
		return probeTogether()
	case "removed":
		return probeRemoved()
	case "script":
		return probeScript(rest[0])
	case "net":
		if os.Getenv("HIDDEN") != "" {
			fmt.Println(probeHidden(probeGet))
			return 1
		}
		return probeNet()
	case "hostile":
		return probeHostile(rest)
	case "race":
		return probeRace(rest)
	case "leave":
		return probeLeave(rest)
	case "linger":
		return probeLinger()
	case "stay":
		return probeStay()
	case "endless":
		for b := []byte(strings.Repeat("endless", 1000)); ; {
			_, _ = os.Stdout.Write(b)
		}
	case "bomb":
		return probeBomb()
	case "fill":
		n, _ := strconv.Atoi(rest[0])
		if err := os.WriteFile("/fill", make([]byte, n<<20), 0o600); err != nil {
			fmt.Println(err)
			return 1
		}
		time.Sleep(2 * time.Second)
	case "memory":
		return probeMemory()
	default:
		fmt.Println("no such probe:", name)
		return 98
	}
	return 0
}
