package mirror

import (
	"context"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/mirror/lockfile"
)

// gitServer serves bare repositories below a folder as git itself does.
func gitServer(t *testing.T, dir string) *httptest.Server {
	t.Helper()
	program, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed")
	}
	srv := httptest.NewServer(&cgi.Handler{
		Path: program, Args: []string{"http-backend"}, Dir: dir,
		Env:        []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"},
		InheritEnv: []string{"PATH"},
	})
	t.Cleanup(srv.Close)
	return srv
}

// gitIn runs git in a folder, with nothing of the user's.
func gitIn(t *testing.T, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@test.invalid", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@test.invalid", "GIT_TERMINAL_PROMPT=0",
	}, env...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func mustGit(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	out, err := gitIn(t, dir, env, args...)
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

// gitWorld is a bare repository with two commits and an annotated tag, mirrored
// as code.test/team.
type gitWorld struct {
	*world
	bare, work string
	first      string // commit
}

func newGitWorld(t *testing.T) *gitWorld {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	g := &gitWorld{world: newWorld(t)}
	root := t.TempDir()
	g.bare, g.work = filepath.Join(root, "app.git"), filepath.Join(t.TempDir(), "work")
	mustGit(t, root, nil, "init", "-q", "--bare", "-b", "main", g.bare)
	mustGit(t, root, nil, "init", "-q", "-b", "main", g.work)
	for _, v := range []string{"one", "two"} {
		writeFile(t, filepath.Join(g.work, "file"), v+"\n")
		mustGit(t, g.work, nil, "add", "file")
		mustGit(t, g.work, nil, "commit", "-q", "-m", v)
		if v == "one" {
			g.first = mustGit(t, g.work, nil, "rev-parse", "HEAD")
			mustGit(t, g.work, nil, "tag", "-a", "-m", "first", "v1")
		}
	}
	mustGit(t, g.work, nil, "push", "-q", g.bare, "main", "v1")
	srv := gitServer(t, root)
	g.url = srv.URL
	return g
}

func (g *gitWorld) config() Config {
	return Config{Git: []GitMirror{{Prefix: "code.test/team", URLs: []string{g.url}}}}
}

// stepEnv is how git in a step is led to the gateway.
func stepEnv(bridge string) []string {
	return []string{
		"http_proxy=http://" + bridge, "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=url.http://mirror.drydock.internal/git/.insteadOf", "GIT_CONFIG_VALUE_0=https://",
	}
}

// TestGit clones by branch, tag and commit with git itself, then holds it to the
// lock that makes.
func TestGit(t *testing.T) {
	w := newGitWorld(t)
	cache := t.TempDir()
	g, sock := testGateway(t, w.discover(w.config()), cache)
	mounts, _ := LockMounts("new-1")
	g.Observe("new-1")
	greet(t, sock, m{"kind": "step", "step": step1, "name": "RUN --mount=" + mounts[0] + " --mount=" + mounts[1] + " git"})
	env := stepEnv(bridge(t, sock, step1))
	dir := t.TempDir()
	mustGit(t, dir, env, "clone", "-q", "https://code.test/team/app.git", "all")
	mustGit(t, dir, env, "clone", "-q", "--depth", "1", "--branch", "v1", "https://code.test/team/app", "tag")
	if b, err := os.ReadFile(filepath.Join(dir, "all", "file")); err != nil || string(b) != "two\n" {
		t.Errorf("%q, %v", b, err)
	}
	if at := mustGit(t, filepath.Join(dir, "tag"), nil, "rev-parse", "HEAD"); at != w.first {
		t.Errorf("the tag is at %s, want %s", at, w.first)
	}
	lock := &lockfile.Lock{Image: "x"}
	paths := map[string]artifact.Material{}
	for _, m := range g.steps.steps[step1].materials {
		paths[m.Path] = m
		lock.Materials = append(lock.Materials, lockfile.Material{Ecosystem: m.Ecosystem, Path: m.Path, Digest: m.Digest, Size: m.Size, PURL: m.PURL})
	}
	head := mustGit(t, w.work, nil, "rev-parse", "HEAD")
	for _, want := range []string{"code.test/team/app/" + head, "code.test/team/app/refs/heads/main/" + head, "code.test/team/app/HEAD=refs/heads/main/" + head} {
		if m := paths[want]; m.Digest == "" || !strings.Contains(m.PURL, head) {
			t.Errorf("no material %s: %+v", want, paths)
		}
	}
	commit, err := exec.Command("git", "-C", w.work, "cat-file", "commit", head).Output()
	if err != nil {
		t.Fatal(err)
	}
	canonical := append([]byte("commit "+itoa(len(commit))+"\x00"), commit...)
	if got := paths["code.test/team/app/"+head].Digest; got != digest(canonical) {
		t.Errorf("digest %s, want that of the commit object, %s", got, digest(canonical))
	}
	if raw, err := lock.Marshal(); err != nil {
		t.Error(err)
	} else if _, err := lockfile.Parse(raw, "lock"); err != nil {
		t.Error(err)
	}

	// the branch moves; under the lock it has not, not even with an empty store
	writeFile(t, filepath.Join(w.work, "file"), "three\n")
	mustGit(t, w.work, nil, "commit", "-q", "-a", "-m", "three")
	mustGit(t, w.work, nil, "push", "-q", w.bare, "main")
	third := mustGit(t, w.work, nil, "rev-parse", "HEAD")
	s, err := Discover(context.Background(), w.config(), w.host, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g, sock = testGateway(t, s, t.TempDir())
	mounts, _ = LockMounts("0123")
	g.Enforce("0123", lock, "locks/x.json", "lock anew")
	greet(t, sock, m{"kind": "step", "step": step2, "name": "RUN --mount=" + mounts[0] + " --mount=" + mounts[1] + " git"})
	env = stepEnv(bridge(t, sock, step2))
	dir = t.TempDir()
	mustGit(t, dir, env, "clone", "-q", "https://code.test/team/app.git", "held")
	if at := mustGit(t, filepath.Join(dir, "held"), nil, "rev-parse", "HEAD"); at != head {
		t.Errorf("under the lock main is %s, want %s", at, head)
	}
	if out, err := gitIn(t, filepath.Join(dir, "held"), env, "fetch", "-q", "origin", third); err == nil || !strings.Contains(out, "403") {
		t.Errorf("a commit that is not locked: %v %s", err, out)
	}
}

const step2 = "sha256:2222222222222222222222222222222222222222222222222222222222222222"

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// TestGitRefuses asks for what is not mirrored, not fetching, or not whole.
func TestGitRefuses(t *testing.T) {
	w := newGitWorld(t)
	_, sock := testGateway(t, w.discover(w.config()), t.TempDir())
	env := stepEnv(bridge(t, sock, step1))
	dir := t.TempDir()
	if out, err := gitIn(t, dir, env, "clone", "-q", "https://other.test/team/app.git"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("another host: %v %s", err, out)
	}
	if out, err := gitIn(t, dir, env, "clone", "-q", "https://code.test/team/none.git"); err == nil {
		t.Errorf("a repository that is not there: %s", out)
	}
	if out, err := gitIn(t, w.work, env, "push", "-q", "https://code.test/team/app.git", "main:evil"); err == nil {
		t.Errorf("pushing: %s", out)
	}
	if out, err := gitIn(t, dir, env, "-c", "protocol.version=0", "clone", "-q", "https://code.test/team/app.git"); err == nil {
		t.Errorf("an old protocol: %s", out)
	}
	for name, change := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)-30] },
		"flipped":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
	} {
		lying := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			req, err := http.NewRequestWithContext(r.Context(), r.Method, w.url+r.URL.Path, r.Body)
			if err != nil {
				return
			}
			req.Header = r.Header.Clone()
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			body := []byte(readAll(t, resp))
			if strings.Contains(string(body), "packfile\n") {
				body = change(body)
			}
			rec.Code = resp.StatusCode
			rw.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
			rw.WriteHeader(resp.StatusCode)
			_, _ = rw.Write(body)
		}))
		t.Cleanup(lying.Close)
		s, err := Discover(context.Background(), Config{Git: []GitMirror{{Prefix: "code.test/team", URLs: []string{lying.URL}}}}, w.host, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		_, sock := testGateway(t, s, t.TempDir())
		if out, err := gitIn(t, dir, stepEnv(bridge(t, sock, step1)), "clone", "-q", "https://code.test/team/app.git", name); err == nil || !strings.Contains(out, "502") {
			t.Errorf("%s: %v %s", name, err, out)
		}
		// a mirror that tells the truth stands in
		s, err = Discover(context.Background(), Config{Git: []GitMirror{{Prefix: "code.test/team", URLs: []string{lying.URL, w.url}}}}, w.host, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		_, sock = testGateway(t, s, t.TempDir())
		mustGit(t, dir, stepEnv(bridge(t, sock, step1)), "clone", "-q", "https://code.test/team/app.git", name+"-after")
	}
}
