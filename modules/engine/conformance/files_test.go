package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dagger.io/dagger"
)

func TestDirectoryEntries(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		dir := c.Directory().WithNewFile("a.txt", "A").WithNewFile("sub/b.txt", "B").WithNewDirectory("empty")
		other := c.Directory().WithNewFile("x.go", "x").WithNewFile("y.md", "y").WithNewFile("deep/z.go", "z")
		tests := []struct {
			name string
			dir  *dagger.Directory
			want []string
		}{
			{"empty", c.Directory(), nil},
			{"files and directories", dir, []string{"a.txt", "empty/", "sub/"}},
			{"subdirectory", dir.Directory("sub"), []string{"b.txt"}},
			{"without file", dir.WithoutFile("a.txt"), []string{"empty/", "sub/"}},
			{"without a file that is not there", dir.WithoutFile("nope"), []string{"a.txt", "empty/", "sub/"}},
			{"without directory", dir.WithoutDirectory("sub"), []string{"a.txt", "empty/"}},
			{"with directory", dir.WithDirectory("more", other).Directory("more"), []string{"deep/", "x.go", "y.md"}},
			{"with directory over root", dir.WithDirectory("/", other), []string{"a.txt", "deep/", "empty/", "sub/", "x.go", "y.md"}},
			{"with directory, include", c.Directory().WithDirectory("/", other, dagger.DirectoryWithDirectoryOpts{Include: []string{"*.go"}}), []string{"x.go"}},
			{"with directory, exclude", c.Directory().WithDirectory("/", other, dagger.DirectoryWithDirectoryOpts{Exclude: []string{"**/*.go"}}), []string{"deep/", "y.md"}},
			{"filter", other.Filter(dagger.DirectoryFilterOpts{Include: []string{"**/*.go"}}), []string{"deep/", "x.go"}},
			{"with file", dir.WithFile("copy.txt", dir.File("sub/b.txt")), []string{"a.txt", "copy.txt", "empty/", "sub/"}},
			{"with file into directory", c.Directory().WithFile("in/", dir.File("a.txt")).Directory("in"), []string{"a.txt"}},
			{"part of a subdirectory", dir.Directory("sub").WithNewFile("c.txt", "C"), []string{"b.txt", "c.txt"}},
		}
		for _, tc := range tests {
			t.Run(tc.name, func(t *testing.T) {
				got, err := tc.dir.Entries(within(t))
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(got)
				if !slices.Equal(got, tc.want) {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestDirectoryQuestions(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		dir := c.Directory().WithNewFile("a.txt", "A").WithNewFile("sub/b.txt", "B").WithSymlink("a.txt", "link")
		found, err := dir.Glob(ctx, "**/*.txt")
		slices.Sort(found)
		if err != nil || !slices.Equal(found, []string{"a.txt", "sub/b.txt"}) {
			t.Errorf("glob: %q, %v", found, err)
		}
		if _, err := dir.Sync(ctx); err != nil {
			t.Errorf("sync: %v", err)
		}
		for _, tc := range []struct {
			path string
			opts dagger.DirectoryExistsOpts
			want bool
		}{
			{"a.txt", dagger.DirectoryExistsOpts{}, true},
			{"nope", dagger.DirectoryExistsOpts{}, false},
			{"", dagger.DirectoryExistsOpts{}, false},
			{"sub", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeDirectoryType}, true},
			{"sub", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeRegularType}, false},
			{"link", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeRegularType}, true},
			{"link", dagger.DirectoryExistsOpts{ExpectedType: dagger.ExistsTypeSymlinkType, DoNotFollowSymlinks: true}, true},
		} {
			if got, err := dir.Exists(ctx, tc.path, tc.opts); err != nil || got != tc.want {
				t.Errorf("exists %s %+v: %v, %v", tc.path, tc.opts, got, err)
			}
		}
		for _, through := range []string{"a.txt/nope", "link/nope"} {
			for name, err := range map[string]error{
				"exists":   second(dir.Exists(ctx, through)),
				"stat":     second(dir.Stat(through).Size(ctx)),
				"contents": second(dir.File(through).Contents(ctx)),
				"entries":  second(dir.Entries(ctx, dagger.DirectoryEntriesOpts{Path: through})),
			} {
				if err == nil || !strings.Contains(err.Error(), "not a directory") {
					t.Errorf("%s of %s: %v", name, through, err)
				}
			}
		}
	})
}

