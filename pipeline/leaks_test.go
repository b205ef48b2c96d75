package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
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
	job := leakJob{Forms: forms}
	for _, p := range args[in+1:] {
		job.In = append(job.In, ts.MkAbs(p))
	}
	said, err := job.do()
	ts.Check(err)
	if said.Files == 0 {
		ts.Fatalf("there is nothing in %q", args[in+1:])
	}
	if len(said.Found) == 0 && !neg {
		ts.Fatalf("it is nowhere in %d files", said.Files)
	}
	if len(said.Found) > 0 && neg {
		ts.Fatalf("it is in %q", said.Found)
	}
}

// leakJob is where to look for which bytes.
type leakJob struct {
	Forms [][]byte
	In    []string
}

type leaksFound struct {
	Files int
	Found []string
}

// do looks. What an ordinary user's steps made belongs to subordinate ids: it
// is looked into where that user is root of them.
func (j leakJob) do() (*leaksFound, error) {
	if os.Getuid() == 0 {
		return j.look()
	}
	in, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("unshare", "--user", "--map-auto", "--map-root-user", "leaklook")
	cmd.Stdin = bytes.NewReader(in)
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, problem.String())
	}
	found := &leaksFound{}
	return found, json.Unmarshal(out, found)
}

// leakLook is a program: the job is on standard input.
func leakLook() {
	var j leakJob
	err := json.NewDecoder(os.Stdin).Decode(&j)
	if err == nil {
		var found *leaksFound
		if found, err = j.look(); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(found)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (j leakJob) look() (*leaksFound, error) {
	found := &leaksFound{}
	for _, p := range j.In {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if holds, err := leaksIn(path, d, j.Forms); err != nil || holds {
				found.Found = append(found.Found, path)
				return err
			}
			found.Files++
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
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
