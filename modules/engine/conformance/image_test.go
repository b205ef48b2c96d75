package conformance

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dagger.io/dagger"
)

// An image made here comes back by import, with its files and configuration.
func TestTarball(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ctr := busybox(t, c).WithNewFile("/f", "in the image").WithEnvVariable("A", "x").WithUser("app").
			WithEntrypoint([]string{"sh"}).WithLabel("l", "v").WithExposedPort(80).WithWorkdir("/w")
		tarball := ctr.AsTarball()
		got := c.Container().Import(tarball)
		if s, err := got.WithExec([]string{"cat", "/f"}).Stdout(ctx); err != nil || s != "in the image" {
			t.Errorf("a file of the imported image: %q, %v", s, err)
		}
		if s, err := got.EnvVariable(ctx, "A"); err != nil || s != "x" {
			t.Errorf("variable %q, %v", s, err)
		}
		if s, err := got.User(ctx); err != nil || s != "app" {
			t.Errorf("user %q, %v", s, err)
		}
		if s, err := got.Label(ctx, "l"); err != nil || s != "v" {
			t.Errorf("label %q, %v", s, err)
		}
		path := filepath.Join(t.TempDir(), "image.tar")
		if _, err := ctr.Export(ctx, path); err != nil {
			t.Fatal(err)
		}
		if s, err := c.Container().Import(c.Host().File(path)).File("/f").Contents(ctx); err != nil || s != "in the image" {
			t.Errorf("imported from the host: %q, %v", s, err)
		}
		loadable(t, path)
		// as the output of a step
		copied := busybox(t, c).WithMountedFile("/in.tar", tarball).WithExec([]string{"cp", "/in.tar", "/out.tar"}).File("/out.tar")
		if s, err := c.Container().Import(copied).File("/f").Contents(ctx); err != nil || s != "in the image" {
			t.Errorf("imported from a step: %q, %v", s, err)
		}
		if _, err := c.Container().Import(c.File("x.tar", "not an archive")).Sync(ctx); err == nil {
			t.Error("importing something else: no error")
		}
	})
}

// loadable: an archive of a single image is one for docker load, too.
func loadable(t *testing.T, path string) {
	t.Helper()
	files := tarFiles(t, path)
	var images []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &images); err != nil || len(images) != 1 || len(images[0].Layers) == 0 {
		t.Fatalf("manifest.json is %q: %v", files["manifest.json"], err)
	}
	for _, name := range append(images[0].Layers, images[0].Config) {
		if len(files[name]) == 0 {
			t.Errorf("manifest.json names %s, which is not there", name)
		}
	}
	var top index
	if err := json.Unmarshal(files["index.json"], &top); err != nil || len(top.Manifests) != 1 {
		t.Errorf("index.json is %q: %v", files["index.json"], err)
	}
}

// tarFiles are the files of an archive.
func tarFiles(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

type index struct {
	Manifests []struct {
		MediaType string
		Digest    string
		Platform  *struct{ OS, Architecture string }
	}
}

func TestPlatforms(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		variant := func(p dagger.Platform) *dagger.Container {
			return c.Container(dagger.ContainerOpts{Platform: p}).WithNewFile("/platform", string(p)).WithAnnotation("a", "b")
		}
		amd, arm := variant("linux/amd64"), variant("linux/arm64")
		tarball := c.Container().AsTarball(dagger.ContainerAsTarballOpts{PlatformVariants: []*dagger.Container{amd, arm}})
		for _, p := range []dagger.Platform{"linux/amd64", "linux/arm64"} {
			got, err := c.Container(dagger.ContainerOpts{Platform: p}).Import(tarball).File("/platform").Contents(ctx)
			if err != nil || got != string(p) {
				t.Errorf("%s: %q, %v", p, got, err)
			}
		}
		if _, err := c.Container(dagger.ContainerOpts{Platform: "linux/s390x"}).Import(tarball).Sync(ctx); err == nil {
			t.Error("a platform that is not there: no error")
		}
		path := filepath.Join(t.TempDir(), "image.tar")
		if _, err := tarball.Export(ctx, path); err != nil {
			t.Fatal(err)
		}
		if _, there := tarFiles(t, path)["manifest.json"]; there {
			t.Error("several platforms have a manifest.json, which can name only one")
		}
		if _, err := amd.AsTarball(dagger.ContainerAsTarballOpts{ForcedCompression: dagger.ImageLayerCompressionZstd}).Export(ctx, path); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(readTar(t, path), "application/vnd.oci.image.layer.v1.tar+zstd") {
			t.Error("the layer is not compressed with zstd")
		}
	})
}

