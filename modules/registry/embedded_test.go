package registry

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"drydock/modules/artifact"
)

func TestStateOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	e := openEmbedded(t, dir)
	r := openRepo(t, newClient(t, Options{Embedded: e}), Location{Name: "staging"}, "web")
	d, referrers, tags := furnish(t, r)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Has(t.Context(), d)
	wantError(t, err, artifact.KindFault)
	again := openRepo(t, newClient(t, Options{Embedded: openEmbedded(t, dir)}), Location{Name: "staging"}, "web")
	checkFurnished(t, again, d, referrers, tags)
	if _, err := os.Stat(filepath.Join(dir, servingFile)); err != nil {
		t.Error(err)
	}
}

func TestSecondProcessUsesTheFirst(t *testing.T) {
	dir := t.TempDir()
	first := openEmbedded(t, dir)
	second := openEmbedded(t, dir)
	if second.holder != nil {
		t.Fatal("two holders")
	}
	l := Location{Name: "quarantine"}
	guest := openRepo(t, newClient(t, Options{Embedded: second}), l, "web")
	d, referrers, tags := furnish(t, guest)
	checkFurnished(t, openRepo(t, newClient(t, Options{Embedded: first}), l, "web"), d, referrers, tags)
	// The first ends; the second goes on by itself.
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	checkFurnished(t, guest, d, referrers, tags)
	pushed(t, guest)
	if second.holder == nil {
		t.Error("nobody holds the folder")
	}
}

// TestAnotherHolder: the process that served ends and a third one takes over
// before the second asks again.
func TestAnotherHolder(t *testing.T) {
	dir := t.TempDir()
	first := openEmbedded(t, dir)
	second := openEmbedded(t, dir)
	l := Location{Name: "quarantine"}
	guest := openRepo(t, newClient(t, Options{Embedded: second}), l, "web")
	d, referrers, tags := furnish(t, guest)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third := openEmbedded(t, dir)
	if third.holder == nil {
		t.Fatal("the third does not hold the folder")
	}
	pushed(t, guest)
	checkFurnished(t, guest, d, referrers, tags)
	if second.holder != nil {
		t.Error("two holders")
	}
}

// A client whose upload was with a process that ends begins it anew with the next.
func TestUploadOutlivesTheHolder(t *testing.T) {
	dir := t.TempDir()
	first := openEmbedded(t, dir)
	second := openEmbedded(t, dir)
	repo, err := name.NewRepository(serve(t, second, ServeOptions{})+"/quarantine/web", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Location("quarantine"); err != nil {
		t.Fatal(err)
	}
	layer := static.NewLayer([]byte("a layer"), types.OCILayer)
	between := &afterFirst{method: http.MethodPost, do: func() {
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}}
	if err := remote.WriteLayer(repo, layer, remote.WithContext(t.Context()), remote.WithTransport(between),
		remote.WithRetryBackoff(remote.Backoff{Duration: time.Millisecond, Factor: 2, Steps: 3})); err != nil {
		t.Error(err)
	}
	if between.asked != 2 || second.holder == nil {
		t.Errorf("the upload was begun %d times; the second holds the folder: %v", between.asked, second.holder != nil)
	}
}

// afterFirst does something after the first request of a method was answered.
type afterFirst struct {
	method string
	do     func()
	asked  int
}

// RoundTrip implements http.RoundTripper.
func (a *afterFirst) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if r.Method == a.method {
		if a.asked++; a.asked == 1 {
			a.do()
		}
	}
	return resp, err
}

func TestServingIsGuarded(t *testing.T) {
	dir := t.TempDir()
	e := openEmbedded(t, dir)
	fi, err := os.Stat(filepath.Join(dir, servingFile))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	resp, err := http.Get("http://" + e.holder.tcp.Addr().String() + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("without the token: %s", resp.Status)
	}
}

func TestStaleServingFileIsNotBelieved(t *testing.T) {
	impostor, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = impostor.Close() }()
	go func() { _ = http.Serve(impostor, http.NotFoundHandler()) }()
	for name, text := range map[string]string{
		"nobody listens": `{"version":1,"pid":1,"address":"127.0.0.1:1","token":"x"}`,
		"another does":   `{"version":1,"pid":1,"address":"` + impostor.Addr().String() + `","token":"x"}`,
		"off the host":   `{"version":1,"pid":1,"address":"192.0.2.1:80","token":"x"}`,
		"newer":          `{"version":2}`,
		"not JSON":       `{`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, servingFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := findServing(t.Context(), dir); err == nil {
				t.Fatal("it is believed")
			}
			// Whoever wrote it is gone, the lock is free: we hold the folder.
			if e := openEmbedded(t, dir); e.holder == nil {
				t.Error("not held")
			}
		})
	}
}

