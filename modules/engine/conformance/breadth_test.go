package conformance

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dagger.io/dagger"
	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"
)

func TestStat(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile("sub/f", "text", dagger.DirectoryWithNewFileOpts{Permissions: 0o640}).WithSymlink("sub/f", "link")
		ctr := c.Container().WithRootfs(dir).WithWorkdir("/sub")
		tests := []struct {
			name string
			stat *dagger.Stat
			kind dagger.FileType
			base string
			size int
			mode int
		}{
			{"file", dir.Stat("sub/f"), dagger.FileTypeRegular, "f", 4, 0o640},
			{"directory", dir.Stat("sub"), dagger.FileTypeDirectory, "sub", -1, 0o755},
			{"link, not followed", dir.Stat("link", dagger.DirectoryStatOpts{DoNotFollowSymlinks: true}), dagger.FileTypeSymlink, "link", -1, -1},
			{"of a container", ctr.Stat("f"), dagger.FileTypeRegular, "f", 4, 0o640},
			{"of a file", dir.File("sub/f").Stat(), dagger.FileTypeRegular, "f", 4, 0o640},
		}
		for _, tc := range tests {
			t.Run(tc.name, func(t *testing.T) {
				if kind, err := tc.stat.FileType(ctx); err != nil || kind != tc.kind {
					t.Errorf("type %q, %v", kind, err)
				}
				if name, err := tc.stat.Name(ctx); err != nil || name != tc.base {
					t.Errorf("name %q, %v", name, err)
				}
				if size, err := tc.stat.Size(ctx); tc.size >= 0 && (err != nil || size != tc.size) {
					t.Errorf("size %d, %v", size, err)
				}
				if mode, err := tc.stat.Permissions(ctx); tc.mode >= 0 && (err != nil || mode != tc.mode) {
					t.Errorf("permissions %o, %v", mode, err)
				}
			})
		}
		if _, err := dir.Stat("absent").Name(ctx); err == nil {
			t.Error("what is not there has a status")
		}
	})
}

func TestDiffAndFindUp(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		lower := c.Directory().WithNewFile("same", "1").WithNewFile("changed", "old").WithNewFile("go.mod", "")
		upper := lower.WithNewFile("changed", "new").WithNewFile("a/b/more", "m")
		diff := lower.Diff(upper)
		if got, err := diff.Glob(ctx, "**"); err != nil || strings.Contains(strings.Join(got, " "), "same") {
			t.Errorf("the difference has %q, %v", got, err)
		}
		if got, err := diff.File("changed").Contents(ctx); err != nil || got != "new" {
			t.Errorf("changed: %q, %v", got, err)
		}
		if got, err := upper.FindUp(ctx, "go.mod", "a/b"); err != nil || got != "go.mod" {
			t.Errorf("found %q, %v", got, err)
		}
		if got, err := upper.FindUp(ctx, "absent", "."); err == nil && got != "" {
			t.Errorf("found %q", got)
		}
		if _, err := lower.WithError("a reef").Sync(ctx); err == nil || !strings.Contains(err.Error(), "a reef") {
			t.Errorf("an error of our own: %v", err)
		}
	})
}

func TestReplaced(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		f := c.File("f", "one\ntwo\none\n")
		if got, err := f.WithReplaced("two", "2").Contents(ctx); err != nil || got != "one\n2\none\n" {
			t.Errorf("once: %q, %v", got, err)
		}
		if got, err := f.WithReplaced("one", "1", dagger.FileWithReplacedOpts{All: true}).Contents(ctx); err != nil || got != "1\ntwo\n1\n" {
			t.Errorf("all: %q, %v", got, err)
		}
		if got, err := f.WithReplaced("one", "1", dagger.FileWithReplacedOpts{FirstFrom: 2}).Contents(ctx); err != nil || got != "one\ntwo\n1\n" {
			t.Errorf("from a line on: %q, %v", got, err)
		}
		for _, search := range []string{"one", "three"} {
			if _, err := f.WithReplaced(search, "x").Contents(ctx); err == nil {
				t.Errorf("%s: no error", search)
			}
		}
	})
}

func TestHealthcheckConfig(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ctr := c.Container().WithDockerHealthcheck([]string{"probe", "-v"}, dagger.ContainerWithDockerHealthcheckOpts{Interval: "5s", Retries: 4})
		h := ctr.DockerHealthcheck()
		if args, err := h.Args(ctx); err != nil || join(args) != "probe -v" {
			t.Errorf("arguments %q, %v", args, err)
		}
		if n, err := h.Retries(ctx); err != nil || n != 4 {
			t.Errorf("retries %d, %v", n, err)
		}
		if d, err := h.Interval(ctx); err != nil || d != "5s" {
			t.Errorf("interval %q, %v", d, err)
		}
		if d, err := h.Timeout(ctx); err != nil || d != "0s" {
			t.Errorf("a time that was not given: %q, %v", d, err)
		}
		if _, err := c.Container().WithDockerHealthcheck([]string{"x"}, dagger.ContainerWithDockerHealthcheckOpts{Interval: "soon"}).Sync(ctx); err == nil {
			t.Error("an interval that is none")
		}
	})
}

