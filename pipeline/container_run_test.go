//go:build linux

package main

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"drydock/internal/containertest"
	"drydock/pipeline/report"
)

// smallCatalog is an image of two stages: packages from the mirror, files of
// several owners, what a step made in another, an archive, and a test that runs.
func smallCatalog(dir string) error {
	parts, err := partsArchive()
	if err != nil {
		return err
	}
	for name, body := range map[string]string{
		"catalog/images/small.yaml": `version: 1
name: small
platforms: [linux/amd64]
tests:
  structure: [small/structure.yaml]
`,
		"catalog/images/small/structure.yaml": `schemaVersion: 2.0.0
commandTests:
  - name: what the stages made runs
    command: /usr/local/bin/greet
    expectedOutput: ["hello from the builder"]
  - name: what apt installed runs
    command: /usr/bin/less
    args: [--version]
    expectedOutput: ["less"]
`,
		"catalog/images/small/Dockerfile": `FROM full AS builder
WORKDIR /made
COPY greet.sh .
RUN sed 's/@WHO@/the builder/' greet.sh > greet && chmod 755 greet && ln greet again && ln -s greet link
RUN useradd --uid 4242 somebody && install -d -o somebody -g 4242 -m 2750 /made/shared && su somebody -c 'id > /made/shared/id'
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/tmp --mount=type=bind,target=/context <<X bash -euo pipefail
test "\$(echo in | tee /dev/stderr | cat /dev/stdin)" = in && echo out > /dev/stdout
diff <(sort /context/greet.sh) <(sort greet.sh) && tee >(cat > /cache/x) < greet.sh > /tmp/x && readlink /proc/self/exe | grep -q readlink
X
FROM full
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends less \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
COPY --from=builder --chown=0:0 /made/greet /usr/local/bin/greet
COPY --from=builder /made/shared /srv/shared
ADD parts.tar.xz /srv/parts/
RUN test "$(stat -c %u:%g:%a /srv/parts/shared)" = 4242:17:2750
RUN chmod 4755 /usr/bin/less && ls -ln /srv/shared /usr/bin/less > /srv/list && rm /srv/list
USER 65532
`,
		"catalog/images/small/greet.sh":     "#!/bin/sh\necho hello from @WHO@\n",
		"catalog/images/small/parts.tar.xz": parts,
		".gitignore":                        "home\nout*\nstate*\ncache\n",
	} {
		if err := writeIn(dir, name, body); err != nil {
			return err
		}
	}
	return errors.Join(copyCatalog(filepath.Join(dir, "catalog"), false), commitAll(dir))
}

