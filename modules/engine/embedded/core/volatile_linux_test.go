package core

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Steps of overlays wait for no disk, and what was mounted so once is mounted
// again: a cache over an image, in the next step and in the next engine.
func TestVolatileOverlays(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	if err := os.WriteFile(filepath.Join(root, ".dockerignore"), []byte("Dockerfile\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	state := stateDir(t)
	step := func(t *testing.T, c *Child, name string) outcome {
		t.Helper()
		text := "FROM scratch AS base\nCOPY . /\nFROM base\n" +
			"RUN grep ' / overlay ' /proc/mounts\n" +
			"RUN --mount=type=cache,id=over,from=base,target=/c chmod g+w /c/etc/passwd && echo " + name + " >>/c/etc/names && tr '\\n' ' ' </c/etc/names\n"
		if err := os.WriteFile(filepath.Join(root, "Dockerfile"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out := do(t, c.Socket, task{Dir: root, Dockerfile: true, Opts: map[string]string{}})
		wantLogs(t, out)
		return out
	}
	c := startChild(t, ChildConfig{Root: state})
	first := step(t, c, "one")
	if !strings.Contains(first.Logs, " / overlay ") {
		t.Skip("layers are no overlays here")
	}
	if !strings.Contains(first.Logs, "volatile") {
		t.Errorf("the root is mounted otherwise:\n%s", first.Logs)
	}
	wantLogs(t, step(t, c, "two"), "one two ")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = startChild(t, ChildConfig{Root: state})
	wantLogs(t, step(t, c, "three"), "one two three ")
}
