package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// brownfield asks for the scripts that carry whole upstream repositories, which
// take minutes.
const brownfield = "DRYDOCK_TEST_BROWNFIELD"

// clone makes DIR the repository a Go module has at a version, as the machine's
// Go mirror has it, with one commit: clone MODULE@VERSION DIR.
func clone(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: clone MODULE@VERSION DIR")
	}
	dir := ts.MkAbs(args[1])
	ts.Check(cloneModule(args[0], dir))
	for _, git := range [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "--all", "--force"}, {"commit", "--quiet", "--message=upstream"}} {
		cmd := exec.Command("git", git...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), gitEnviron...)
		if out, err := cmd.CombinedOutput(); err != nil {
			ts.Fatalf("git %s: %v: %s", git[0], err, out)
		}
	}
}

func cloneModule(module, dir string) error {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Env = os.TempDir(), append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	said, failed := cmd.Output() // also when the module wants a newer Go, which is nothing to us
	var got struct{ Path, Version, Zip, Error string }
	if err := json.Unmarshal(said, &got); err != nil || got.Zip == "" {
		return fmt.Errorf("the Go mirror does not give %s: %s (%w)", module, got.Error, errors.Join(failed, err))
	}
	z, err := zip.OpenReader(got.Zip)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, got.Path+"@"+got.Version+"/")
		if !ok || !filepath.IsLocal(name) {
			return fmt.Errorf("%s: stray file %q", module, f.Name)
		}
		if err := writeZipped(f, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func writeZipped(f *zip.File, to string) error {
	body, err := f.Open()
	if err != nil {
		return err
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, raw, 0o644)
}
