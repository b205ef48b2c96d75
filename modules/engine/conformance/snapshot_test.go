package conformance

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"
)

// What a session saw of the host it goes on seeing, unless it asks anew.
func TestHostSnapshots(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, dir := within(t), t.TempDir()
		f := filepath.Join(dir, "f")
		say := func(text string) { t.Helper(); write(t, f, text, 0o644) }
		read := func(what string, of *dagger.File, want string) {
			t.Helper()
			if got, err := of.Contents(ctx); err != nil || got != want {
				t.Errorf("%s: %q, %v; want %q", what, got, err, want)
			}
		}
		say("first")
		early, err := c.Host().Directory(dir, dagger.HostDirectoryOpts{NoCache: true}).ID(ctx) // nothing reads it yet
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Host().Directory(dir).ID(ctx); err != nil {
			t.Fatal(err)
		}
		read("a host file", c.Host().File(f), "first")
		if got, err := c.Host().FindUp(ctx, "absent.mod"); err == nil && got != "" {
			t.Errorf("found %q", got)
		}

		say("second one")
		write(t, filepath.Join(dir, "more"), "", 0o644)
		read("a directory, again", c.Host().Directory(dir).File("f"), "first")
		read("a file, again", c.Host().File(f), "first")
		read("a file, renamed", c.Host().File(f).WithName("g"), "first")
		read("what an id means", c.LoadDirectoryFromID(dagger.DirectoryID(early)).File("f"), "first")
		read("other arguments", c.Host().Directory(dir, dagger.HostDirectoryOpts{Include: []string{"f"}}).File("f"), "second one")
		read("a directory, anew", c.Host().Directory(dir, dagger.HostDirectoryOpts{NoCache: true}).File("f"), "second one")
		read("a file, anew", c.Host().File(f, dagger.HostFileOpts{NoCache: true}), "second one")
		if got, err := c.Host().Directory(dir).Entries(ctx); err != nil || !slices.Equal(got, []string{"f"}) {
			t.Errorf("entries, again: %q, %v", got, err)
		}
		if size, err := c.Host().File(f).Size(ctx); err != nil || size != len("first") {
			t.Errorf("size, again: %d, %v", size, err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if _, err := c.Host().File(f).Export(ctx, out); err != nil {
			t.Error(err)
		}
		check(t, out, "first")

		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		read("a directory that has gone", c.Host().Directory(dir).File("f"), "first")
		if _, err := c.Host().Directory(dir, dagger.HostDirectoryOpts{NoCache: true}).Entries(ctx); err == nil {
			t.Error("a directory that has gone, anew: no error")
		}
	})
}

// What is not there yet is looked for again.
func TestHostLater(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, dir := within(t), filepath.Join(t.TempDir(), "dir")
		if _, err := c.Host().Directory(dir).Entries(ctx); err == nil {
			t.Error("no error")
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "f"), "", 0o644)
		if got, err := c.Host().Directory(dir).Entries(ctx); err != nil || !slices.Equal(got, []string{"f"}) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestStdinFrom(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := busybox(t, c)
		from := func(p string) dagger.ContainerWithExecOpts { return dagger.ContainerWithExecOpts{RedirectStdin: p} }
		secret := c.SetSecret("stdin", "a secret of some length")
		volume := c.CacheVolume("stdin of " + t.Name() + strconv.FormatInt(time.Now().UnixNano(), 36))
		for name, tc := range map[string]struct {
			ctr  *dagger.Container
			want string
		}{
			"secret":       {box.WithMountedSecret("/run/secret", secret).WithExec([]string{"wc", "-c"}, from("/run/secret")), "23"},
			"mounted file": {box.WithMountedFile("/run/file", c.File("f", "mounted")).WithExec([]string{"cat"}, from("/run/file")), "mounted"},
			"mounted directory": {box.WithMountedDirectory("/run/dir", c.Directory().WithNewFile("a/b", "deep")).
				WithExec([]string{"cat"}, from("/run/dir/a/b")), "deep"},
			"cache volume": {box.WithMountedCache("/cache", volume).WithExec(sh("mkdir -p /cache/a; echo kept >/cache/a/b")).
				WithExec([]string{"cat"}, from("/cache/a/b")), "kept"},
			"relative":  {box.WithWorkdir("/etc").WithNewFile("in", "relative").WithExec([]string{"cat"}, from("in")), "relative"},
			"with init": {box.WithExec(sh("cat /proc/1/comm >/dev/null; echo ran"), dagger.ContainerWithExecOpts{NoInit: true}), "ran"},
		} {
			t.Run(name, func(t *testing.T) {
				got, err := tc.ctr.Stdout(within(t))
				if err != nil || strings.TrimSpace(got) != tc.want {
					t.Errorf("%q, %v; want %q", got, err, tc.want)
				}
			})
		}
		if _, err := box.WithExec([]string{"cat"}, from("/nowhere")).Sync(within(t)); err == nil {
			t.Error("a file that is not there: no error")
		}
		both := from("/etc/passwd")
		both.Stdin = "x"
		if _, err := box.WithExec([]string{"cat"}, both).Sync(within(t)); err == nil {
			t.Error("two inputs: no error")
		}
	})
}

