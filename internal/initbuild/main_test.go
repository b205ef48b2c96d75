package main

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// TestCommittedInit builds the init again: what is embedded must be what the
// sources give, to the byte.
func TestCommittedInit(t *testing.T) {
	for _, arch := range architectures {
		t.Run(arch, func(t *testing.T) {
			committed := filepath.Join("..", "..", "modules", "engine", "embedded", "initbin", fileName(arch))
			info, err := buildinfo.ReadFile(committed)
			if err != nil {
				t.Fatal(err)
			}
			if info.GoVersion != runtime.Version() {
				t.Skipf("the init is built by %s and this is %s, which gives other bytes",
					info.GoVersion, runtime.Version())
			}
			again := filepath.Join(t.TempDir(), "init")
			if err := build(t.Context(), again, arch); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(again)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(committed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%s is not what the sources give: run go generate ./modules/engine/embedded/initbin and commit", committed)
			}
		})
	}
}