// readTar is all JSON of an OCI archive.
func readTar(t *testing.T, path string) string {
	t.Helper()
	files := tarFiles(t, path)
	var top index
	if err := json.Unmarshal(files["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) == 0 {
		t.Error("the archive's index is empty")
	}
	var all strings.Builder
	for _, dt := range files {
		if len(dt) > 0 && dt[0] == '{' {
			all.Write(dt)
		}
	}
	return all.String()
}

// buildContext is a build context with busybox in it, for FROM scratch.
func buildContext(t *testing.T, c *dagger.Client, dockerfile string) *dagger.Directory {
	t.Helper()
	path, err := busyboxPath()
	if err != nil {
		t.Skip(err)
	}
	return c.Directory().WithFile("busybox", c.Host().File(path), dagger.DirectoryWithFileOpts{Permissions: 0o755}).
		WithNewFile("Dockerfile", dockerfile)
}

const dockerfile = `# syntax=docker/dockerfile:1
FROM scratch AS base
COPY busybox /bin/busybox
SHELL ["/bin/busybox", "sh", "-c"]

FROM base AS work
ARG GREETING=hello
RUN echo "$GREETING" > /greeting
RUN --mount=type=secret,id=token /bin/busybox wc -c < /run/secrets/token > /size

FROM base AS other
RUN echo other > /greeting

FROM work
COPY . /context
ENV A=x
USER 1000:1000
EXPOSE 8080
CMD ["/bin/busybox", "cat", "/greeting"]
`

func TestDockerBuild(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := buildContext(t, c, dockerfile).WithNewFile("Other.dockerfile", dockerfile).
			WithNewFile("kept", "").WithNewFile("ignored.log", "").WithNewFile(".dockerignore", "*.log\n")
		secret := c.SetSecret("token", "12345")
		ctr := dir.DockerBuild(dagger.DirectoryDockerBuildOpts{
			BuildArgs: []dagger.BuildArg{{Name: "GREETING", Value: "ahoy"}}, Secrets: []*dagger.Secret{secret},
		})
		if s, err := ctr.WithExec(nil).Stdout(ctx); err != nil || s != "ahoy\n" {
			t.Errorf("the image's command: %q, %v", s, err)
		}
		if s, err := ctr.File("/size").Contents(ctx); err != nil || s != "5\n" {
			t.Errorf("the secret: %q, %v", s, err)
		}
		if s, err := ctr.User(ctx); err != nil || s != "1000:1000" {
			t.Errorf("user %q, %v", s, err)
		}
		if ok, err := ctr.Exists(ctx, "/context/kept"); err != nil || !ok {
			t.Errorf("the context: %v, %v", ok, err)
		}
		if ok, err := ctr.Exists(ctx, "/context/ignored.log"); err != nil || ok {
			t.Errorf("an ignored file is in the image: %v, %v", ok, err)
		}
		other := dir.DockerBuild(dagger.DirectoryDockerBuildOpts{Dockerfile: "Other.dockerfile", Target: "other"})
		if s, err := other.File("/greeting").Contents(ctx); err != nil || s != "other\n" {
			t.Errorf("another target: %q, %v", s, err)
		}
	})
}

func TestDockerBuildFailures(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		head := "FROM scratch\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n"
		tests := []struct {
			name, dockerfile string
			code             int // 0: not an ExecError
			want             []string
		}{
			{"run", head + "RUN echo fine\nRUN echo going; echo wrong here >&2; exit 9\n", 9, []string{"Dockerfile:5", "RUN echo going", "exit code: 9", "wrong here"}},
			{"copy", head + "COPY nope /\n", 0, []string{"nope"}},
			{"syntax", "FROM scratch\nFLY away\n", 0, []string{"Dockerfile:2", "FLY"}},
			{"no stage", "FROM scratch AS a\nCOPY --from=b / /\n", 0, nil},
		}
		for _, tc := range tests {
			t.Run(tc.name, func(t *testing.T) {
				_, err := buildContext(t, c, tc.dockerfile).DockerBuild().Sync(within(t))
				if err == nil {
					t.Fatal("no error")
				}
				var failed *dagger.ExecError
				if errors.As(err, &failed) != (tc.code != 0) || failed != nil && failed.ExitCode != tc.code {
					t.Errorf("got %T: %v", err, err)
				}
				for _, w := range tc.want {
					if isEmbedded(t) && !strings.Contains(err.Error(), w) {
						t.Errorf("the error does not say %q: %v", w, err)
					}
				}
			})
		}
		if _, err := c.Directory().DockerBuild().Sync(within(t)); err == nil || !strings.Contains(err.Error(), "Dockerfile") {
			t.Errorf("without a Dockerfile: %v", err)
		}
	})
}

// isEmbedded says whether the subtest runs on the embedded engine, whose
// messages promise more.
func isEmbedded(t *testing.T) bool { return strings.Contains(t.Name(), "/embedded") }
