//go:build !linux

package confine

import (
	"errors"
	"os"

	"drydock/modules/artifact"
)

var errLinux = errors.New("containers are confined on Linux only")

// Apply needs Linux.
func Apply(Options) Done { return Done{Notes: []string{errLinux.Error()}} }

// Become needs Linux.
func Become([]*os.File, []string, []string) error { return errLinux }

// Program needs Linux.
func Program() []*os.File { return nil }

// Observe needs Linux.
func Observe(Done) (artifact.Confinement, error) { return artifact.Confinement{}, errLinux }