// A star makes a pattern of what is removed, nothing else does; what is copied
// replaces what is of another kind.
func TestReplacing(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile("a1.log", "").WithNewFile("a2.log", "").WithNewFile("a[12].log", "").WithNewFile("sub/b.log", "")
		for name, tc := range map[string]struct {
			dir  *dagger.Directory
			want []string
		}{
			"a star":          {dir.WithoutFile("*.log"), []string{"sub/", "sub/b.log"}},
			"no star":         {dir.WithoutFile("a[12].log"), []string{"a1.log", "a2.log", "sub/", "sub/b.log"}},
			"several":         {dir.WithoutFiles([]string{"a1*", "sub/*.log"}), []string{"a2.log", "a[12].log", "sub/"}},
			"a directory":     {dir.WithoutDirectory("su*"), []string{"a1.log", "a2.log", "a[12].log"}},
			"dir over a file": {c.Directory().WithNewFile("x", "file").WithDirectory("/", c.Directory().WithNewFile("x/y", "")), []string{"x/", "x/y"}},
			"file over a dir": {c.Directory().WithNewFile("x/y", "").WithDirectory("/", c.Directory().WithNewFile("x", "file")), []string{"x"}},
		} {
			got, err := tc.dir.Glob(ctx, "**")
			slices.Sort(got)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
			}
		}
	})
}

