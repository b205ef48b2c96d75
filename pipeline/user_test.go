//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"drydock/pipeline/report"
	"drydock/pipeline/stepbin"
)

// account is whom a run runs as.
type account struct {
	uid, gid int
	name     string
}

// ordinaryUser is the first user with subordinate ids.
func ordinaryUser() (*account, error) {
	raw, err := os.ReadFile("/etc/subuid")
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(raw), "\n") {
		name, _, _ := strings.Cut(line, ":")
		u, err := user.Lookup(name)
		if err != nil || u.Uid == "0" {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.Atoi(u.Gid)
		return &account{uid: uid, gid: gid, name: name}, err
	}
	return nil, errors.New("no user in /etc/subuid")
}

// TestOrdinaryUser runs the main job as an ordinary user, from a state that has
// nothing but what the mirrors served, and gets the digests root got: neither
// who builds nor what is cached is in them. The shared cache began with nothing.
func TestOrdinaryUser(t *testing.T) {
	d := openDock(t)
	if os.Getuid() != 0 {
		t.Skip("this already is an ordinary user; only root can become another")
	}
	who, err := ordinaryUser()
	if err != nil {
		t.Skip("there is no ordinary user with subordinate ids to become: " + err.Error())
	}
	dir, err := os.MkdirTemp("", "drydock-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Parallel()
	if err := userCatalog(dir); err != nil {
		t.Fatal(err)
	}
	roots := rootsDigests(t, d, dir)
	got := digests(t, asUser(t, d, dir, who))
	if len(got) != len(roots) || len(got) == 0 {
		t.Errorf("root made %d images, %s made %d", len(roots), who.name, len(got))
	}
	for name, want := range roots {
		if got[name] != want {
			t.Errorf("%s: root made %s, %s made %s", name, want, who.name, got[name])
		}
	}
}

// asked are the images that are built here once more, each for what another has
// not: a family compiled of modules, packages with accounts of their own, several
// platforms. The larger ones have tests of theirs.
var asked = []string{"--image", "httpbin", "--image", "nginx", "--image", "redis", "--image", "pair"}

// userCatalog is the shipped catalog with an image of two platforms.
func userCatalog(dir string) error {
	for name, body := range map[string]string{
		"catalog/images/pair.yaml": "version: 1\nname: pair\nplatforms: [linux/amd64, linux/arm64]\n",
		"catalog/images/pair/Dockerfile": `FROM --platform=$BUILDPLATFORM full AS made
ARG TARGETARCH
RUN install -d -o 65532 -g 4242 -m 2750 /made && echo "for $TARGETARCH" >/made/for
FROM minimal
COPY --from=made /made /srv/made
USER 65532:65532
`,
		".gitignore": "home\nout*\nbin\n",
	} {
		if err := writeIn(dir, name, body); err != nil {
			return err
		}
	}
	return errors.Join(copyCatalog(filepath.Join(dir, "catalog"), true), commitAll(dir))
}

// rootsDigests are those of the shipped catalog built in the shared cache.
func rootsDigests(t *testing.T, d *dock, dir string) map[string]string {
	t.Helper()
	own := t.TempDir()
	j := d.start(t, own, append([]string{"build", "--catalog", filepath.Join(dir, "catalog"), "--json"}, asked...)...)
	if code := j.exit(t); code != 0 {
		t.Fatalf("building as root exited %d\n%s", code, j.stderr)
	}
	file := filepath.Join(own, "summary.json")
	if err := os.WriteFile(file, j.stdout.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return digests(t, file)
}

func digests(t *testing.T, file string) map[string]string {
	t.Helper()
	s, err := report.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range s.Images {
		out[i.Name()] = string(i.Subject.Digest)
	}
	return out
}

// asUser runs the main job as an ordinary user in dir and returns its summary.
func asUser(t *testing.T, d *dock, dir string, who *account) string {
	t.Helper()
	bin := filepath.Join(dir, "bin")
	home := filepath.Join(dir, "home")
	for _, sub := range []string{bin, home} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"drydock", stepbin.Name} {
		if err := copyFile(filepath.Join(filepath.Dir(d.program), name), filepath.Join(bin, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o755), copyState(filepath.Join(d.cache, "mirror"), filepath.Join(home, ".cache", "drydock", "mirror"))); err != nil {
		t.Fatal(err)
	}
	environ := append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "USER=" + who.name, "TMPDIR=" + os.TempDir()}, gitEnviron...)
	for _, kv := range clientEnviron(t) {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "GOMODCACHE", "GOCACHE": // root's
		case "NETRC":
			if err := copyFile(value, filepath.Join(home, ".netrc"), 0o600); err != nil {
				t.Fatal(err)
			}
		default:
			environ = append(environ, kv)
		}
	}
	if err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, who.uid, who.gid)
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "drydock"), append([]string{"run", "--trigger", "branch", "--progress", "plain"}, asked...)...)
	cmd.Dir, cmd.Env = dir, environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatal(fmt.Errorf("running as %s: %w\n%s", who.name, err, out.String()))
	}
	return filepath.Join(dir, "out", "summary.json")
}
