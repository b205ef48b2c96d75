package changed

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"drydock/catalog"
	"drydock/modules/artifact"
)

var catalogFiles = map[string]string{
	"mirrors.yaml":          "version: 1\n",
	"stages.yaml":           "version: 1\nstages: [{name: quarantine, registry: embedded}]\n",
	"policies/p.yaml":       "version: 1\nname: p\n",
	"bases/full.yaml":       "version: 1\nname: full\nkind: debian\nvariant: full\nplatforms: [linux/amd64]\n",
	"bases/min.yaml":        "version: 1\nname: min\nkind: debian\nvariant: minimal\nplatforms: [linux/amd64]\n",
	"bases/locks/min.json":  "{}\n",
	"images/one.yaml":       "version: 1\nname: one\nplatforms: [linux/amd64]\ntests: {structure: [tests/one.yaml]}\n",
	"images/tests/one.yaml": "schemaVersion: 2.0.0\n",
	"images/one/Dockerfile": `FROM min
COPY src *.conf /
`,
	"images/one/.dockerignore": "src/*.md\n",
	"images/one/src/a.txt":     "a\n",
	"images/one/src/a.md":      "a\n",
	"images/one/x.conf":        "x\n",
	"images/one/README":        "read me\n",
	"images/two.yaml":          "version: 1\nname: two\nplatforms: [linux/amd64]\n",
	"images/two/Dockerfile":    "FROM one\n",
	"images/three.yaml":        "version: 1\nname: three\nplatforms: [linux/amd64]\n",
	"images/three/Dockerfile":  "FROM full\nCOPY . /\n",
}

// repo is a repository with a catalog in cat/, one commit on main and the
// branch work checked out.
type repo struct {
	t   *testing.T
	dir string
	env []string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	home := t.TempDir()
	r := &repo{t: t, dir: t.TempDir(), env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GIT_CONFIG_GLOBAL=" + filepath.Join(home, "none"), "GIT_CONFIG_NOSYSTEM=1",
	}}
	r.git("init", "-q", "-b", "main")
	for name, text := range catalogFiles {
		r.write("cat/"+name, text)
	}
	r.write("main.go", "package main\n")
	r.write(".gitignore", "*.tmp\n")
	r.commit()
	r.git("checkout", "-q", "-b", "work")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Env = r.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) write(name, text string) {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) commit() string {
	r.t.Helper()
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "x")
	return r.git("rev-parse", "HEAD")
}

func (r *repo) request(base string) Request {
	r.t.Helper()
	dir := filepath.Join(r.dir, "cat")
	c, err := catalog.Load(os.DirFS(dir), "cat")
	if err != nil {
		r.t.Fatal(err)
	}
	return Request{Base: base, CatalogDir: dir, Catalog: c, Environ: r.env}
}

func (r *repo) describe() *State {
	r.t.Helper()
	st, err := Describe(r.t.Context(), r.request(""))
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

func TestSelectByWhatChanged(t *testing.T) {
	all := []string{"one", "three", "two"}
	r := newRepo(t)
	start := r.git("rev-parse", "HEAD")
	for _, c := range []struct {
		file string
		want []string
		why  map[string]string
	}{
		{"main.go", []string{}, nil},
		{"cat/images/one/README", []string{}, nil},
		{"cat/images/one/src/a.md", []string{}, nil},
		{"cat/images/one/src/a.txt", []string{"one", "two"}, map[string]string{"one": "cat/images/one/src/a.txt", "two": "image one"}},
		{"cat/images/one/src/deep/new file.txt", []string{"one", "two"}, nil},
		{"cat/images/one/x.conf", []string{"one", "two"}, nil},
		{"cat/images/one/y.conf", []string{"one", "two"}, nil},
		{"cat/images/one/Dockerfile.dockerignore", []string{"one", "two"}, nil},
		{"cat/images/one/.dockerignore", []string{"one", "two"}, nil},
		{"cat/images/tests/one.yaml", []string{"one", "two"}, nil},
		{"cat/images/two/anything", []string{}, nil},
		{"cat/images/three/\u00e9 \"quoted\".txt", []string{"three"}, nil},
		{"cat/bases/full.yaml", []string{"three"}, map[string]string{"three": "cat/bases/full.yaml"}},
		{"cat/bases/locks/min.json", []string{"one", "two"}, nil},
		{"cat/bases/locks/full.json", []string{"three"}, nil},
		{"cat/mirrors.yaml", all, nil},
		{"cat/stages.yaml", all, nil},
		{"cat/policies/p.yaml", all, nil},
		{"cat/policies/old.yaml", all, nil},
	} {
		t.Run(c.file, func(t *testing.T) {
			r.t = t
			r.git("reset", "-q", "--hard", start)
			r.git("clean", "-q", "-fdx")
			text := catalogFiles[strings.TrimPrefix(c.file, "cat/")]
			for _, how := range []string{"untracked or modified", "committed"} {
				if strings.HasSuffix(c.file, "old.yaml") {
					text = "version: 1\nname: old"
				}
				r.write(c.file, text+"\n")
				if how == "committed" {
					r.commit()
				}
				got, err := Select(context.Background(), r.request("main"))
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got.Images, c.want) || !slices.Contains(got.Files, c.file) {
					t.Errorf("%s: got %v of %q, want %v", how, got.Images, got.Files, c.want)
				}
				for image, why := range c.why {
					if got.Why[image] != why {
						t.Errorf("%s because of %q, want %q", image, got.Why[image], why)
					}
				}
			}
		})
	}
}

