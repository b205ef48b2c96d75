package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"
)

func TestContainerFiles(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := busybox(t, c)
		dir := c.Directory().WithNewFile("a", "A").WithNewFile("sub/b", "B")
		stat := func(p string) []string { return []string{"stat", "-c", "%u:%g %a", p} }
		tests := []struct {
			name string
			ctr  *dagger.Container
			want string
		}{
			{"new file", box.WithNewFile("/x/y", "text").WithExec([]string{"cat", "/x/y"}), "text"},
			{"new file, mode and owner", box.WithNewFile("/f", "", dagger.ContainerWithNewFileOpts{Permissions: 0o600, Owner: "app:staff"}).
				WithExec(stat("/f")), "1000:1001 600\n"},
			{"relative path", box.WithWorkdir("/w").WithNewFile("f", "rel").WithExec([]string{"cat", "/w/f"}), "rel"},
			{"file", box.WithFile("/f", dir.File("sub/b"), dagger.ContainerWithFileOpts{Permissions: 0o640, Owner: "5"}).WithExec(stat("/f")), "5:5 640\n"},
			{"directory", box.WithDirectory("/d", dir).WithExec([]string{"cat", "/d/sub/b"}), "B"},
			{"directory, owner", box.WithDirectory("/d", dir, dagger.ContainerWithDirectoryOpts{Owner: "7:8"}).
				WithExec(stat("/d/sub/b")), "7:8 644\n"},
			{"directory, exclude", box.WithDirectory("/d", dir, dagger.ContainerWithDirectoryOpts{Exclude: []string{"sub"}}).
				WithExec([]string{"ls", "/d"}), "a\n"},
			{"without file", box.WithNewFile("/d/f", "").WithoutFile("/d/f").WithExec([]string{"ls", "/d"}), ""},
			{"rootfs and back", c.Container().WithRootfs(box.WithNewFile("/f", "kept").Rootfs()).WithExec([]string{"cat", "/f"}), "kept"},
			{"subdirectory as root", c.Container().WithRootfs(c.Directory().WithDirectory("deep/root", box.Rootfs()).Directory("deep/root")).
				WithExec([]string{"cat", "/etc/group"}), "root:x:0:\nstaff:x:1001:\n"},
			{"expanded path", box.WithEnvVariable("D", "dir").WithNewFile("/$D/f", "exp", dagger.ContainerWithNewFileOpts{Expand: true}).
				WithExec([]string{"cat", "/dir/f"}), "exp"},
		}
		for _, tc := range tests {
			t.Run(tc.name, func(t *testing.T) {
				if got, err := tc.ctr.Stdout(within(t)); err != nil || got != tc.want {
					t.Errorf("got %q, %v; want %q", got, err, tc.want)
				}
			})
		}
	})
}

func TestMounts(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, box := within(t), busybox(t, c)
		dir := c.Directory().WithNewFile("f", "mounted")
		ctr := box.WithMountedDirectory("/m", dir).WithExec(sh("cat /m/f > /seen; echo new > /m/g"))
		for path, want := range map[string]string{"/seen": "mounted", "/m/f": "mounted", "/m/g": "new\n"} {
			if got, err := ctr.File(path).Contents(ctx); err != nil || got != want {
				t.Errorf("%s: %q, %v", path, got, err)
			}
		}
		if got, err := ctr.Directory("/m").Entries(ctx); err != nil || !slices.Equal(got, []string{"f", "g"}) {
			t.Errorf("the mount's entries: %q, %v", got, err)
		}
		if got, err := ctr.Rootfs().Glob(ctx, "m/*"); err != nil || len(got) > 0 {
			t.Errorf("the mount is part of the root file system: %q, %v", got, err)
		}
		if got, err := ctr.Mounts(ctx); err != nil || !slices.Equal(got, []string{"/m"}) {
			t.Errorf("mounts: %q, %v", got, err)
		}
		if ok, err := ctr.WithoutMount("/m").Exists(ctx, "/m/f"); err != nil || ok {
			t.Errorf("a file of a mount that is gone: %v, %v", ok, err)
		}
		readonly := box.WithMountedDirectory("/m", dir, dagger.ContainerWithMountedDirectoryOpts{ReadOnly: true}).
			WithExec(sh("echo x > /m/f"), dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
		if code, err := readonly.ExitCode(ctx); err != nil || code == 0 {
			t.Errorf("writing to a read-only mount: code %d, %v", code, err)
		}
		owned := box.WithMountedDirectory("/m", dir, dagger.ContainerWithMountedDirectoryOpts{Owner: "app"}).WithExec([]string{"stat", "-c", "%u", "/m/f"})
		if got, err := owned.Stdout(ctx); err != nil || got != "1000\n" {
			t.Errorf("owner of a mounted file: %q, %v", got, err)
		}
		temp := box.WithMountedTemp("/t").WithExec(sh("echo x > /t/f")).WithExec([]string{"ls", "/t"})
		if got, err := temp.Stdout(ctx); err != nil || got != "" {
			t.Errorf("a temporary directory kept %q, %v", got, err)
		}
		if _, err := temp.File("/t/f").Contents(ctx); err == nil {
			t.Error("a file of a temporary mount could be read")
		}
	})
}

