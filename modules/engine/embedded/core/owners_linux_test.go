package core

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// argOwners makes the test binary build the Dockerfile of a directory in the
// best mode its user gets, and print what came of it.
const argOwners = "__drydock-test-owners"

// ownersReport is what came of it.
type ownersReport struct {
	Mode   string
	Logs   string
	Err    string
	Layers []string            // digests of what is in them
	Files  map[string][]string // of a layer: "name owner mode"
}

// ownersDockerfile does what images do with owners; the shell of the base
// (busybox) prints what a step sees of them.
const ownersDockerfile = `FROM scratch AS base
COPY . /
RUN cp -a /bin/busybox /bin/suid && chown root:extra /bin/suid && chmod 4750 /bin/suid

FROM base AS made
COPY --chown=app:extra tree /copied
COPY --chown=55:66 --chmod=2755 tree/file /copied2
RUN <<X
set -e
umask 022
show() { for f in "$@"; do stat -c '%n %u:%g %a %F' $f; done; }
mkdir -p /d/sub && touch /d/f /d/plain /d/sub/g && ln -s f /d/l && mkfifo /d/p
chown -R app:extra /d
chown -h 5:6 /d/l
chmod 4755 /d/f; chmod 2775 /d/sub
touch /d/sub/inherits; mkdir /d/sub/dir; ln -s x /d/sub/link
chown 0:0 /d/sub/g
show /d /d/* /d/sub/* /copied /copied/* /copied2
id
su app -s /bin/sh -c 'id; umask 027; touch /d/mine; mkdir /d/mydir; ln -s x /d/mylink; mkfifo /d/mypipe; echo x > /d/wrote
  show() { for f in "$@"; do stat -c "%n %u:%g %a %F" $f; done; }; show /d/my* /d/wrote
  chown 0 /d/mine 2>/dev/null || echo chown refused; chgrp extra /d/mine && show /d/mine; chgrp 77 /d/mine 2>/dev/null || echo chgrp refused
  touch /nope 2>/dev/null || echo touch refused; mkdir /etc/nope 2>/dev/null || echo mkdir refused; ln -s x /nope 2>/dev/null || echo ln refused'
id -u
cp -a /d /e && mkdir /t && tar cf - d | tar xf - -C /t && show /e/* /e/sub/* /t/d/* /t/d/sub/*
chmod 6755 /d/wrote; chown app /d/wrote; show /d/wrote
mkdir /gone; chown app /gone; ln -s x /gone/l; chown -h 9 /gone/l
X
RUN <<X
set -e
show() { for f in "$@"; do stat -c '%n %u:%g %a %F' $f; done; }
echo more >> /d/plain; chmod 700 /d/plain; mv /d/l /d/l2; ln /d/mine /d/hard; touch -h /d/mylink; mv /d/mydir /d/moved; mv /d/wrote /d/.hidden
chown -h 7:8 /copied/link; chown 3 /copied/dir
rm -r /gone; mkdir /gone; ln -s x /gone/l
show /d/* /d/.hidden /copied/* /gone /gone/l /bin/suid
X
USER app:extra
WORKDIR /work
RUN exec 2>&1; id; printf '#!/bin/sh\nid' >s && chmod 4755 s && ./s && rm s; touch a; mkdir b; ln -s a c; echo x > b/d; chmod 2755 b; touch b/e; mv a z; cp -a /d/moved . ; stat -c '%n %u:%g %a' /work . z b c b/d b/e moved; test -O z && test -G z && echo own

FROM base
COPY --from=made /d /d
COPY --from=made --chown=12:13 /copied /c
COPY --from=made /copied /c2
RUN stat -c '%n %u:%g %a %F' /d/* /d/sub/* /c/* /c2/*; chown -R 0:0 /d; stat -c '%n %u:%g %a' /d/*
`

