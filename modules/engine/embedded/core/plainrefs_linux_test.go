package core

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// linked is a Dockerfile with every way layers come together.
const linked = `FROM scratch AS base
COPY . /
RUN echo one > /one; mkdir -p /d/sub; echo kept > /d/sub/kept; rm /etc/group
FROM base AS tool
RUN echo tool > /d/tool; chmod 4711 /d/tool; ln /d/tool /d/tool2
FROM base AS middle
COPY --link --from=tool /d/tool /linked/
COPY --link --chmod=600 --chown=7:8 etc/passwd /linked/passwd
RUN cat /linked/tool; echo grown >> /linked/tool; echo bad >> /one
FROM base
RUN cat /one; cat /d/sub/kept; test ! -e /etc/group; test ! -e /linked
COPY --from=middle /linked /from
COPY --from=tool --chown=5:6 /d /d2
RUN cat /from/tool; stat -c %a:%u:%g /from/passwd /d2/tool; rm -r /d; echo new > /d
RUN --mount=from=middle,target=/m cat /m/one /m/linked/tool
`

// TestPlainDirectories: what a build gives is the same with overlay, with
// directories in its place, and without namespaces.
func TestPlainDirectories(t *testing.T) {
	if r := needT1(t); r.Tier != TierNamespaces {
		t.Skip("overlay, which this is compared with, cannot be had here")
	}
	root := busyboxRoot(t)
	if err := os.WriteFile(filepath.Join(root, "Dockerfile"), []byte(linked), 0o644); err != nil {
		t.Fatal(err)
	}
	ways := []struct {
		name   string
		config ChildConfig
	}{{"overlay", ChildConfig{}}, {"directories", ChildConfig{NoOverlay: true}}, {"no namespaces", ChildConfig{Tier: TierContainer}}}
	var want string
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			if w.config.Tier == TierContainer && os.Geteuid() != 0 {
				t.Skip("without namespaces the engine runs as root")
			}
			c := startChild(t, w.config)
			export := t.TempDir()
			if err := os.Chmod(export, 0o777); err != nil {
				t.Fatal(err)
			}
			job := task{Dir: root, Dockerfile: true, Opts: map[string]string{}, Export: export}
			out := do(t, c.Socket, job)
			wantLogs(t, out, "tool\ngrown\n", "600:7:8\n4711:5:6\n", "one\nbad\n")
			got := tellTree(t, export)
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("it gives\n%s\nand with overlay\n%s", got, want)
			}
			if again := do(t, c.Socket, job); again.Err != "" || again.Logs != "" {
				t.Errorf("it is not cached: %+v", again)
			}
		})
	}
}

// furniture are directories that a step without namespaces takes away again
// when the image has none of its own; what is mounted on leaves them.
const furniture = " /dev /proc /sys "

// tellTree tells what a build gave, but for times.
func tellTree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if strings.Contains(furniture, " "+strings.TrimPrefix(path, dir)+" ") {
			return fs.SkipDir
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		if fi.Mode().IsRegular() && fi.Size() < 1000 {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = fmt.Sprintf(" %q", b)
		}
		fmt.Fprintf(&out, "%s %s%s\n", strings.TrimPrefix(path, dir), fi.Mode(), text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