func TestSelectComparesWithTheMergeBase(t *testing.T) {
	r := newRepo(t)
	start := r.git("rev-parse", "HEAD")
	r.git("checkout", "-q", "main")
	r.write("cat/images/three/new", "x")
	r.commit()
	r.git("checkout", "-q", "work")
	r.git("mv", "cat/images/one/x.conf", "cat/images/one/x.txt")
	got, err := Select(context.Background(), r.request("main"))
	if err != nil {
		t.Fatal(err)
	}
	if got.MergeBase != start || !reflect.DeepEqual(got.Images, []string{"one", "two"}) {
		t.Errorf("got %+v", got)
	}
	if want := []string{"cat/images/one/x.conf", "cat/images/one/x.txt"}; !reflect.DeepEqual(got.Files, want) {
		t.Errorf("files %q, want both names of what was moved", got.Files)
	}
	clean, err := Select(context.Background(), r.request("work"))
	if err != nil || clean.Images == nil {
		t.Errorf("%+v %v", clean, err)
	}
}

func TestSelectFindsTheDefaultBranch(t *testing.T) {
	origin := newRepo(t)
	clone := &repo{t: t, dir: filepath.Join(t.TempDir(), "clone"), env: origin.env}
	origin.git("checkout", "-q", "main")
	origin.git("clone", "-q", "file://"+origin.dir, clone.dir)
	clone.write("cat/images/three/new", "x")
	for _, base := range []string{"", "main", "origin/main", "work", "HEAD"} {
		got, err := Select(context.Background(), clone.request(base))
		if err != nil || !reflect.DeepEqual(got.Images, []string{"three"}) {
			t.Errorf("base %q: %+v %v", base, got, err)
		}
	}
}

func wantError(t *testing.T, err error, message, remedy string) {
	t.Helper()
	var e *artifact.Error
	if !errors.As(err, &e) || e.Kind != artifact.KindUsage || !strings.Contains(e.Message, message) || !strings.Contains(e.Remedy, remedy) {
		t.Errorf("got %v %+v\nwant %q and remedy %q", err, e, message, remedy)
	}
}

// A clone that does not reach the merge base must not answer "nothing".
func TestShallowIsRefused(t *testing.T) {
	origin := newRepo(t)
	origin.write("cat/images/three/new", "x")
	origin.commit()
	origin.commit()
	origin.git("checkout", "-q", "main")
	origin.commit()
	origin.git("checkout", "-q", "work")
	clone := &repo{t: t, dir: filepath.Join(t.TempDir(), "clone"), env: origin.env}
	origin.git("clone", "-q", "--depth", "1", "file://"+origin.dir, clone.dir)

	_, err := Select(context.Background(), clone.request("main"))
	wantError(t, err, "shallow and does not have main", "git fetch --unshallow")
	wantError(t, err, "", "GIT_DEPTH: 0")

	clone.git("fetch", "-q", "--depth", "1", "origin", "main:refs/remotes/origin/main")
	_, err = Select(context.Background(), clone.request("main"))
	wantError(t, err, "shallow and its history does not reach back to main", "git fetch --unshallow")

	clone.git("fetch", "-q", "--unshallow", "origin")
	got, err := Select(context.Background(), clone.request("main"))
	if err != nil || !reflect.DeepEqual(got.Images, []string{"three"}) {
		t.Errorf("with the history: %+v %v", got, err)
	}
}