func TestOwners(t *testing.T) {
	needModes(t)
	dir := ownersContext(t, ownersDockerfile)
	want := ownersAs(t, dir, 0, 0, "")
	if want.Mode != modeRoot || want.Err != "" || len(want.Layers) < 4 {
		t.Fatalf("as root: %+v", want)
	}
	t.Logf("%s", want.Logs)
	for _, line := range []string{
		"/d/l 5:6 777 symbolic link", "/d/f 1000:2000 4755 regular empty file", "/d/sub/inherits 0:2000 644", "/d/sub/dir 0:2000 2755",
		"uid=1000(app) gid=1000(app)", "chown refused", "touch refused", "/copied2 55:66 2755",
	} {
		if !strings.Contains(want.Logs, line) {
			t.Errorf("as root, the log lacks %q", line)
		}
	}
	users := map[string][2]uint32{modeSingle: {singleUID, singleUID + 1}}
	if who, uid, gid := subordinateUser(); who != "" {
		users[modeRootless] = [2]uint32{uid, gid}
	}
	for mode, ids := range users {
		t.Run(mode, func(t *testing.T) {
			got := ownersAs(t, dir, ids[0], ids[1], "")
			if got.Mode != mode {
				t.Fatalf("mode %s: %s", got.Mode, got.Err)
			}
			compareLines(t, "log", strings.Split(want.Logs, "\n"), strings.Split(got.Logs, "\n"))
			compareImages(t, want, got)
		})
	}
}

// needModes skips where root cannot build in every mode.
func needModes(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts the engine as several users; not in short mode")
	}
	if os.Getuid() != 0 {
		t.Skip("this already is an ordinary user; only root can become others")
	}
	if r := needT1(t); r.Mode != modeRoot {
		t.Skip("root has no namespaces here to compare with")
	}
}

// inOtherModes builds what root has built in the other modes: the layers are
// the same.
func inOtherModes(t *testing.T, dir string, want ownersReport) {
	t.Helper()
	t.Run(TierContainer, func(t *testing.T) { compareImages(t, want, ownersAs(t, dir, 0, 0, TierContainer)) })
	t.Run(modeSingle, func(t *testing.T) { compareImages(t, want, ownersAs(t, dir, singleUID, singleUID+1, "")) })
	if who, uid, gid := subordinateUser(); who != "" {
		t.Run(modeRootless, func(t *testing.T) { compareImages(t, want, ownersAs(t, dir, uid, gid, "")) })
	}
}

func compareImages(t *testing.T, want, got ownersReport) {
	t.Helper()
	if len(got.Layers) == 0 {
		t.Fatalf("no image: %s", got.Err)
	}
	for _, d := range want.Layers {
		other := got.Layers[min(slices.Index(want.Layers, d), len(got.Layers)-1)]
		compareLines(t, "layer", want.Files[d], got.Files[other])
		if d != other {
			t.Errorf("layer %s became %s", d, other)
		}
	}
}

// pointsDockerfile runs steps where there is nothing to mount on: the mount
// points of /dev, /proc and /sys stay, as with BuildKit's own executor, and
// those of other mounts do not.
const pointsDockerfile = `FROM scratch AS tools
COPY . /

FROM scratch AS empty
RUN --mount=type=bind,from=tools,target=/tools ["/tools/bin/busybox", "true"]

FROM scratch AS some
COPY --from=tools /bin /bin
RUN --mount=type=tmpfs,target=/a/deep/tmp --mount=type=cache,target=/var/cache/x mkdir -p /l/etc && ln -s ../run/sub/resolv.conf /l/etc/resolv.conf

FROM scratch AS linked
COPY --from=tools /bin /bin
COPY --from=some /l /
RUN echo x > /file; test -s /etc/hosts && test -s /etc/resolv.conf

FROM empty
COPY --from=some / /some
COPY --from=linked / /linked
`

