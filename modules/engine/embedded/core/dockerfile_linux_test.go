package core

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestDockerfile(t *testing.T) {
	needT1(t)
	c := startChild(t, ChildConfig{})
	build := func(t *testing.T, text string, opts map[string]string) outcome {
		t.Helper()
		root := busyboxRoot(t)
		if err := os.WriteFile(filepath.Join(root, "Dockerfile"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if opts == nil {
			opts = map[string]string{}
		}
		return do(t, c.Socket, task{Dir: root, Dockerfile: true, Opts: opts})
	}
	base := "FROM scratch AS base\nCOPY . /\n"
	t.Run("run", func(t *testing.T) {
		wantLogs(t, build(t, base+"RUN echo built > /made\nUSER app\nWORKDIR /w\nRUN cat /made; id -un; pwd\n", nil), "built\napp\n/w\n")
	})
	t.Run("mounts and heredoc", func(t *testing.T) {
		wantLogs(t, build(t, base+"RUN --mount=type=tmpfs,target=/t --mount=type=bind,source=/etc/passwd,target=/p,ro <<X\n"+
			"mount | grep -c ' /t '\nhead -n 1 /p\nX\n", nil), "1\nroot:x:0:0")
	})
	t.Run("dockerfile syntax line", func(t *testing.T) {
		wantLogs(t, build(t, "# syntax=docker/dockerfile:1.7\n"+base+"RUN echo syntax-ok\n", nil), "syntax-ok")
	})
	t.Run("other syntax image", func(t *testing.T) {
		wantErr(t, build(t, "# syntax=example.invalid/tool:1\n"+base, nil), "a frontend from an image is not run", "example.invalid/tool:1")
	})
	t.Run("image from elsewhere", func(t *testing.T) {
		wantErr(t, build(t, "FROM registry.example.invalid/alpine:3\nRUN true\n", nil), "refused by rule egress/mirror-only", "registry.example.invalid")
	})
	t.Run("file from elsewhere", func(t *testing.T) {
		wantErr(t, build(t, base+"ADD https://example.invalid/x /x\n", nil), "refused by rule egress/mirror-only", "https://example.invalid/x")
	})
	t.Run("repository from elsewhere", func(t *testing.T) {
		wantErr(t, build(t, base+"ADD https://example.invalid/x.git /x\n", nil), "refused by rule egress/mirror-only")
	})
	t.Run("base and cross build", func(t *testing.T) {
		addr, digest := baseRegistry(t, busyboxRoot(t))
		c = startChild(t, ChildConfig{ImagesAddr: addr})
		from := "base.drydock.internal/tools/busybox@" + digest
		text := "FROM --platform=$BUILDPLATFORM " + from + " AS build\nARG TARGETARCH\nRUN echo for $TARGETARCH on $ON > /out; cat /out\n" +
			"FROM scratch\nCOPY --from=build /out /out\n"
		wantLogs(t, build(t, text, map[string]string{"platform": "linux/arm64"}), "for arm64 on amd64")
		wantErr(t, build(t, base+"RUN true\n", map[string]string{"platform": "linux/arm64"}), "cannot execute linux/arm64")
		wantLogs(t, build(t, "FROM "+addr+"/tools/busybox@"+digest+"\nRUN echo loopback-ok\n", nil), "loopback-ok")
	})
}

// baseRegistry serves an image of the root on a loopback registry.
func baseRegistry(t *testing.T, root string) (addr, digest string) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	addr = strings.TrimPrefix(srv.URL, "http://")
	archive, err := exec.Command("tar", "-C", root, "--owner=0", "--group=0", "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.Env = "linux", "amd64", []string{"ON=amd64", "PATH=/bin"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(addr + "/tools/busybox:x")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return addr, d.String()
}
