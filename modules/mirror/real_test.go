package mirror

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"drydock/modules/artifact"
)

// realSet is the mirrors of the machine the tests run on.
func realSet(t *testing.T) *Set {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves out what needs this machine's mirrors")
	}
	s, err := Discover(context.Background(), Config{}, Host{Environ: os.Environ()}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func realContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestRealDebian goes from apt's configuration to a package by hash.
func TestRealDebian(t *testing.T) {
	s, ctx := realSet(t), realContext(t)
	if _, err := s.Endpoint(Debian); err != nil {
		t.Skipf("this machine has no Debian mirror: %v", err)
	}
	sources, err := s.Debian(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range sources {
		t.Logf("%s: suites %v, signed with %s, public %v", src.Archive, src.Suites, src.Keyring, src.Public)
		for _, suite := range src.Suites {
			ps, err := s.Packages(ctx, src, suite, src.Components[0], "amd64")
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s %s: %d packages", src.Archive, suite, len(ps))
		}
	}
	src := sources[0]
	ps, err := s.Packages(ctx, src, src.Suites[0], "main", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if p.Name != "tzdata" {
			continue
		}
		blob, err := s.Fetch(ctx, Request{Ecosystem: Debian, Path: src.Archive + "/" + p.Filename, SHA256: artifact.Digest("sha256:" + p.SHA256), Size: p.Size})
		if err != nil {
			t.Fatal(err)
		}
		if blob.Material.PURL == "" || blob.Material.Size != p.Size {
			t.Errorf("material %+v", blob.Material)
		}
		return
	}
	t.Error("no tzdata in the archive")
}

// TestRealGo fetches a module and has the checksum database confirm it.
func TestRealGo(t *testing.T) {
	s, ctx := realSet(t), realContext(t)
	if _, err := s.Endpoint(Go); err != nil {
		t.Skipf("this machine has no Go mirror: %v", err)
	}
	blob, err := s.FetchGoModule(ctx, "golang.org/x/sync", "v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	if blob.Material.PURL != "pkg:golang/golang.org/x/sync@v0.1.0" {
		t.Errorf("purl %s", blob.Material.PURL)
	}
	if err := s.VerifyGo(ctx, "golang.org/x/sync", "v0.1.0", "h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="); err == nil {
		t.Error("a wrong hash was confirmed")
	}
}

// TestRealNpm fetches a package's metadata.
func TestRealNpm(t *testing.T) {
	s, ctx := realSet(t), realContext(t)
	e, err := s.Endpoint(Npm)
	if err != nil {
		t.Skipf("this machine has no npm mirror: %v", err)
	}
	if _, err := s.Fetch(ctx, Request{Ecosystem: Npm, Path: "left-pad"}); err != nil {
		t.Fatal(err)
	}
	t.Logf("from %s, public %v", e.Source, e.Public)
}

// TestRealClients lets this machine's own clients work through the gateway, as
// they would in a step.
func TestRealClients(t *testing.T) {
	s := realSet(t)
	g, sock := testGateway(t, s, t.TempDir())
	control := greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN everything"})
	proxy := "http://" + bridge(t, sock, step1)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "http_proxy=" + proxy, "https_proxy=" + proxy,
		"HTTP_PROXY=" + proxy, "HTTPS_PROXY=" + proxy, "GOPROXY=http://mirror.drydock.internal/go", "GOTOOLCHAIN=local",
		"GOFLAGS=-modcacherw", "npm_config_registry=http://mirror.drydock.internal/npm/", "GOMODCACHE=" + t.TempDir(),
	}
	run := func(t *testing.T, args ...string) {
		t.Helper()
		program, err := exec.LookPath(args[0])
		if err != nil {
			t.Skipf("this machine has no %s mirror to try with its own client: no such program", args[0])
		}
		cmd := exec.CommandContext(realContext(t), program, args[1:]...)
		cmd.Env, cmd.Dir = env, t.TempDir()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	t.Run("go", func(t *testing.T) {
		if _, err := s.Endpoint(Go); err != nil {
			t.Skipf("this machine has no Go mirror: %v", err)
		}
		run(t, "go", "mod", "download", "golang.org/x/mod@v0.41.0")
	})
	t.Run("npm", func(t *testing.T) {
		if _, err := s.Endpoint(Npm); err != nil {
			t.Skipf("this machine has no npm mirror: %v", err)
		}
		run(t, "npm", "install", "--no-fund", "@types/ms@2.1.0", "left-pad@1.3.0")
	})
	t.Run("apt", func(t *testing.T) {
		sources, err := s.Debian(realContext(t))
		if err != nil {
			t.Skipf("this machine has no Debian mirror: %v", err)
		}
		root := t.TempDir()
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{"lists/partial", "cache/archives/partial", "etc"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		list := ""
		for _, src := range sources {
			for _, suite := range src.Suites {
				list += "deb [signed-by=" + src.Keyring + "] http://mirror.drydock.internal/debian/" + src.Archive + " " + suite + " main\n"
			}
		}
		if err := os.WriteFile(filepath.Join(root, "sources.list"), []byte(list), 0o644); err != nil {
			t.Fatal(err)
		}
		common := []string{
			"apt-get", "-o", "Dir::Etc::sourcelist=" + root + "/sources.list", "-o", "Dir::Etc::sourceparts=/none",
			"-o", "Dir::State::lists=" + root + "/lists", "-o", "Dir::Cache=" + root + "/cache", "-o", "APT::Sandbox::User=",
			"-o", "APT::Update::Error-Mode=any", "-o", "Dir::Etc::parts=/none", "-o", "Debug::NoLocking=true",
		}
		run(t, append(common, "update")...)
		env = append(env, "LC_ALL=C")
		run(t, append(common, "download", "hello")...)
	})
	if _, err := control.Write([]byte("{\"ok\":true}\n")); err != nil {
		t.Fatal(err)
	}
	_ = control.Close()
	greetBuild(t, sock, "all", step1)
	var got []artifact.Material
	waitFor(t, "the step's materials", func() bool {
		var complete bool
		got, complete = g.Materials("all")
		return complete
	})
	for _, m := range got {
		if m.Digest == "" || m.URL == "" {
			t.Errorf("material %+v", m)
		}
	}
	t.Logf("%d materials, e.g. %+v", len(got), got[:min(1, len(got))])
}

func greetBuild(t *testing.T, sock, build string, steps ...string) {
	t.Helper()
	var list []m
	for _, s := range steps {
		list = append(list, m{"step": s, "name": "RUN " + s[7:9]})
	}
	c := greet(t, sock, m{"kind": "build", "build": build, "steps": list})
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "{\"ok\":true}\n" {
		t.Fatalf("answer %q, %v", line, err)
	}
}
