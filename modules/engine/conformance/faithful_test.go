package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"
)

// Modes are those that were asked for, whatever the engine's umask.
func TestModes(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile("f", "", dagger.DirectoryWithNewFileOpts{Permissions: 0o777}).
			WithNewDirectory("d", dagger.DirectoryWithNewDirectoryOpts{Permissions: 0o777})
		for _, name := range []string{"f", "d"} {
			if mode, err := dir.Stat(name).Permissions(ctx); err != nil || mode != 0o777 {
				t.Errorf("%s has mode %o, %v", name, mode, err)
			}
		}
		out, err := busybox(t, c).WithDirectory("/copied", dir).
			WithExec(sh("touch /made; stat -c %a /copied/f /copied/d /made")).Stdout(ctx)
		if err != nil || out != "777\n777\n644\n" {
			t.Errorf("in a container: %q, %v", out, err)
		}
	})
}

// An owner of what is mounted owns the directory itself too, which keeps its mode.
func TestOwnedMounts(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, box := within(t), busybox(t, c)
		sub := c.Directory().WithNewDirectory("sub", dagger.DirectoryWithNewDirectoryOpts{Permissions: 0o745}).
			WithNewFile("sub/f", "").Directory("sub")
		see := fresh(box)
		for name, ctr := range map[string]*dagger.Container{
			"directory": see.WithMountedDirectory("/m", sub, dagger.ContainerWithMountedDirectoryOpts{Owner: "app:staff"}),
			"cache": see.WithMountedCache("/m", c.CacheVolume("owned "+time.Now().String()),
				dagger.ContainerWithMountedCacheOpts{Source: sub, Owner: "1000:1001"}),
		} {
			if out, err := ctr.WithExec([]string{"stat", "-c", "%a %u:%g", "/m", "/m/f"}).Stdout(ctx); err != nil || out != "745 1000:1001\n644 1000:1001\n" {
				t.Errorf("%s: %q, %v", name, out, err)
			}
		}
		own := box.Rootfs().File("etc/group").Chown("app:staff")
		if out, err := box.WithMountedFile("/g", own).WithExec([]string{"stat", "-c", "%u:%g", "/g"}).Stdout(ctx); err != nil || out != "1000:1001\n" {
			t.Errorf("a file given by name: %q, %v", out, err)
		}
	})
}

// A mount hides the mounts below it, and removing a mounted path leaves nothing.
func TestMountOverMounts(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		one, two := c.Directory().WithNewFile("f", "1"), c.Directory().WithNewFile("g", "2")
		ctr := busybox(t, c).WithMountedDirectory("/m/below", one).WithMountedDirectory("/m", two)
		if got, err := ctr.Mounts(ctx); err != nil || !slices.Equal(got, []string{"/m"}) {
			t.Errorf("mounts %q, %v", got, err)
		}
		gone := busybox(t, c).WithNewFile("/d/f", "below").WithMountedFile("/d/f", c.File("f", "above")).WithoutFile("/d/f")
		if got, err := gone.Directory("/d").Entries(ctx); err != nil || len(got) > 0 {
			t.Errorf("left %q, %v", got, err)
		}
	})
}

// Variables are expanded in the paths of redirected streams.
func TestExpandedStreams(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ctr := busybox(t, c).WithEnvVariable("NAME", "x").WithNewFile("/in-x", "words").
			WithExec([]string{"cat"}, dagger.ContainerWithExecOpts{RedirectStdin: "/in-$NAME", RedirectStdout: "/out-${NAME}", Expand: true})
		if got, err := ctr.File("/out-x").Contents(ctx); err != nil || got != "words" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestLinks(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile("real/f", "text").WithSymlink("real", "link")
		if got, err := c.Directory().WithDirectory("to", dir.Directory("link")).File("to/f").Contents(ctx); err != nil || got != "text" {
			t.Errorf("a directory named by a link: %q, %v", got, err)
		}
		if _, err := dir.WithSymlink("elsewhere", "link").Sync(ctx); err == nil || !strings.Contains(err.Error(), "file exists") {
			t.Errorf("a link in the place of a link: %v", err)
		}
		if _, err := busybox(t, c).WithSymlink("elsewhere", "/bin/sh").Sync(ctx); err == nil || !strings.Contains(err.Error(), "file exists") {
			t.Errorf("a link in the place of one in a container: %v", err)
		}
		if _, err := dir.Directory("real").WithNewDirectory("../out").Sync(ctx); err == nil {
			t.Error("a directory beside its parent")
		}
		if _, err := dir.Stat("").Name(ctx); err == nil {
			t.Error("the status of no path")
		}
	})
}

