//go:build linux

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"drydock/internal/containertest"
	"drydock/modules/engine"
)

// These tests run the program in ordinary containers: what a CI job has in
// GitLab's docker executor with privileged = false, and in Azure's container
// jobs. README's table of what was proven where is what they show.

// containerRuntime chooses docker or runc where a test would try both.
const containerRuntime = "DRYDOCK_TEST_RUNTIME"

// yard is what the tests in containers share.
type yard struct {
	dir      string
	root     string // the containers' root file system
	runtimes []containertest.Runtime
}

var theYard struct {
	once sync.Once
	yard *yard
	skip string
	err  error
}

// openYard gives the containers' root file system, which the program itself
// builds, and every way of starting containers that works here.
func openYard(t *testing.T, d *dock) *yard {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("starting a container as docker would needs root")
	}
	theYard.once.Do(func() { theYard.yard, theYard.skip, theYard.err = makeYard(t, d) })
	if theYard.skip != "" {
		t.Skip(theYard.skip)
	}
	if theYard.err != nil {
		t.Fatal(theYard.err)
	}
	return theYard.yard
}

func makeYard(t *testing.T, d *dock) (*yard, string, error) {
	y := &yard{dir: filepath.Join(d.root, "yard")}
	y.root = filepath.Join(y.dir, "root")
	// containers' ordinary users look into what is below
	if err := errors.Join(os.MkdirAll(y.dir, 0o755), os.Chmod(d.root, 0o711)); err != nil {
		return nil, "", err
	}
	if err := y.build(t, d); err != nil {
		return nil, "", err
	}
	want := os.Getenv(containerRuntime)
	var said []string
	for _, start := range []struct {
		name string
		f    func() (containertest.Runtime, error)
	}{
		{"docker", func() (containertest.Runtime, error) {
			return containertest.Docker(t.Context(), y.root, filepath.Join(y.dir, "docker"), os.Environ())
		}},
		{"runc", func() (containertest.Runtime, error) {
			return containertest.Runc(y.root, filepath.Join(y.dir, "runc"))
		}},
	} {
		if want != "" && want != start.name {
			continue
		}
		r, err := start.f()
		if err != nil {
			said = append(said, err.Error())
			continue
		}
		y.runtimes = append(y.runtimes, r)
		d.leave = append(d.leave, r.Close)
	}
	for _, line := range said {
		t.Log(line)
	}
	if len(y.runtimes) == 0 {
		return nil, "no container can be started here: " + strings.Join(said, "; "), nil
	}
	return y, "", nil
}

// build makes the containers' root: a job's image with git and uidmap, root
// and two users, the first with subordinate ids.
func (y *yard) build(t *testing.T, d *dock) error {
	own := t.TempDir()
	for name, body := range map[string]string{
		"catalog/images/job.yaml": "version: 1\nname: job\nplatforms: [linux/amd64]\n",
		"catalog/images/job/Dockerfile": `FROM full
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git libcap2-bin passwd sudo uidmap
RUN cd /usr/bin && chmod u-s newuidmap newgidmap && setcap cap_setuid=ep newuidmap && setcap cap_setgid=ep newgidmap
RUN useradd --create-home --uid 1000 several && useradd --create-home --uid 1001 single \
 && echo several:100000:65536 > /etc/subuid && echo several:100000:65536 > /etc/subgid \
 && echo "single ALL=(ALL:ALL) NOPASSWD:ALL" > /etc/sudoers.d/job
`,
		".gitignore": "data\nkeys\nout\n",
	} {
		if err := writeIn(own, name, body); err != nil {
			return err
		}
	}
	if err := copyCatalog(filepath.Join(own, "catalog"), false); err != nil {
		return err
	}
	if err := commitAll(own); err != nil {
		return err
	}
	j := d.start(t, own, "build", "--image", "job")
	if code := j.exit(t); code != 0 {
		return fmt.Errorf("building the container's root exited %d\n%s%s", code, j.stdout, j.stderr)
	}
	return unpack(t, filepath.Join(own, "out", "job", "oci"), y.root)
}

func writeIn(dir, name, body string) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(body), 0o644)
}

// unpack applies the layers of a layout's first image to root.
func unpack(t *testing.T, layout, root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	_, err := eachLayer(layout, func(_ int, r io.Reader) error {
		_, err := archive.Apply(t.Context(), root, r)
		return err
	})
	return err
}