// TestMountPoints: layers over nothing have one digest however steps run.
func TestMountPoints(t *testing.T) {
	needModes(t)
	dir := ownersContext(t, pointsDockerfile)
	want := ownersAs(t, dir, 0, 0, "")
	if want.Mode != modeRoot || want.Err != "" || len(want.Layers) != 3 {
		t.Fatalf("as root: %+v", want)
	}
	var names []string
	for _, f := range want.Files[want.Layers[0]] {
		names = append(names, strings.Join(strings.Fields(f)[:4], " "))
	}
	if points := []string{"dev/ 5 0:0 755", "proc/ 5 0:0 755", "sys/ 5 0:0 755"}; !slices.Equal(names, points) {
		t.Errorf("a step in an empty image leaves %q, not %q", names, points)
	}
	inOtherModes(t, dir, want)
}

func compareLines(t *testing.T, what string, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		w, g := "", ""
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if w != g {
			t.Errorf("%s, line %d:\n  want %s\n  got  %s", what, i, w, g)
		}
	}
}

// ownersContext is what is built, for everybody to read.
func ownersContext(t *testing.T, dockerfile string) string {
	t.Helper()
	root := busyboxRoot(t)
	dir, err := os.MkdirTemp("", "drydock-owners")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.Rename(root, filepath.Join(dir, "context"))); err != nil {
		t.Fatal(err)
	}
	context := filepath.Join(dir, "context")
	for _, n := range strings.Fields("chown chmod chgrp stat ln mkfifo su cp tar mv id tr") {
		if err := os.Symlink("busybox", filepath.Join(context, "bin", n)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	tree := filepath.Join(context, "tree")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(tree, "dir"), 0o755),
		os.WriteFile(filepath.Join(tree, "file"), []byte("x"), 0o644),
		os.WriteFile(filepath.Join(tree, "dir/file"), []byte("y"), 0o604),
		os.Symlink("file", filepath.Join(tree, "link")),
		os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "core.test"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ownersAs(t *testing.T, dir string, uid, gid uint32, tier string) ownersReport {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "core.test"), argOwners, filepath.Join(dir, "context"), tier)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var r ownersReport
	if jerr := json.Unmarshal(out, &r); err != nil || jerr != nil {
		t.Fatalf("as user %d: %v, %v", uid, err, jerr)
	}
	return r
}

// printOwners is the test binary as one of the users.
func printOwners(dir, tier string) int {
	r, err := buildOwners(dir, tier)
	if err != nil {
		r.Err = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return 1
	}
	return 0
}

func buildOwners(dir, tier string) (r ownersReport, err error) {
	state, err := os.MkdirTemp("", "drydock-core")
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	config := ChildConfig{Root: state, Environ: os.Environ(), Log: os.Stderr, Tier: tier}
	child, err := StartChild(ctx, config)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, child.Close(), RemoveState(ctx, config)) }()
	r.Mode = child.Mode
	conn, err := net.Dial("unix", child.Socket)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	image := filepath.Join(state, "image.tar")
	var out outcome
	job := task{Dir: dir, Dockerfile: true, Image: image, Opts: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "1700000000"}}
	if err := errors.Join(json.NewEncoder(conn).Encode(job), json.NewDecoder(conn).Decode(&out)); err != nil {
		return r, err
	}
	if out.Err != "" {
		return r, errors.New(out.Err + "\n" + out.Logs)
	}
	r.Logs = out.Logs
	return r, r.read(image)
}

// read lists what is in an image's layers. Times are left out where they are
// those of the build.
func (r *ownersReport) read(file string) error {
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	r.Files = map[string][]string{}
	for _, l := range layers {
		d, err := l.DiffID()
		if err != nil {
			return err
		}
		rc, err := l.Uncompressed()
		if err != nil {
			return err
		}
		defer rc.Close()
		tr := tar.NewReader(rc)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			r.Files[d.String()] = append(r.Files[d.String()], fmt.Sprintf("%s %c %d:%d %o %q %d %d %v", h.Name, h.Typeflag, h.Uid, h.Gid, h.Mode, h.Linkname, h.Size, h.ModTime.Unix(), h.PAXRecords))
		}
		r.Layers = append(r.Layers, d.String())
	}
	return nil
}
