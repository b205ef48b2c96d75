package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"drydock/modules/secret"
)

// leaks looks for any of some values, as it is or encoded, in every file below
// some places, also in compressed ones, in names and in links: leaks VALUE...
// in PATH...
func leaks(ts *testscript.TestScript, neg bool, args []string) {
	in := slices.Index(args, "in")
	if in < 1 || in+1 == len(args) || in > 1 && !neg {
		ts.Fatalf("usage: leaks VALUE in PATH... | ! leaks VALUE... in PATH...")
	}
	var forms [][]byte
	for _, value := range args[:in] {
		forms = append(forms, secret.Forms([]byte(value))...)
	}
	var found []string
	files := 0
	for _, p := range args[in+1:] {
		ts.Check(filepath.WalkDir(ts.MkAbs(p), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrPermission) && d.IsDir() && strings.HasSuffix(path, "/work/work") {
				return fs.SkipDir // overlay's own, empty and closed to all (overlayfs(5))
			}
			if err != nil {
				return err
			}
			if holds, err := leaksIn(path, d, forms); err != nil || holds {
				found = append(found, path)
				return err
			}
			files++
			return nil
		}))
	}
	if files == 0 {
		ts.Fatalf("there is nothing in %q", args[in+1:])
	}
	if len(found) == 0 && !neg {
		ts.Fatalf("it is nowhere in %d files", files)
	}
	if len(found) > 0 && neg {
		ts.Fatalf("it is in %q", found)
	}
}

func leaksIn(path string, d fs.DirEntry, forms [][]byte) (bool, error) {
	text := []byte(d.Name())
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return false, err
		}
		text = append(text, to...)
	case d.Type().IsRegular():
		raw, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		plain, err := unpacked(raw)
		if err != nil {
			return false, fmt.Errorf("%s: %w", path, err)
		}
		text = append(append(text, raw...), plain...)
	}
	for _, f := range forms {
		if bytes.Contains(text, f) {
			return true, nil
		}
	}
	return false, nil
}

// unpacked is what compressed bytes hold, nil for others and for damaged ones.
func unpacked(raw []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, nil //nolint:nilerr // it only begins like one
		}
		out, _ := io.ReadAll(r)
		return out, nil
	case bytes.HasPrefix(raw, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		r, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		out, _ := r.DecodeAll(raw, nil)
		return out, nil
	}
	return nil, nil
}