func TestSelectRefuses(t *testing.T) {
	r := newRepo(t)
	_, err := Select(context.Background(), r.request("nowhere"))
	wantError(t, err, "there is no commit nowhere", "--changed=BRANCH")
	_, err = Select(context.Background(), r.request(""))
	wantError(t, err, "default branch", "--changed=BRANCH")
	_, err = Select(context.Background(), r.request("--output=/tmp/catalog-injected"))
	wantError(t, err, "there is no commit", "")
	if _, err := os.Stat("/tmp/catalog-injected"); err == nil {
		t.Error("a base that looks like an option was taken for one")
	}
	r.git("checkout", "-q", "--orphan", "lonely")
	r.write("lonely", "or it would be the very same commit\n")
	req := r.request("main")
	_, err = Select(context.Background(), req)
	wantError(t, err, "nothing is committed yet", "commit first")
	r.commit()
	_, err = Select(context.Background(), req)
	wantError(t, err, "no common history", "--changed=BRANCH")

	if err := os.RemoveAll(filepath.Join(r.dir, ".git")); err != nil {
		t.Fatal(err)
	}
	req.Environ = append(req.Environ, "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir))
	_, err = Select(context.Background(), req)
	wantError(t, err, "not in a git repository", "--changed")
	req.CatalogDir = filepath.Join(r.dir, "gone")
	if _, err = Select(context.Background(), req); err == nil {
		t.Error("a directory that is not there is accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err = Select(ctx, newRepo(t).request("main")); artifact.ExitCode(err) != artifact.ExitInterrupted {
		t.Errorf("interrupted: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	r := newRepo(t)
	describe := r.describe
	r.git("remote", "add", "origin", "https://user:secret@git.test/team/repo.git?token=x")
	st := describe()
	if st.Revision != r.git("rev-parse", "HEAD") || st.Ref != "refs/heads/work" || st.Remote != "https://git.test/team/repo.git" || len(st.Dirty) != 0 {
		t.Errorf("clean: %+v", st)
	}
	r.write("main.go", "package other\n")
	r.write("cat/images/one/README", "other\n")
	r.write("cat/mirrors.yaml", "version: 1\ngo: auto\n")
	if st = describe(); len(st.Dirty) != 0 {
		t.Errorf("what no image is made of makes none dirty: %v", st.Dirty)
	}
	r.write("cat/images/three/secret.tmp", "git ignores it, the build does not\n")
	if st = describe(); !reflect.DeepEqual(st.Dirty, map[string]string{"three": "cat/images/three/secret.tmp"}) {
		t.Errorf("ignored by git: %v", st.Dirty)
	}
	r.write("cat/images/one/src/new/file", "x")
	r.git("rm", "-q", "--cached", "cat/images/one/x.conf")
	if st = describe(); st.Dirty["one"] != "cat/images/one/src/new/file" || st.Dirty["two"] != "image one" {
		t.Errorf("untracked: %v", st.Dirty)
	}
	r.git("checkout", "-q", "-f", "--detach")
	if st = describe(); st.Ref != "" || st.Revision == "" {
		t.Errorf("detached: %+v", st)
	}
}

func TestDescribeOutsideGit(t *testing.T) {
	r := newRepo(t)
	req := r.request("")
	if err := os.RemoveAll(filepath.Join(r.dir, ".git")); err != nil {
		t.Fatal(err)
	}
	req.Environ = append(req.Environ, "GIT_CEILING_DIRECTORIES="+filepath.Dir(r.dir))
	st, err := Describe(context.Background(), req)
	if err != nil || len(st.Dirty) != 3 || st.Dirty["one"] != "not in a git repository" || st.Revision != "" {
		t.Errorf("%+v %v", st, err)
	}
	req.Environ = []string{"PATH=/nowhere"}
	t.Setenv("PATH", "/nowhere")
	st, err = Describe(context.Background(), req)
	if err != nil || st.Dirty["one"] != "git is not installed" {
		t.Errorf("%+v %v", st, err)
	}
}

// What a repository configures must not run.
func TestHooksOfTheRepositoryAreNotRun(t *testing.T) {
	r := newRepo(t)
	mark := filepath.Join(t.TempDir(), "ran")
	script := filepath.Join(r.dir, "evil.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("config", "core.fsmonitor", script)
	r.git("config", "diff.external", script)
	r.write("cat/images/one/src/a.txt", "changed\n")
	req := r.request("main")
	if _, err := Select(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	if _, err := Describe(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a program the repository names was run")
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@h.test/a.git":        "https://h.test/a.git",
		"https://oauth2:tok@h.test/a?x#y": "https://h.test/a",
		"ssh://git@h.test:22/a.git":       "ssh://h.test:22/a.git",
		"git@h.test:team/a.git":           "ssh://h.test/team/a.git",
		"user:p@h.test:team/a.git":        "ssh://h.test/team/a.git",
		"/srv/git/a.git":                  "",
		"../a":                            "",
		"file:///srv/a":                   "",
		`C:\repos\a`:                      "",
		"":                                "",
		"https://u:p w@h.test/%zz":        "",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// A submodule stands in git under the name of its folder.
func TestSubmodules(t *testing.T) {
	r := newRepo(t)
	their := t.TempDir()
	in := func(args ...string) { r.git(append([]string{"-C", their}, args...)...) }
	in("init", "-q", "-b", "main")
	if err := os.MkdirAll(filepath.Join(their, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one\n", "two\n"} {
		if err := os.WriteFile(filepath.Join(their, "src", "lib.txt"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		in("add", ".")
		in("commit", "-q", "-m", text)
	}
	r.write("cat/images/one/Dockerfile", "FROM min\nCOPY lib/src /lib\n")
	r.git("submodule", "--quiet", "add", their, "cat/images/one/lib")
	r.git("submodule", "--quiet", "add", their, "cat/images/three/lib")
	r.commit()
	r.git("branch", "-f", "main")
	if st := r.describe(); len(st.Dirty) != 0 || len(st.Absent) != 0 {
		t.Errorf("checked out: %+v", st)
	}

	r.git("-C", "cat/images/one/lib", "checkout", "-q", "HEAD^")
	if st := r.describe(); !reflect.DeepEqual(slices.Sorted(maps.Keys(st.Dirty)), []string{"one", "two"}) {
		t.Errorf("at another commit: %v", st.Dirty)
	}
	r.commit()
	sel, err := Select(t.Context(), r.request("main"))
	if err != nil || !slices.Equal(sel.Images, []string{"one", "two"}) {
		t.Errorf("moved: %+v, %v", sel, err)
	}

	r.git("submodule", "--quiet", "deinit", "-f", "cat/images/three/lib")
	st := r.describe()
	if a := st.Absent["three"]; len(st.Absent) != 1 || a.Path != "cat/images/three/lib" || !strings.Contains(a.Remedy, "submodule update") {
		t.Errorf("not checked out: %+v", st.Absent)
	}
}

// A pointer in place of a file of Git LFS is no source to build from.
func TestLargeFiles(t *testing.T) {
	r := newRepo(t)
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
	r.write("cat/images/three/big.bin", pointer)
	r.write("cat/images/one/README", pointer) // not copied into the image
	r.commit()
	if st := r.describe(); len(st.Absent) != 0 {
		t.Errorf("without the attribute it is a text like others: %+v", st.Absent)
	}
	r.write("cat/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\nREADME filter=lfs\n")
	r.commit()
	st := r.describe()
	if a := st.Absent["three"]; len(st.Absent) != 1 || a.Path != "cat/images/three/big.bin" || !strings.Contains(a.Remedy, "git lfs pull") {
		t.Errorf("%+v", st.Absent)
	}
	r.write("cat/images/three/big.bin", strings.Repeat("the content\n", 1000))
	if st := r.describe(); len(st.Absent) != 0 {
		t.Errorf("fetched: %+v", st.Absent)
	}
}
