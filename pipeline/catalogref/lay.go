package catalogref

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"drydock/modules/wholefile"
)

// What a catalog may be: text files, not a way to fill a disk.
const (
	maxBytes = 64 << 20
	maxFiles = 20000
)

// lay writes the files of a catalog into a folder of their own below dir. One
// that is there already is held to them, byte by byte, and made anew where it
// differs.
func lay(dir string, files map[string][]byte) (string, error) {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(sum, "%d:%s=%d:", len(name), name, len(files[name]))
		sum.Write(files[name])
	}
	to := filepath.Join(dir, "trees", hex.EncodeToString(sum.Sum(nil))[:32])
	if same(to, files) {
		return to, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return "", fmt.Errorf("laying out the catalog: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(to), ".new-")
	if err != nil {
		return "", fmt.Errorf("laying out the catalog: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for name, data := range files {
		file := filepath.Join(tmp, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return "", fmt.Errorf("laying out the catalog: %w", err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return "", fmt.Errorf("laying out the catalog: %w", err)
		}
	}
	if err := os.RemoveAll(to); err != nil {
		return "", fmt.Errorf("laying out the catalog: %w", err)
	}
	if err := os.Rename(tmp, to); err != nil && !same(to, files) { // another run was first
		return "", fmt.Errorf("laying out the catalog: %w", err)
	}
	return to, nil
}

// same says whether a folder has these files and no others.
func same(dir string, files map[string][]byte) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[filepath.ToSlash(rel)]
		if !ok || !d.Type().IsRegular() {
			return fs.ErrExist
		}
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, want) {
			err = fs.ErrExist
		}
		seen++
		return err
	})
	return err == nil && seen == len(files)
}

// keep writes a file of the cache whole or not at all.
func keep(path string, data []byte) error {
	return wholefile.Write(path, data, wholefile.Options{DirMode: 0o700})
}
