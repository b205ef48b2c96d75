package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"drydock/modules/steprun/wire"
)

func TestReach(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	shut, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shut.Close()
	out := filepath.Join(t.TempDir(), "reach.json")
	err = run(t.Context(), []string{
		"reach", "--out-json", out, "--address", shut.Addr().String(), "--address", open.Addr().String(), "--address", "no-such-host.invalid:80",
	}, streams{os.Stdout, os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got wire.Reach
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Tried) != 3 || len(got.Reached) != 1 || got.Reached[0] != open.Addr().String() {
		t.Errorf("got %+v", got)
	}
}