func TestHeldButSilent(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a process that does not answer")
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := lockExclusive(f); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir)
	wantError(t, err, artifact.KindFault, dir, "another process")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, dir); artifact.ExitCode(err) != artifact.ExitInterrupted {
		t.Error(err)
	}
}

// TestMain lets the test binary be the other process.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DRYDOCK_TEST_HOLD"); dir != "" {
		_, err := Open(context.Background(), dir)
		if err == nil {
			_, _ = io.WriteString(os.Stdout, "open\n")
			select {}
		}
		_, _ = io.WriteString(os.Stderr, err.Error())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestHolderIsKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "DRYDOCK_TEST_HOLD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	e := openEmbedded(t, dir)
	if e.holder != nil {
		t.Fatal("the other process does not hold the folder")
	}
	r := openRepo(t, newClient(t, Options{Embedded: e}), Location{Name: "quarantine"}, "web")
	d := pushed(t, r)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if has, err := r.Has(t.Context(), d); err != nil || !has {
		t.Errorf("after the kill: %v, %v", has, err)
	}
	// What a killed upload leaves is swept away before the next.
	left := filepath.Join(dir, "quarantine", "web", "_uploads", "upload.1")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	pushed(t, openRepo(t, newClient(t, Options{Embedded: openEmbedded(t, dir)}), Location{Name: "quarantine"}, "web"))
	if _, err := os.Stat(left); err == nil {
		t.Error("a dead upload stays")
	}
}

func TestDamagedStateIsLeftAlone(t *testing.T) {
	for name, damage := range map[string]func(repo string) (path, text string){
		"index is not JSON": func(repo string) (string, string) {
			return filepath.Join(repo, "index.json"), `{"schemaVersion":2,"mani`
		},
		"index is empty":   func(repo string) (string, string) { return filepath.Join(repo, "index.json"), "" },
		"index is another": func(repo string) (string, string) { return filepath.Join(repo, "index.json"), `{}` },
		"layout is not":    func(repo string) (string, string) { return filepath.Join(repo, "oci-layout"), "x" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e := openEmbedded(t, dir)
			d := pushed(t, openRepo(t, newClient(t, Options{Embedded: e}), Location{Name: "staging"}, "web"))
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			path, text := damage(filepath.Join(dir, "staging", "web"))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := openRepo(t, newClient(t, Options{Embedded: openEmbedded(t, dir)}), Location{Name: "staging"}, "web")
			_, err := r.Manifest(t.Context(), d)
			wantError(t, err, artifact.KindFault, path, "damaged")
			layout, other, _ := imageLayout(t)
			_, err = r.PushLayout(t.Context(), layout, other)
			wantError(t, err, artifact.KindFault, path, "damaged")
			if got, err := os.ReadFile(path); err != nil || string(got) != text {
				t.Errorf("the file is now %q, %v", got, err)
			}
			// The rest of the stage works.
			pushed(t, openRepo(t, r.client, Location{Name: "staging"}, "other"))
		})
	}
	t.Run("index is lost", func(t *testing.T) {
		dir := t.TempDir()
		e := openEmbedded(t, dir)
		r := openRepo(t, newClient(t, Options{Embedded: e}), Location{Name: "staging"}, "web")
		d := pushed(t, r)
		if err := os.Remove(filepath.Join(dir, "staging", "web", "index.json")); err != nil {
			t.Fatal(err)
		}
		_, err := r.Manifest(t.Context(), d)
		wantError(t, err, artifact.KindFault, "index.json", "damaged")
	})
}

func TestServeRefusesOpenAddresses(t *testing.T) {
	e := openEmbedded(t)
	for _, o := range []ServeOptions{
		{Address: "0.0.0.0:0"}, {Address: ":0"}, {Address: "[::]:0"}, {Address: "192.0.2.1:5000"},
		{Address: "0.0.0.0:0", CertFile: "c", KeyFile: "k"}, {Address: "0.0.0.0:0", Username: "u", Password: "p"},
		{Address: "127.0.0.1:0", CertFile: "c"}, {Address: "127.0.0.1:0", Username: "u"}, {Address: "5000"},
		{Address: "127.0.0.1:0", CertFile: "none", KeyFile: "none"},
	} {
		err := e.Serve(t.Context(), o)
		if err == nil {
			t.Errorf("%+v is served", o)
			continue
		}
		wantError(t, err, artifact.KindUsage, o.Address)
	}
}