func TestSearch(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().
			WithNewFile("a.go", "package a\n\nfunc One() {}\nfunc Two() { One(); One() }\n").
			WithNewFile("deep/b.md", "# One\nsecond line\n").
			WithNewFile(".hidden", "One\n").WithNewFile("binary", "One\x00").WithNewFile("ignored", "One\n").
			WithNewFile(".gitignore", "ignored\n").WithNewDirectory(".git")
		for name, tc := range map[string]struct {
			pattern string
			opts    dagger.DirectorySearchOpts
			want    []string // path:line:offset:matches
		}{
			"all":         {"One", dagger.DirectorySearchOpts{}, []string{".hidden:1:0:1", "a.go:3:11:1", "a.go:4:25:2", "deep/b.md:1:0:1", "ignored:1:0:1"}},
			"not hidden":  {"One", dagger.DirectorySearchOpts{SkipHidden: true, SkipIgnored: true}, []string{"a.go:3:11:1", "a.go:4:25:2", "deep/b.md:1:0:1"}},
			"globs":       {"One", dagger.DirectorySearchOpts{Globs: []string{"*.md"}}, []string{"deep/b.md:1:0:1"}},
			"not globs":   {"One", dagger.DirectorySearchOpts{Globs: []string{"!*.go", "!ignored", "!.*"}}, []string{"deep/b.md:1:0:1"}},
			"paths":       {"One", dagger.DirectorySearchOpts{Paths: []string{"deep"}}, []string{"deep/b.md:1:0:1"}},
			"expression":  {`^func \w+\(\)`, dagger.DirectorySearchOpts{}, []string{"a.go:3:11:1", "a.go:4:25:1"}},
			"literal":     {"One()", dagger.DirectorySearchOpts{Literal: true}, []string{"a.go:3:11:1", "a.go:4:25:2"}},
			"any case":    {"SECOND", dagger.DirectorySearchOpts{Insensitive: true}, []string{"deep/b.md:2:6:1"}},
			"many lines":  {`\{\}\nfunc`, dagger.DirectorySearchOpts{Multiline: true}, []string{"a.go:3:11:1"}},
			"one by one":  {`\{\}\nfunc`, dagger.DirectorySearchOpts{}, nil},
			"few":         {"One", dagger.DirectorySearchOpts{Limit: 1, Globs: []string{"*.go"}}, []string{"a.go:3:11:1"}},
			"files":       {"One", dagger.DirectorySearchOpts{FilesOnly: true, Globs: []string{"*.go", "*.md"}}, []string{"a.go:0:0:0", "deep/b.md:0:0:0"}},
			"not in here": {"Three", dagger.DirectorySearchOpts{}, nil},
		} {
			if name == "one by one" && !isEmbedded(t) {
				continue // ripgrep refuses the pattern
			}
			results, err := dir.Search(ctx, tc.pattern, tc.opts)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got := found(t, ctx, results)
			if !slices.Equal(got, tc.want) {
				t.Errorf("%s: %q; want %q", name, got, tc.want)
			}
		}
		results, err := dir.File("a.go").Search(ctx, "Two")
		if got := found(t, ctx, results); err != nil || !slices.Equal(got, []string{"a.go:4:25:1"}) {
			t.Errorf("a file: %q, %v", got, err)
		}
		if text, err := results[0].MatchedLines(ctx); err != nil || text != "func Two() { One(); One() }\n" {
			t.Errorf("its line: %q, %v", text, err)
		}
		if _, err := dir.Search(ctx, "(", dagger.DirectorySearchOpts{}); err == nil {
			t.Error("no expression: no error")
		}
	})
}

func found(t *testing.T, ctx context.Context, results []dagger.SearchResult) []string {
	t.Helper()
	var out []string
	for _, r := range results {
		p, err1 := r.FilePath(ctx)
		line, err2 := r.LineNumber(ctx)
		offset, err3 := r.AbsoluteOffset(ctx)
		subs, err4 := r.Submatches(ctx)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		out = append(out, p+":"+strconv.Itoa(line)+":"+strconv.Itoa(offset)+":"+strconv.Itoa(len(subs)))
	}
	slices.Sort(out)
	return out
}

// A service is up for as long as somebody waits for it.
func TestUp(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		box := busybox(t, c).WithNewFile("/www/index.html", "up").WithExposedPort(8080)
		serve := []string{"httpd", "-f", "-p", "8080", "-h", "/www"}
		for name, up := range map[string]func(context.Context, int) error{
			"container": func(ctx context.Context, port int) error {
				return box.Up(ctx, dagger.ContainerUpOpts{Args: serve, Ports: []dagger.PortForward{{Frontend: port, Backend: 8080}}})
			},
			"service": func(ctx context.Context, port int) error {
				return box.AsService(dagger.ContainerAsServiceOpts{Args: serve}).Up(ctx, dagger.ServiceUpOpts{Ports: []dagger.PortForward{{Frontend: port, Backend: 8080}}})
			},
		} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(within(t))
				defer cancel()
				port := freePort(t)
				ended := make(chan error, 1)
				go func() { ended <- up(ctx, port) }()
				var got string
				for got == "" && ctx.Err() == nil {
					select {
					case err := <-ended:
						t.Fatalf("ended at once: %v", err)
					case <-time.After(50 * time.Millisecond):
					}
					resp, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port)) //nolint:noctx // loopback
					if err != nil {
						continue
					}
					body, _ := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					got = string(body)
				}
				if got != "up" {
					t.Errorf("got %q", got)
				}
				cancel()
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					t.Error("still up")
				}
			})
		}
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
