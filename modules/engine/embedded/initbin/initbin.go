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
	"os"
	"path/filepath"
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
	f, err := os.CreateTemp(dir, "init-*")
	if err != nil {
		return "", fmt.Errorf("writing the step init: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o500), f.Close())
	path := filepath.Join(dir, "init")
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("writing the step init: %w", err), os.Remove(f.Name()))
	}
	return path, nil
}