// Digests are those of Dagger.
func TestKnownDigests(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile("foo.txt", "Hello, World!")
		sub := c.Directory().WithNewDirectory("d", dagger.DirectoryWithNewDirectoryOpts{Permissions: 0o700}).WithNewFile("d/foo.txt", "Hello, World!")
		tests := []struct {
			name string
			ask  func() (string, error)
			want string
		}{
			{"nothing", func() (string, error) { return c.Directory().Digest(ctx) }, "sha256:0e5db88383bce812f795689f5318a2b2f4fde740ef31c2a2365a46368aafddd2"},
			{"directory", func() (string, error) { return dir.Digest(ctx) }, "sha256:48ac4b4b73af8a75a3c77e9dc6211d89321c6ed4f13c6987c6837ac58645bd89"},
			{"file", func() (string, error) { return dir.File("foo.txt").Digest(ctx) }, "sha256:8a887cdd3e476c79e1a14a65a6c401673b56071a24561dadb5e152605e72a613"},
		}
		for _, tc := range tests {
			if got, err := tc.ask(); err != nil || got != tc.want {
				t.Errorf("%s: %s, %v", tc.name, got, err)
			}
		}
		if got, err := sub.Directory("d").Digest(ctx); err != nil || got == tests[1].want {
			t.Errorf("the directory's own mode is not in its digest: %s, %v", got, err)
		}
	})
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, dir := within(t), c.Directory().WithNewDirectory("a/b")
		for path, want := range map[string]string{"/": "/", "a": "a/", "a/b": "b/"} {
			if got, err := dir.Directory(path).Name(ctx); err != nil || got != want {
				t.Errorf("%s is called %q, %v", path, got, err)
			}
		}
		if got, err := dir.Directory("none").Name(ctx); err == nil {
			t.Errorf("what is not there is called %q", got)
		}
	})
}

// What .gitignore files leave out: the nearest one has the last word.
func TestGitIgnore(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile(".gitignore", "*.log\nout/\n").WithNewFile("a.log", "").WithNewFile("b", "").
			WithNewFile("out/c", "").WithNewFile("-sub/.gitignore", "!keep.log\n").WithNewFile("-sub/keep.log", "").WithNewFile("-sub/x[1].log", "")
		want := []string{"-sub/", "-sub/.gitignore", "-sub/keep.log", ".gitignore", "b"}
		for name, got := range map[string]*dagger.Directory{
			"filter":    dir.Filter(dagger.DirectoryFilterOpts{Gitignore: true}),
			"directory": c.Directory().WithDirectory("/", dir, dagger.DirectoryWithDirectoryOpts{Gitignore: true}),
			"container": c.Container().WithDirectory("/to", dir, dagger.ContainerWithDirectoryOpts{Gitignore: true}).Directory("/to"),
		} {
			list, err := got.Glob(ctx, "**")
			slices.Sort(list)
			if err != nil || !slices.Equal(list, want) {
				t.Errorf("%s: %q, %v", name, list, err)
			}
		}
		root := t.TempDir()
		for _, name := range []string{".git/", "sub/", "out/"} {
			if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		write(t, filepath.Join(root, ".gitignore"), "*.log\nout/\n", 0o644)
		write(t, filepath.Join(root, "sub/a.log"), "", 0o644)
		write(t, filepath.Join(root, "sub/b"), "", 0o644)
		git := dagger.HostDirectoryOpts{Gitignore: true}
		if list, err := c.Host().Directory(filepath.Join(root, "sub"), git).Entries(ctx); err != nil || !slices.Equal(list, []string{"b"}) {
			t.Errorf("below the repository's root: %q, %v", list, err)
		}
		if list, err := c.Host().Directory(filepath.Join(root, "out"), git).Entries(ctx); err == nil {
			t.Errorf("an ignored directory has %q", list)
		}
	})
}

