// Command initbuild builds the step init for every architecture into the
// folder that embeds it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Package is what is built.
const Package = "drydock/modules/engine/embedded/stepinit"

var architectures = []string{"amd64", "arm64"}

func main() {
	dir := flag.String("dir", ".", "where the programs go")
	flag.Parse()
	if err := buildAll(context.Background(), *dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func buildAll(ctx context.Context, dir string) error {
	for _, arch := range architectures {
		if err := build(ctx, filepath.Join(dir, fileName(arch)), arch); err != nil {
			return err
		}
	}
	return nil
}

func fileName(arch string) string { return "init_linux_" + arch + ".bin" }

// build leaves out of the program what differs between machines: paths,
// version control, the build id and what the environment would choose.
func build(ctx context.Context, out, arch string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid=", "-o", out, Package)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch,
		"GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=", "GOFIPS140=off", "GODEBUG=")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the step init for %s: %w\n%s", arch, err, b)
	}
	return nil
}