func TestEnvSecret(t *testing.T) {
	t.Setenv("CONFORMANCE_SECRET", "of the environment")
	each(t, func(t *testing.T, c *dagger.Client) {
		if !isEmbedded(t) {
			t.Skip("a Dagger Engine's session has the environment it was started with")
		}
		ctx := within(t)
		s := c.Secret("env://CONFORMANCE_SECRET")
		if got, err := s.Plaintext(ctx); err != nil || got != "of the environment" {
			t.Errorf("got %q, %v", got, err)
		}
		got, err := fresh(busybox(t, c)).WithSecretVariable("S", s).WithExec(sh("echo $S | wc -c; echo $S")).Stdout(ctx)
		if err != nil || got != "19\n***\n" {
			t.Errorf("got %q, %v", got, err)
		}
		id, err := s.ID(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.LoadSecretFromID(dagger.SecretID(id)).Plaintext(ctx); err != nil || got != "of the environment" {
			t.Errorf("by id: %q, %v", got, err)
		}
		if _, err := c.Secret("env://NO_SUCH_VARIABLE").Plaintext(ctx); err == nil {
			t.Error("a variable that is not set")
		}
	})
}

// A socket of this machine is seen in a step, and what answers on it answers.
func TestUnixSocket(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir, err := os.MkdirTemp("", "sock")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctr := fresh(busybox(t, c)).WithUnixSocket("/run/s", c.Host().UnixSocket(filepath.Join(dir, "s"))).
			WithExec(sh("test -S /run/s && echo there"))
		if got, err := ctr.Stdout(ctx); err != nil || got != "there\n" {
			t.Errorf("got %q, %v", got, err)
		}
		if ok, err := ctr.WithoutUnixSocket("/run/s").Rootfs().Exists(ctx, "run/s", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeRegularType}); err != nil || ok {
			t.Errorf("the socket is part of the root file system: %v, %v", ok, err)
		}
		if _, err := c.Host().UnixSocket(filepath.Join(dir, "absent")).ID(ctx); err == nil && isEmbedded(t) {
			t.Error("a socket that is not there")
		}
	})
}

func TestPublish(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		registry := olareg.New(config.Config{Storage: config.ConfigStorage{StoreType: config.StoreMem}})
		asked := false
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			asked = asked || user == "sailor"
			if strings.HasPrefix(r.URL.Path, "/v2/") && (user != "sailor" || password != "hush hush") {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, "{}")
				return
			}
			registry.ServeHTTP(w, r)
		}))
		defer server.Close()
		host := strings.TrimPrefix(server.URL, "http://")
		image := c.Container().WithRootfs(c.Directory().WithNewFile("f", "published")).WithLabel("l", "v")
		if _, err := image.Publish(ctx, host+"/app:1"); err == nil {
			t.Error("published without a password")
		}
		login := image.WithRegistryAuth(host, "sailor", c.SetSecret("registry", "hush hush"))
		ref, err := login.Publish(ctx, host+"/app:1")
		if err != nil {
			t.Fatal(err)
		}
		_, digest, ok := strings.Cut(ref, "@")
		if !ok || !asked {
			t.Fatalf("published as %q", ref)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v2/app/manifests/"+digest, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("sailor", "hush hush")
		req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the registry has it: %s", resp.Status)
		}
		if _, err := login.WithoutRegistryAuth(host).Publish(ctx, host+"/app:2"); err == nil {
			t.Error("published after the password was taken away")
		}
		many, err := c.Container().WithRegistryAuth(host, "sailor", c.SetSecret("registry", "hush hush")).Publish(ctx, host+"/many:1", dagger.ContainerPublishOpts{
			PlatformVariants: []*dagger.Container{
				c.Container(dagger.ContainerOpts{Platform: "linux/amd64"}).WithRootfs(c.Directory().WithNewFile("f", "a")),
				c.Container(dagger.ContainerOpts{Platform: "linux/arm64"}).WithRootfs(c.Directory().WithNewFile("f", "b")),
			},
		})
		if err != nil || !strings.Contains(many, "@sha256:") {
			t.Errorf("several platforms: %q, %v", many, err)
		}
		for _, bad := range []string{"app", "UPPER/case", host + "/"} {
			if _, err := image.Publish(ctx, bad); err == nil && isEmbedded(t) {
				t.Errorf("%q was published", bad)
			}
		}
	})
}

// What is not in the part says so by name, and how to have it.
func TestNotHere(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		if !isEmbedded(t) {
			t.Skip("a Dagger Engine has it")
		}
		ctx := within(t)
		for field, ask := range map[string]func() error{
			"Container.terminal": func() error { _, err := c.Container().Terminal().ID(ctx); return err },
			"Query.http":         func() error { _, err := c.HTTP("https://elsewhere.example").Contents(ctx); return err },
			"Query.git":          func() error { _, err := c.Git("https://elsewhere.example").Head().Commit(ctx); return err },
			"insecureRootCapabilities": func() error {
				_, err := c.Container().WithExec([]string{"x"}, dagger.ContainerWithExecOpts{InsecureRootCapabilities: true}).Sync(ctx)
				return err
			},
			"Host.service": func() error {
				_, err := c.Host().Service([]dagger.PortForward{{Backend: 80}}, dagger.HostServiceOpts{Host: "elsewhere.example"}).Hostname(ctx)
				return err
			},
		} {
			if err := ask(); err == nil || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), "Dagger Engine") {
				t.Errorf("%s: %v", field, err)
			}
		}
	})
}
