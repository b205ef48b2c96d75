// Package initbin carries the step init (command stepinit) as built from this
// repository, one file per architecture.
//
// The files are committed, since go run and go install cannot build a program
// that another embeds. `go generate ./modules/engine/embedded/initbin` makes
// them anew after any change to what stepinit is built from, and a test of
// package initbuild builds them again and compares every byte.
package initbin

//go:generate go run drydock/internal/initbuild -dir .

import (
	"errors"
	"fmt"
	"path/filepath"

	"drydock/modules/wholefile"
)

// ErrArchitecture says that no init is built for this machine's architecture.
var ErrArchitecture = errors.New("no step init is built for this architecture (amd64 and arm64 have one)")

// Program returns the init's executable.
func Program() ([]byte, error) {
	if len(program) == 0 {
		return nil, ErrArchitecture
	}
	return program, nil
}

// Write writes the executable into dir, whole or not at all, and returns its
// path.
func Write(dir string) (string, error) {
	b, err := Program()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "init")
	if err := wholefile.Write(path, b, wholefile.Options{Mode: 0o500}); err != nil {
		return "", fmt.Errorf("writing the step init: %w", err)
	}
	return path, nil
}
