package housetest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// tree is a set of files by slash-separated path: what would be committed.
type tree map[string][]byte

// root is the folder of go.mod.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the test")
	return ""
}

// repository reads the files git would commit, or everything when this is not
// a checkout.
func repository(t testing.TB) tree {
	t.Helper()
	dir := root(t)
	names := tracked(dir)
	if names == nil {
		names = walk(t, dir)
	}
	out := tree{}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			continue // deleted but not yet committed, or a link to a folder
		}
		out[name] = b
	}
	if len(out["go.mod"]) == 0 || len(out) < 10 {
		t.Fatalf("found %d files under %s", len(out), dir)
	}
	return out
}

func tracked(dir string) []string {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(strings.Split(string(out), "\x00"), func(s string) bool { return s == "" })
}

func walk(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() && (rel == ".git" || rel == "out" || rel == ".drydock") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			names = append(names, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// fixture reads a tree from a txtar file.
func fixture(t testing.TB, name string) tree {
	t.Helper()
	ar, err := txtar.ParseFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	out := tree{}
	for _, f := range ar.Files {
		out[f.Name] = f.Data
	}
	return out
}

// source is one parsed Go file.
type source struct {
	name string // path in the tree
	dir  string
	test bool
	fset *token.FileSet
	file *ast.File
	size int // lines
}

func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.name, s.fset.Position(n.Pos()).Line)
}

// imports lists the import paths with their places.
func (s source) imports() map[string]string {
	out := map[string]string{}
	for _, im := range s.file.Imports {
		if p, err := strconv.Unquote(im.Path.Value); err == nil {
			out[p] = s.at(im)
		}
	}
	return out
}

// sources parses every Go file, whatever its build constraints; testdata and
// generated files are not ours.
func (tr tree) sources(t testing.TB) []source {
	t.Helper()
	var out []source
	for name, b := range tr {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, b, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(f) {
			continue
		}
		out = append(out, source{
			name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"),
			fset: fset, file: f, size: strings.Count(string(b), "\n"),
		})
	}
	slices.SortFunc(out, func(a, b source) int { return strings.Compare(a.name, b.name) })
	return out
}

// none fails with every violation in words.
func none(t *testing.T, rule string, violations []string) {
	t.Helper()
	slices.Sort(violations)
	for _, v := range violations {
		t.Errorf("%s: %s", rule, v)
	}
}

// seen requires that the rule was violated exactly at the given places.
func seen(t *testing.T, violations []string, want ...string) {
	t.Helper()
	slices.Sort(violations)
	slices.Sort(want)
	if len(violations) != len(want) {
		t.Fatalf("%d violations, want %d:\n%s", len(violations), len(want), strings.Join(violations, "\n"))
	}
	for i, v := range violations {
		if !strings.Contains(v, want[i]) {
			t.Errorf("violation %q, want %q", v, want[i])
		}
	}
}