// serve shows e until the test ends.
func serve(t *testing.T, e *Embedded, o ServeOptions) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	o.Ready = func(a net.Addr) { ready <- a }
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	go func() { done <- e.Serve(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case a := <-ready:
		return a.String()
	case err := <-done:
		done <- nil
		t.Fatal(err)
		return ""
	}
}

func TestServeToOtherClients(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed")
	}
	dir := t.TempDir()
	e := openEmbedded(t, dir)
	r := openRepo(t, newClient(t, Options{Embedded: e}), Location{Name: "quarantine"}, "apps/web")
	m, err := r.Manifest(t.Context(), pushed(t, r))
	if err != nil {
		t.Fatal(err)
	}
	d := m.Children[0].Digest // this skopeo writes an index anew, and then its digest changes
	// From a second process's view, too: served by one that does not hold the folder.
	for name, by := range map[string]*Embedded{"holder": e, "guest": openEmbedded(t, dir)} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, by, ServeOptions{})
			run := func(args ...string) {
				t.Helper()
				var out bytes.Buffer
				cmd := exec.CommandContext(t.Context(), skopeo, args...)
				cmd.Stdout, cmd.Stderr = &out, &out
				cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "NO_PROXY=127.0.0.1")
				if err := cmd.Run(); err != nil {
					t.Fatalf("skopeo %s: %v\n%s", args, err, out.String())
				}
			}
			from := "docker://" + addr + "/quarantine/apps/web@" + string(d)
			run("inspect", "--raw", "--tls-verify=false", from)
			run("copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", "--insecure-policy", from,
				"docker://"+addr+"/quarantine/copied/"+name+":latest")
			copied := openRepo(t, r.client, Location{Name: "quarantine"}, "copied/"+name)
			if has, err := copied.Has(t.Context(), d); err != nil || !has {
				t.Errorf("%v, %v", has, err)
			}
		})
	}
	t.Run("no such stage", func(t *testing.T) {
		resp, err := http.Get("http://" + serve(t, e, ServeOptions{}) + "/v2/secret/app/tags/list")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if _, err := os.Stat(filepath.Join(dir, "secret")); resp.StatusCode != http.StatusNotFound || err == nil {
			t.Errorf("%s, made: %v", resp.Status, err == nil)
		}
	})
}

func TestServeOneStageWithAPassword(t *testing.T) {
	e := openEmbedded(t)
	l := Location{Name: "bases"}
	d := pushed(t, openRepo(t, newClient(t, Options{Embedded: e}), l, "debian"))
	addr := serve(t, e, ServeOptions{Stage: "bases", ReadOnly: true, Username: "ci", Password: "s3cret"})
	remote := Location{Name: "x", Base: addr}
	env := []string{"DRYDOCK_REGISTRY_USER=ci", "DRYDOCK_REGISTRY_PASSWORD=s3cret"}
	r := openRepo(t, newClient(t, Options{Environ: env}), remote, "debian")
	if has, err := r.Has(t.Context(), d); err != nil || !has {
		t.Errorf("%v, %v", has, err)
	}
	wantError(t, r.Tag(t.Context(), "latest", d), artifact.KindFault, "403")
	_, err := openRepo(t, newClient(t, Options{}), remote, "debian").Has(t.Context(), d)
	wantError(t, err, artifact.KindFault, "401")
}

func TestFullDiskIsNamed(t *testing.T) {
	// olareg answers 500 without a word; what it logged must reach the user.
	dir := t.TempDir()
	r := openRepo(t, newClient(t, Options{Embedded: openEmbedded(t, dir)}), Location{Name: "staging"}, "web")
	if err := os.MkdirAll(filepath.Join(dir, "staging"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "staging", "web"), nil, 0o600); err != nil {
		t.Fatal(err) // a file where the repository's folder should be
	}
	layout, d, _ := imageLayout(t)
	_, err := r.PushLayout(t.Context(), layout, d)
	wantError(t, err, artifact.KindFault, filepath.Join(dir, "staging", "web"))
}

func TestOpenIsFast(t *testing.T) {
	start := time.Now()
	openEmbedded(t)
	if d := time.Since(start); d > 500*time.Millisecond {
		t.Errorf("took %s", d)
	}
}

func TestSplitPath(t *testing.T) {
	for path, want := range map[string]string{
		"/v2/a/manifests/x":                   "a manifests",
		"/v2/a/b/blobs/uploads/1":             "a/b blobs",
		"/v2/manifests/manifests/manifests/x": "manifests/manifests manifests",
		"/v2/a/tags/list":                     "a tags",
		"/v2/":                                " ",
		"/other":                              " ",
	} {
		repo, kind := splitPath(path)
		if got := strings.Join([]string{repo, kind}, " "); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