// eachLayer calls f with every layer, uncompressed, of a layout's first image
// and returns that image's manifest.
func eachLayer(layout string, f func(n int, r io.Reader) error) (*ocispecs.Manifest, error) {
	var index ocispecs.Index
	if err := readJSON(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	for len(index.Manifests) > 0 && index.Manifests[0].MediaType == ocispecs.MediaTypeImageIndex {
		if err := readJSON(blobFile(layout, index.Manifests[0]), &index); err != nil {
			return nil, err
		}
	}
	if len(index.Manifests) == 0 {
		return nil, errors.New("the layout has no image")
	}
	var manifest ocispecs.Manifest
	if err := readJSON(blobFile(layout, index.Manifests[0]), &manifest); err != nil {
		return nil, err
	}
	for n, l := range manifest.Layers {
		file, err := os.Open(blobFile(layout, l))
		if err != nil {
			return nil, err
		}
		r, err := compression.DecompressStream(file)
		if err == nil {
			err = f(n, r)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", l.Digest, err)
		}
	}
	return &manifest, nil
}

func blobFile(layout string, d ocispecs.Descriptor) string {
	return filepath.Join(layout, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// berth is one kind of container and what the program does in it.
type berth struct {
	name       string
	container  containertest.Container
	tier, mode string   // "" when nothing works there by itself
	missing    []string // what the ways that do not work must name
	become     []string // what the program is started by
	state      string   // where doctor has its state, "" is /tmp/state
}

// berths are what CI jobs run in. Those in which a tier works build there too.
func berths() []berth {
	return []berth{
		{
			name: "root, default", tier: "T2", mode: "container",
			missing: []string{"seccomp profile", "masked /proc"},
		},
		{
			name: "uid 1000, default", tier: "T3", mode: "translated", container: containertest.Container{User: "1000:1000"},
			missing: []string{"root", "seccomp profile", "masked /proc"},
		},
		{
			// as Kubernetes' restricted profile has it
			name: "uid 1000, no new privileges", tier: "T3", mode: "translated", container: containertest.Container{User: "1000:1000", NoNewPrivileges: true},
			missing: []string{"root", "seccomp profile", "masked /proc"},
		},
		{
			name: "uid 1000, seccomp unconfined", tier: "T3", mode: "translated", container: containertest.Container{User: "1000:1000", SeccompUnconfined: true},
			missing: []string{"root", "masked /proc"},
		},
		{
			name: "uid 1000, default, nowhere to execute from", container: containertest.Container{User: "1000:1000"}, state: "/dev/shm/state",
			missing: []string{"root", "seccomp profile", "masked /proc", "noexec"},
		},
		{
			name: "uid 1000, seccomp unconfined and /proc unmasked", tier: "T1", mode: "rootless",
			container: containertest.Container{User: "1000:1000", SeccompUnconfined: true, SystemPathsUnconfined: true},
		},
		{
			name: "uid 1001 without subordinate ids, seccomp unconfined and /proc unmasked", tier: "T1", mode: "single-id",
			container: containertest.Container{User: "1001:1001", SeccompUnconfined: true, SystemPathsUnconfined: true},
			missing:   []string{"subordinate ids"},
		},
		{
			name: "uid 1000, no new privileges, otherwise open", tier: "T1", mode: "single-id",
			container: containertest.Container{
				User: "1000:1000", SeccompUnconfined: true, SystemPathsUnconfined: true, NoNewPrivileges: true,
			},
			missing: []string{"no_new_privs"},
		},
		{
			// azure-pipelines.yml starts it so in a container job
			name: "uid 1001 with sudo, default", tier: "T2", mode: "container",
			container: containertest.Container{User: "1001:1001"}, become: []string{"/usr/bin/sudo", "-E", "/usr/bin/env", "PATH=" + containerPath},
			missing: []string{"seccomp profile", "masked /proc"},
		},
		{
			name: "root with CAP_SYS_ADMIN, default seccomp", tier: "T2", mode: "container",
			container: containertest.Container{AddCapabilities: []string{"CAP_SYS_ADMIN"}},
			missing:   []string{"seccomp profile", "CAP_SYS_ADMIN"},
		},
		{
			name: "root with CAP_SYS_ADMIN and CAP_NET_ADMIN, seccomp unconfined", tier: "T1", mode: "root",
			container: containertest.Container{AddCapabilities: []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"}, SeccompUnconfined: true},
		},
	}
}

// TestContainerDoctor asks the program in each kind of container what can be
// done there.
func TestContainerDoctor(t *testing.T) {
	d := openDock(t)
	y := openYard(t, d)
	for _, r := range y.runtimes {
		for _, b := range berths() {
			t.Run(r.Name()+"/"+b.name, func(t *testing.T) {
				t.Parallel()
				b.doctor(t, d, r)
			})
		}
	}
}

func (b berth) doctor(t *testing.T, d *dock, r containertest.Runtime) {
	c := b.container
	c.Args = append(slices.Clip(b.become), "/opt/drydock/drydock", "doctor", "--json", "--catalog", "/src/catalog")
	c.Env = []string{"PATH=" + containerPath, "HOME=/tmp", "DRYDOCK_STATE=" + cmp.Or(b.state, "/tmp/state")}
	catalog := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(catalog), 0o755), os.Chmod(catalog, 0o755), copyCatalog(filepath.Join(catalog, "catalog"), true)); err != nil {
		t.Fatal(err)
	}
	c.Binds = []containertest.Bind{programOf(d), {Source: catalog, Dest: "/src", ReadOnly: true}}
	res, err := r.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var k checkup
	if err := json.Unmarshal([]byte(res.Stdout), &k); err != nil {
		t.Fatalf("%v: %s%s", err, res.Stdout, res.Stderr)
	}
	if k.Engine.Tier != b.tier || k.Engine.Mode != b.mode {
		t.Errorf("tier %q in mode %q, want %q in %q: %+v", k.Engine.Tier, k.Engine.Mode, b.tier, b.mode, k.Engine.Tiers)
	}
	slower := slices.ContainsFunc(k.Engine.Findings, func(f engine.Finding) bool { return f.Name == "speed and isolation" && f.Remedy != "" })
	if slower != (b.tier == "T3") {
		t.Errorf("it says that steps are slower: %v", slower)
	}
	if want := map[bool]int{true: 0, false: 3}[b.tier != ""]; res.Code != want {
		t.Errorf("exit code %d, want %d: %s", res.Code, want, res.Stderr)
	}
	var names []string
	for _, w := range k.Engine.Tiers {
		for _, m := range w.Missing {
			names = append(names, m.Name)
			if m.Remedy == "" {
				t.Errorf("%s: no remedy", m.Name)
			}
		}
	}
	for _, want := range b.missing {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not named as missing, only %q", want, names)
		}
	}
}

const containerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// programOf shows the program and the step program in a container.
func programOf(d *dock) containertest.Bind {
	return containertest.Bind{Source: filepath.Dir(d.program), Dest: "/opt/drydock", ReadOnly: true}
}
