//go:build !linux

// Command enginebench measures the embedded engine, which runs on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "enginebench: the embedded engine runs on Linux only")
	os.Exit(1)
}