func TestDigests(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		digest := func(d *dagger.Directory) string {
			t.Helper()
			s, err := d.Digest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		a := digest(c.Directory().WithNewFile("f", "one").WithNewFile("g", "two"))
		b := digest(c.Directory().WithNewFile("g", "two").WithNewFile("f", "one"))
		if a != b {
			t.Errorf("the same files, digests %s and %s", a, b)
		}
		if d := digest(c.Directory().WithNewFile("f", "other").WithNewFile("g", "two")); d == a {
			t.Error("other contents, the same digest")
		}
		f, err := c.File("x", "text").Digest(ctx, dagger.FileDigestOpts{ExcludeMetadata: true})
		if err != nil || f != "sha256:aa10070a4e571b204bbdf6de20978f0f0c7710516dfd9b2721975b6ffcc693dc" {
			t.Errorf("digest of a file's contents: %s, %v", f, err)
		}
	})
}

func TestFile(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		f := c.File("name.txt", "1\n2\n3\n4\n")
		if s, err := f.Contents(ctx); err != nil || s != "1\n2\n3\n4\n" {
			t.Errorf("contents %q, %v", s, err)
		}
		if s, err := f.Contents(ctx, dagger.FileContentsOpts{OffsetLines: 1, LimitLines: 2}); err != nil || s != "2\n3\n" {
			t.Errorf("some lines %q, %v", s, err)
		}
		if n, err := f.Size(ctx); err != nil || n != 8 {
			t.Errorf("size %d, %v", n, err)
		}
		if s, err := f.Name(ctx); err != nil || s != "name.txt" {
			t.Errorf("name %q, %v", s, err)
		}
		if s, err := f.WithName("other").Name(ctx); err != nil || s != "other" {
			t.Errorf("new name %q, %v", s, err)
		}
		big := strings.Repeat("0123456789abcdef", 700_000) // more than one read of the engine
		if s, err := c.Directory().WithNewFile("big", big).File("big").Contents(ctx); err != nil || s != big {
			t.Errorf("a file of %d bytes came back with %d, %v", len(big), len(s), err)
		}
		box := busybox(t, c)
		stat := box.WithMountedFile("/f", f.WithTimestamps(1000)).WithExec([]string{"stat", "-c", "%Y", "/f"})
		if s, err := stat.Stdout(ctx); err != nil || s != "1000\n" {
			t.Errorf("timestamp %q, %v", s, err)
		}
	})
}

func TestExport(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, out := within(t), t.TempDir()
		dest := filepath.Join(out, "new", "file.txt")
		if got, err := c.File("f", "text").Export(ctx, dest); err != nil || got != dest {
			t.Fatalf("exporting a file: %q, %v", got, err)
		}
		check(t, dest, "text")
		dir := c.Directory().WithNewFile("a", "A", dagger.DirectoryWithNewFileOpts{Permissions: 0o755}).WithNewFile("sub/b", "B").WithSymlink("a", "l")
		dest = filepath.Join(out, "dir")
		if err := os.MkdirAll(filepath.Join(dest, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dest, "sub", "mine"), "mine", 0o644)
		write(t, filepath.Join(dest, "a"), "old", 0o644)
		if _, err := dir.Export(ctx, dest); err != nil {
			t.Fatalf("exporting a directory: %v", err)
		}
		check(t, filepath.Join(dest, "a"), "A")
		check(t, filepath.Join(dest, "sub", "b"), "B")
		check(t, filepath.Join(dest, "sub", "mine"), "mine")
		if st, err := os.Stat(filepath.Join(dest, "a")); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
		if l, err := os.Readlink(filepath.Join(dest, "l")); err != nil || l != "a" {
			t.Errorf("link %q, %v", l, err)
		}
		if _, err := dir.Export(ctx, dest, dagger.DirectoryExportOpts{Wipe: true}); err != nil {
			t.Fatalf("exporting over a wiped directory: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dest, "sub", "mine")); !os.IsNotExist(err) {
			t.Errorf("a file survived the wipe: %v", err)
		}
		leftovers, _ := filepath.Glob(filepath.Join(out, ".drydock*"))
		if len(leftovers) > 0 {
			t.Errorf("left behind: %q", leftovers)
		}
	})
}

