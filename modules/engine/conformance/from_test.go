package conformance

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	"dagger.io/dagger"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// publish puts an image of one file for two platforms into the registry and
// gives the digest of its index.
func publish(t *testing.T, repository string) string {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return layerOf(t, "etc/arch", arch), nil })
		if err != nil {
			t.Fatal(err)
		}
		image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
		if err != nil {
			t.Fatal(err)
		}
		image, err = mutate.ConfigFile(image, withConfig(t, image, arch))
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	ref, err := name.NewTag(engines.images+"/"+repository+":latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func withConfig(t *testing.T, image v1.Image, arch string) *v1.ConfigFile {
	t.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Config.Env = []string{"FROM_IMAGE=yes"}
	file.Config.User = "7"
	return file
}

func layerOf(t *testing.T, path, text string) io.ReadCloser {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return io.NopCloser(&buf)
}

func TestFrom(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ref := imageRef(t, "bases/small", publish(t, "bases/small"))
		ctr := c.Container().WithEnvVariable("MINE", "kept").From(ref)
		for key, want := range map[string]string{"FROM_IMAGE": "yes", "MINE": "kept"} {
			if got, err := ctr.EnvVariable(ctx, key); err != nil || got != want {
				t.Errorf("%s: %q, %v", key, got, err)
			}
		}
		if s, err := ctr.User(ctx); err != nil || s != "7" {
			t.Errorf("user %q, %v", s, err)
		}
		if s, err := c.Container(dagger.ContainerOpts{Platform: "linux/arm64"}).From(ref).File("/etc/arch").Contents(ctx); err != nil || s != "arm64" {
			t.Errorf("the arm64 variant: %q, %v", s, err)
		}
		built := c.Directory().WithNewFile("Dockerfile", "FROM "+ref+"\nCOPY Dockerfile /\n").DockerBuild()
		if s, err := built.File("/etc/arch").Contents(ctx); err != nil || s != "amd64" && s != "arm64" {
			t.Errorf("built on it: %q, %v", s, err)
		}
		if s, err := built.EnvVariable(ctx, "FROM_IMAGE"); err != nil || s != "yes" {
			t.Errorf("built on it: variable %q, %v", s, err)
		}
		repository, digest, _ := strings.Cut(ref, "@")
		if isEmbedded(t) {
			repository = engines.images + "/bases/small" // the host of bases has no tags
		}
		repository = strings.TrimSuffix(repository, ":latest")
		for _, tag := range []string{repository, repository + ":latest"} {
			ctr := c.Container().From(tag)
			if s, err := ctr.File("/etc/arch").Contents(ctx); err != nil || s != "amd64" && s != "arm64" {
				t.Errorf("%s: %q, %v", tag, s, err)
			}
			if s, err := ctr.ImageRef(ctx); err != nil || !strings.HasSuffix(s, "/bases/small@"+digest) { // of whichever registry had it first
				t.Errorf("%s is %q, %v", tag, s, err)
			}
		}
		if _, err := c.Container().From(repository + ":none").Sync(ctx); err == nil {
			t.Error("a tag that is not there: no error")
		}
		absent := imageRef(t, "bases/small", "sha256:"+strings.Repeat("0", 64))
		if _, err := c.Container().From(absent).Sync(ctx); err == nil {
			t.Error("an image that is not there: no error")
		}
		if !isEmbedded(t) {
			return
		}
		for _, bad := range []string{"busybox", "base.drydock.internal/a:latest", "registry.example/a/b@sha256:" + strings.Repeat("0", 64)} {
			if _, err := c.Container().From(bad).Sync(ctx); err == nil {
				t.Errorf("%s: no error", bad)
			}
		}
		if _, err := c.Directory().WithNewFile("Dockerfile", "FROM scratch\nADD https://registry.example/x /\n").DockerBuild().Sync(ctx); err == nil ||
			!strings.Contains(err.Error(), "https://registry.example/x") {
			t.Errorf("ADD from the network: %v", err)
		}
	})
}
