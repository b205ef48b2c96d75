//go:build !linux

package initproc

// Main fails: steps run on Linux only.
func Main() int { return 1 }