func check(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func TestHost(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, dir := within(t), t.TempDir()
		for name, text := range map[string]string{"a.go": "a", "b.md": "b", ".gitignore": "*.md\n", "sub/c.go": "c", "sub/d.md": "d", ".git/HEAD": ""} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name), text, 0o600)
		}
		for _, tc := range []struct {
			name string
			opts dagger.HostDirectoryOpts
			want []string
		}{
			{"all", dagger.HostDirectoryOpts{}, []string{".git/", ".git/HEAD", ".gitignore", "a.go", "b.md", "sub/", "sub/c.go", "sub/d.md"}},
			{"exclude", dagger.HostDirectoryOpts{Exclude: []string{"sub", "*.md", ".git"}}, []string{".gitignore", "a.go"}},
			{"include", dagger.HostDirectoryOpts{Include: []string{"**/*.go"}}, []string{"a.go", "sub/", "sub/c.go"}},
			{"gitignore", dagger.HostDirectoryOpts{Gitignore: true}, []string{".git/", ".git/HEAD", ".gitignore", "a.go", "sub/", "sub/c.go"}},
		} {
			got, err := c.Host().Directory(dir, tc.opts).Glob(ctx, "**")
			slices.Sort(got)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
			}
		}
		if s, err := c.Host().File(filepath.Join(dir, "a.go")).Contents(ctx); err != nil || s != "a" {
			t.Errorf("host file: %q, %v", s, err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if _, err := c.Host().File(filepath.Join(dir, "a.go")).Export(ctx, out); err != nil {
			t.Error(err)
		} else if st, err := os.Stat(out); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode of an exported host file: %v, %v", st.Mode(), err)
		}
		write(t, filepath.Join(dir, "a.go"), "changed", 0o600)
		if s, err := c.Host().Directory(dir, dagger.HostDirectoryOpts{NoCache: true}).File("a.go").Contents(ctx); err != nil || s != "changed" {
			t.Errorf("changed host file: %q, %v", s, err)
		}
		if s, err := c.Host().Directory(".").File("files_test.go").Contents(ctx); err != nil || !strings.Contains(s, "package conformance") {
			t.Errorf("relative host directory: %.40q, %v", s, err)
		}
	})
}

func TestMissing(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		dir := c.Directory().WithNewFile("there", "")
		for name, ask := range map[string]func() error{
			"file":           func() error { _, err := dir.File("nope").Contents(within(t)); return err },
			"file in file":   func() error { _, err := dir.File("there/nope").Contents(within(t)); return err },
			"file of empty":  func() error { _, err := c.Directory().File("nope").Contents(within(t)); return err },
			"directory":      func() error { _, err := dir.Directory("nope").Entries(within(t)); return err },
			"sync":           func() error { _, err := dir.Directory("nope").Sync(within(t)); return err },
			"host directory": func() error { _, err := c.Host().Directory("/nowhere/at/all").Entries(within(t)); return err },
			"host file":      func() error { _, err := c.Host().File("/nowhere/at/all").Contents(within(t)); return err },
			"export": func() error {
				_, err := dir.File("nope").Export(within(t), filepath.Join(t.TempDir(), "x"))
				return err
			},
		} {
			err := ask()
			if err == nil || !strings.Contains(err.Error(), "no such file or directory") && !strings.Contains(err.Error(), "not a directory") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