func TestCacheVolume(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, box := within(t), busybox(t, c)
		volume := c.CacheVolume(fmt.Sprintf("conformance-%s-%d", t.Name(), time.Now().UnixNano())) // an engine may keep those of earlier runs
		seed := c.Directory().WithNewFile("seed", "s")
		first := box.WithMountedCache("/c", volume, dagger.ContainerWithMountedCacheOpts{Source: seed}).WithExec(sh("cat /c/seed; echo one >> /c/log"))
		if got, err := first.Stdout(ctx); err != nil || got != "s" {
			t.Fatalf("first use: %q, %v", got, err)
		}
		type opts = dagger.ContainerWithMountedCacheOpts
		for _, use := range []struct {
			name string
			opts opts
			want string
		}{
			{"the same", opts{Source: seed}, "one\n"},
			{"without a source", opts{}, ""},
			{"locked", opts{Source: seed, Sharing: dagger.CacheSharingModeLocked}, ""},
			{"locked again", opts{Source: seed, Sharing: dagger.CacheSharingModeLocked}, "locked\n"},
			{"private", opts{Source: seed, Sharing: dagger.CacheSharingModePrivate}, ""},
			{"owned", opts{Source: seed, Owner: "app"}, ""},
		} {
			got, err := fresh(box).WithMountedCache("/c", volume, use.opts).
				WithExec(sh("cat /c/log || true; echo " + strings.Fields(use.name)[0] + " >> /c/log")).Stdout(ctx)
			if err != nil || got != use.want {
				t.Errorf("%s: %q, %v", use.name, got, err)
			}
		}
	})
}

func TestSecrets(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, box := within(t), busybox(t, c)
		s := c.SetSecret("token", "hush hush")
		ctr := box.WithSecretVariable("TOKEN", s).WithMountedSecret("/run/token", s, dagger.ContainerWithMountedSecretOpts{Owner: "app", Mode: 0o440}).
			WithExec(sh(`test "$TOKEN" = "hush hush" && test "$(cat /run/token)" = "hush hush" && stat -c "%u %a" /run/token`))
		if got, err := ctr.Stdout(ctx); err != nil || got != "1000 440\n" {
			t.Errorf("got %q, %v", got, err)
		}
		if ok, err := ctr.Rootfs().Exists(ctx, "run/token"); err != nil {
			t.Error(err)
		} else if ok {
			if text, _ := ctr.Rootfs().File("run/token").Contents(ctx); text != "" {
				t.Errorf("the root file system has the secret: %q", text)
			}
		}
		if got, err := s.Plaintext(ctx); err != nil || got != "hush hush" {
			t.Errorf("plaintext %q, %v", got, err)
		}
		if got, err := s.Name(ctx); err != nil || got != "token" {
			t.Errorf("name %q, %v", got, err)
		}
		if env, err := ctr.EnvVariable(ctx, "TOKEN"); err != nil || env != "" {
			t.Errorf("the secret variable is an ordinary one: %q, %v", env, err)
		}
	})
}

func TestConfig(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		ctr := c.Container().WithEnvVariable("B", "2").WithEnvVariable("A", "1").WithEnvVariable("B", "3").
			WithLabel("l", "v").WithLabel("gone", "").WithoutLabel("gone").
			WithUser("u:g").WithWorkdir("/w").WithEntrypoint([]string{"e"}).WithDefaultArgs([]string{"d"}).
			WithExposedPort(80).WithExposedPort(53, dagger.ContainerWithExposedPortOpts{Protocol: dagger.NetworkProtocolUdp})
		text := func(name string, got string, err error, want string) {
			t.Helper()
			if err != nil || got != want {
				t.Errorf("%s: %q, %v; want %q", name, got, err, want)
			}
		}
		v, err := ctr.EnvVariable(ctx, "B")
		text("variable", v, err, "3")
		v, err = ctr.EnvVariable(ctx, "NONE")
		text("no variable", v, err, "")
		v, err = ctr.User(ctx)
		text("user", v, err, "u:g")
		v, err = ctr.Workdir(ctx)
		text("workdir", v, err, "/w")
		v, err = ctr.Label(ctx, "l")
		text("label", v, err, "v")
		args, err := ctr.Entrypoint(ctx)
		text("entrypoint", join(args), err, "e")
		args, err = ctr.DefaultArgs(ctx)
		text("default arguments", join(args), err, "d")
		args, err = ctr.WithEntrypoint([]string{"f"}).DefaultArgs(ctx)
		text("default arguments after an entrypoint", join(args), err, "")
		vars, err := ctr.EnvVariables(ctx)
		if err != nil || len(vars) != 2 {
			t.Fatalf("variables: %v, %v", vars, err)
		}
		name, err := vars[0].Name(ctx)
		text("first variable", name, err, "B")
		labels, err := ctr.Labels(ctx)
		if err != nil || len(labels) != 1 {
			t.Errorf("labels: %v, %v", labels, err)
		}
		ports, err := ctr.ExposedPorts(ctx)
		if err != nil || len(ports) != 2 {
			t.Fatalf("ports: %v, %v", ports, err)
		}
		ports, err = ctr.WithoutExposedPort(80).ExposedPorts(ctx)
		if err != nil || len(ports) != 1 {
			t.Fatalf("ports: %v, %v", ports, err)
		}
		port, err := ports[0].Port(ctx)
		if err != nil || port != 53 {
			t.Errorf("port %d, %v", port, err)
		}
		platform, err := c.Container(dagger.ContainerOpts{Platform: "linux/arm64"}).Platform(ctx)
		text("platform", string(platform), err, "linux/arm64")
	})
}

func join(l []string) string {
	out := ""
	for i, s := range l {
		if i > 0 {
			out += " "
		}
		out += s
	}
	return out
}
