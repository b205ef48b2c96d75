package housetest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// On macOS and Windows everything but the embedded engine builds. Types are
// checked from source, without the bodies of other modules' functions: a few
// seconds where compiling takes minutes.
func TestOtherSystems(t *testing.T) {
	if testing.Short() {
		t.Skip("type-checks every dependency")
	}
	for _, system := range []string{"darwin/arm64", "windows/amd64", "linux/arm64"} {
		t.Run(strings.ReplaceAll(system, "/", "-"), func(t *testing.T) {
			none(t, system, typeViolations(t, root(t), system, "./pipeline", "./modules/..."))
		})
	}
}

func TestOtherSystemsSeenFailing(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module drydock\n\ngo 1.24\n",
		"a/a.go":  "package a\n\nimport \"syscall\"\n\nfunc Kill() { syscall.Kill(1, syscall.SIGTERM) }\n",
		"b/b.go":  "package b\n\nimport _ \"drydock/a\"\n",
		"c/c.go":  "package c\n\nimport \"os\"\n\nvar _ = os.Args\n",
		"b/x.txt": "",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	seen(t, typeViolations(t, dir, "windows/amd64", "./b", "./c"), "a.go:5:23: undefined: syscall.Kill")
	seen(t, typeViolations(t, dir, "linux/amd64", "./b", "./c"))
}

// typeViolations type-checks packages of the module in dir for another system.
func typeViolations(t testing.TB, dir, system string, patterns ...string) []string {
	t.Helper()
	goos, goarch, _ := strings.Cut(system, "/")
	config := &packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps |
			packages.NeedSyntax | packages.NeedTypes | packages.NeedModule,
		Dir: dir,
		Env: append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0"),
		ParseFile: func(fset *token.FileSet, name string, src []byte) (*ast.File, error) {
			f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
			if f != nil && !strings.HasPrefix(name, dir+string(filepath.Separator)) {
				withoutBodies(f)
			}
			return f, err
		},
	}
	found, err := packages.Load(config, patterns...)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	packages.Visit(found, nil, func(p *packages.Package) {
		ours := p.Module != nil && p.Module.Main
		for _, e := range p.Errors {
			// Imports look unused in a file without bodies: other modules' errors
			// of types do not count, those of finding and parsing them do.
			if ours || e.Kind != packages.TypeError {
				out = append(out, e.Error())
			}
		}
	})
	return out
}

func withoutBodies(f *ast.File) {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			fn.Body = nil
		}
	}
}
