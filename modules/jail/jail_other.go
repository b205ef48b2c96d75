//go:build !linux

package jail

import (
	"os/exec"
	"runtime"

	"drydock/modules/artifact"
)

func unsupported(op string) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: op,
		Message: "confinement needs Linux, this is " + runtime.GOOS,
		Remedy:  "run it on Linux",
	}
}

// Filter is a compiled seccomp filter; there is none on this system.
type Filter []struct{}

// DefaultFilter needs Linux.
func DefaultFilter(Capabilities) (Filter, error) {
	return nil, unsupported("building a seccomp filter")
}

// Install needs Linux.
func (Filter) Install() error { return unsupported("installing a seccomp filter") }

// InstallAll needs Linux.
func (Filter) InstallAll() error { return unsupported("installing a seccomp filter") }

// KeepCapabilities needs Linux.
func KeepCapabilities(Capabilities) error { return unsupported("dropping capabilities") }

// NoNewPrivileges needs Linux.
func NoNewPrivileges() error { return unsupported("setting no-new-privs") }

// LandlockABI is 0: there is no Landlock.
func LandlockABI() int { return 0 }

// Landlock needs Linux.
func Landlock(FSRules) (int, error) { return 0, unsupported("restricting the file system") }

// Observe needs Linux.
func Observe() (State, error) { return State{}, unsupported("reading the confinement") }

// DieWithParent needs Linux.
func DieWithParent() error { return unsupported("asking for the parent-death signal") }

// Spawner needs Linux.
type Spawner struct{}

// NewSpawner gives one that starts nothing.
func NewSpawner() *Spawner { return &Spawner{} }

// Start needs Linux.
func (*Spawner) Start(*exec.Cmd) error { return unsupported("starting a confined process") }

// Close does nothing.
func (*Spawner) Close() {}

// BuildFilter needs Linux.
func BuildFilter(Capabilities, ...Rule) (Filter, error) {
	return nil, unsupported("building a seccomp filter")
}