// partsArchive is a tar.xz with what archives hold.
func partsArchive() (string, error) {
	var b strings.Builder
	x, err := xz.NewWriter(&b)
	if err != nil {
		return "", err
	}
	w := tar.NewWriter(x)
	const text = "a part\n"
	at := time.Unix(1700000000, 0)
	for _, h := range []tar.Header{
		{Name: "shared/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 4242, Gid: 17, ModTime: at},
		{Name: "shared/part", Mode: 0o4755, Uid: 4242, Gid: 17, ModTime: at, Size: int64(len(text))},
		{Name: "again", Typeflag: tar.TypeLink, Linkname: "shared/part", ModTime: at, Mode: 0o4755, Uid: 4242, Gid: 17},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/srv/parts/again", ModTime: at, Mode: 0o777, Uid: 5, Gid: 6},
	} {
		err = errors.Join(err, w.WriteHeader(&h))
		if h.Size > 0 {
			_, werr := w.Write([]byte(text))
			err = errors.Join(err, werr)
		}
	}
	err = errors.Join(err, w.Close(), x.Close())
	return b.String(), err
}

// TestContainerRun runs the main job in every kind of container in which a tier
// works, and gets the digests root gets outside, whatever the tier.
func TestContainerRun(t *testing.T) {
	d := openDock(t)
	y := openYard(t, d)
	t.Parallel()
	own := t.TempDir()
	if err := smallCatalog(own); err != nil {
		t.Fatal(err)
	}
	j := d.start(t, own, "build", "--json", "--image", "small")
	if code := j.exit(t); code != 0 {
		t.Fatalf("building as root outside exited %d\n%s%s", code, j.stdout, j.stderr)
	}
	file := filepath.Join(own, "summary.json")
	if err := os.WriteFile(file, j.stdout.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	want := digests(t, file)
	for _, b := range berths() {
		// another here has a single id, too, and TestContainerHostile builds there
		if b.tier == "" || strings.Contains(b.name, "without subordinate ids") {
			continue
		}
		if b.tier == "T3" && b.container.SeccompUnconfined {
			continue // as with the profile
		}
		runtimes := y.runtimes[:1]
		if b.name == "root, default" {
			runtimes = y.runtimes // their profiles differ: an old docker's knows no Landlock
		}
		for _, r := range runtimes {
			t.Run(r.Name()+"/"+b.name, func(t *testing.T) {
				t.Parallel()
				// what was fetched from the mirrors and the bases that were made of it
				// are not fetched again: the engine's state is this job's own
				job := newJob(t, d, y, b, "mirror", "bases", "vulndb", "facts.json", "materials")
				if err := smallCatalog(job.dir); err != nil {
					t.Fatal(err)
				}
				res := job.run(t, r, "run", "--trigger", "branch", "--progress", "plain")
				if res.Code != 0 {
					t.Fatalf("exit code %d\n%s%s", res.Code, res.Stdout, res.Stderr)
				}
				if n := strings.Count(res.Stderr, "this host gives tier T3 only"); n != map[bool]int{true: 1}[b.tier == "T3"] {
					t.Errorf("it warned %d times of tier T3\n%s", n, res.Stderr)
				}
				job.check(t, want)
			})
		}
	}
}

// TestContainerCatalog builds the whole shipped catalog in the containers in which
// a tier works, one after the other, and gets the digests root gets outside. It
// takes minutes for each: only where wholeCatalog asks for it.
func TestContainerCatalog(t *testing.T) {
	if os.Getenv(wholeCatalog) != "all" {
		t.Skip(wholeCatalog + " is not all")
	}
	d := openDock(t)
	y := openYard(t, d)
	own := t.TempDir()
	if err := shippedCatalog(own); err != nil {
		t.Fatal(err)
	}
	want := built(t, d, own, d.cache)
	if len(want) < 8 {
		t.Fatalf("root outside made %v", want)
	}
	for _, b := range berths() {
		for _, r := range y.runtimes {
			// the other berths are tiers and modes that one of these has
			if b.tier == "" || b.container.AddCapabilities != nil || r != y.runtimes[0] && b.name != "root, default" {
				continue
			}
			t.Run(r.Name()+"/"+b.name, func(t *testing.T) {
				job := newJob(t, d, y, b, "mirror")
				job.time = time.Hour
				if err := shippedCatalog(job.dir); err != nil {
					t.Fatal(err)
				}
				res := job.run(t, r, "build", "--json", "--progress", "plain")
				if res.Code != 0 {
					t.Fatalf("exit code %d\n%s%s", res.Code, res.Stdout, res.Stderr)
				}
				file := filepath.Join(t.TempDir(), "summary.json")
				if err := os.WriteFile(file, []byte(res.Stdout), 0o600); err != nil {
					t.Fatal(err)
				}
				sameDigests(t, digests(t, file), want)
			})
		}
	}
}

// shippedCatalog is the shipped catalog in a clean work tree.
func shippedCatalog(dir string) error {
	if err := writeIn(dir, ".gitignore", "home\nout*\nstate*\ncache\ndata\nkeys\n"); err != nil {
		return err
	}
	return errors.Join(copyCatalog(filepath.Join(dir, "catalog"), true), commitAll(dir))
}

// containerJob is a checkout and a cache of its own, as a job in a container
// has them.
type containerJob struct {
	berth berth
	dir   string // /builds in the container
	bind  []containertest.Bind
	env   []string
	owner [2]int
	time  time.Duration // one program may take; 0 is ten minutes
}

// newJob makes a job whose cache has those parts of the shared one.
func newJob(t *testing.T, d *dock, y *yard, b berth, warm ...string) *containerJob {
	t.Helper()
	dir, err := os.MkdirTemp(y.dir, "job-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// subordinate ids own some of it
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	j := &containerJob{berth: b, dir: dir}
	if b.container.User != "" {
		if _, err := fmt.Sscanf(b.container.User, "%d:%d", &j.owner[0], &j.owner[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "home"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range warm {
		from := filepath.Join(d.cache, name)
		if !exists(from) {
			continue
		}
		if err := copyState(from, filepath.Join(dir, "cache", name)); err != nil {
			t.Fatal(err)
		}
	}
	j.env = append([]string{
		"PATH=" + containerPath, "HOME=/builds/home", "DRYDOCK_CACHE=/builds/cache", "DRYDOCK_DATA=/builds/state/data", "DRYDOCK_KEYS=/builds/state/keys",
	}, gitEnviron...)
	for _, kv := range clientEnviron(t) {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "GOMODCACHE", "GOCACHE", "GOFLAGS":
		case "NETRC":
			if err := copyFile(value, filepath.Join(dir, "home", ".netrc"), 0o600); err != nil {
				t.Fatal(err)
			}
		case "SSL_CERT_FILE", "SSL_CERT_DIR":
			j.bind = append(j.bind, containertest.Bind{Source: value, Dest: value, ReadOnly: true})
			j.env = append(j.env, kv)
		default:
			j.env = append(j.env, kv)
		}
	}
	j.env = append(j.env, npmEnviron()...)
	j.bind = append(j.bind, clientFiles()...)
	j.bind = append(j.bind, programOf(d), containertest.Bind{Source: dir, Dest: "/builds"})
	return j
}

// run runs the program in the job's container.
func (j *containerJob) run(t *testing.T, r containertest.Runtime, args ...string) containertest.Result {
	t.Helper()
	return j.exec(t, r, append([]string{"/opt/drydock/drydock"}, args...)...)
}

// exec runs whatever program in the job's container.
func (j *containerJob) exec(t *testing.T, r containertest.Runtime, args ...string) containertest.Result {
	t.Helper()
	if err := give(j.dir, j.owner[0], j.owner[1]); err != nil {
		t.Fatal(err)
	}
	c := j.berth.container
	c.Args = append(slices.Clip(j.berth.become), args...)
	c.Dir, c.Env, c.Binds, c.HostNetwork = "/builds", j.env, j.bind, true
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(j.time, 10*time.Minute))
	defer cancel()
	res, err := r.Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// check compares what the job made.
func (j *containerJob) check(t *testing.T, want map[string]string) {
	t.Helper()
	s, err := report.ReadFile(filepath.Join(j.dir, "out", "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Engine.Tier != j.berth.tier {
		t.Errorf("it ran in tier %s, want %s", s.Engine.Tier, j.berth.tier)
	}
	for _, i := range s.Images {
		if i.Stage != "staging" {
			t.Errorf("%s came to %q only", i.Name(), i.Stage)
		}
	}
	sameDigests(t, digests(t, filepath.Join(j.dir, "out", "summary.json")), want)
}

// sameDigests compares what was made in a container with what root outside made.
func sameDigests(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d images, want %d", len(got), len(want))
	}
	for name, digest := range want {
		if got[name] != digest {
			t.Errorf("%s: %s, root outside made %s", name, got[name], digest)
		}
	}
}

// clientFiles are the files that ordinary clients are configured by, as whoever
// runs the tests has them.
func clientFiles() []containertest.Bind {
	var out []containertest.Bind
	for _, path := range []string{
		"/etc/apt", "/usr/share/keyrings", "/etc/ssl", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
		"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf",
	} {
		if file, err := filepath.EvalSymlinks(path); err == nil {
			out = append(out, containertest.Bind{Source: file, Dest: path, ReadOnly: true})
		}
	}
	return out
}

// npmEnviron is the npm registry of this machine as a variable, for images that
// have no npm to ask; nil when it is set as one already, or there is no npm.
func npmEnviron() []string {
	const name = "npm_config_registry"
	if _, set := os.LookupEnv(name); set {
		return nil
	}
	out, err := exec.Command("npm", "config", "get", "registry").Output()
	if err != nil {
		return nil
	}
	return []string{name + "=" + strings.TrimSpace(string(out))}
}

// give makes everything below dir somebody's.
func give(dir string, uid, gid int) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}