// The secrets of a build are taken out of what its container prints.
func TestBuildSecretsHidden(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		text := "FROM scratch\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n" +
			"RUN --mount=type=secret,id=key busybox cat /run/secrets/key > /kept\n"
		ctr := buildContext(t, c, text).DockerBuild(dagger.DirectoryDockerBuildOpts{Secrets: []*dagger.Secret{c.SetSecret("key", "barnacle")}})
		out, err := ctr.WithExec([]string{"/bin/busybox", "cat", "/kept"}).Stdout(ctx)
		if err != nil || out != "***" {
			t.Errorf("got %q, %v", out, err)
		}
		if out, err := ctr.WithExec([]string{"/bin/busybox", "ls", "-A", "/"}).Stdout(ctx); err != nil || strings.Contains(out, "drydock") {
			t.Errorf("the root has %q, %v", out, err)
		}
	})
}

// A service that has the ports of the gateway itself, asked by a client that
// takes every address to its proxy.
func TestServiceOnPort80(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		svc := busybox(t, c).WithNewFile("/www/page", "low").WithExposedPort(80).
			AsService(dagger.ContainerAsServiceOpts{Args: []string{"httpd", "-f", "-p", "80", "-h", "/www"}})
		client := fresh(busybox(t, c)).WithServiceBinding("web", svc)
		for name, words := range map[string][]string{
			"directly":       fetch("http://web/page"),
			"as for a proxy": {"wget", "-q", "-O", "-", "http://web/page"},
		} {
			if got, err := client.WithExec(words).Stdout(ctx); err != nil || got != "low" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
	})
}

// How a service fails is not how the step that wants it does.
func TestServiceExits(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		bad := fresh(busybox(t, c)).WithExposedPort(8080).
			AsService(dagger.ContainerAsServiceOpts{Args: sh("echo out; echo bad >&2; exit 42")})
		_, err := bad.Start(ctx)
		var failed *dagger.ExecError
		if !errors.As(err, &failed) || failed.ExitCode != 42 || failed.Stdout != "out\n" || failed.Stderr != "bad\n" || len(failed.Cmd) != 3 {
			t.Errorf("started: %v %+v", err, failed)
		}
		_, err = busybox(t, c).WithServiceBinding("www", bad).WithExec([]string{"true"}).Sync(ctx)
		if err == nil || !strings.Contains(err.Error(), "www") || !strings.Contains(err.Error(), "exit code: 42") {
			t.Errorf("a step with the service: %v", err)
		}
		if !errors.As(err, &failed) || failed.ExitCode != 42 || failed.Stderr != "bad\n" {
			t.Errorf("a step with the service: %+v", failed)
		}
		short := fresh(busybox(t, c)).AsService(dagger.ContainerAsServiceOpts{Args: sh("sleep 1; exit 43")})
		begun := time.Now()
		_, err = fresh(busybox(t, c)).WithServiceBinding("short", short).WithExec([]string{"sleep", "30"}).Sync(ctx)
		if err == nil || !strings.Contains(err.Error(), "exited") || !strings.Contains(err.Error(), "43") || time.Since(begun) > 20*time.Second {
			t.Errorf("a step whose service ends: %v after %s", err, time.Since(begun))
		}
	})
}
