//go:build !linux

// Command mirrorbench runs on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "mirrorbench runs on Linux only")
	os.Exit(1)
}
