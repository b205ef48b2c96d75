package housetest

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

const (
	maxFileLines  = 600
	maxFuncLines  = 100
	maxComplexity = 15
)

func TestSizes(t *testing.T) { none(t, "sizes", sizeViolations(repository(t).sources(t))) }

func TestSizesSeenFailing(t *testing.T) {
	long := "package a\n\nfunc long() {\n" + strings.Repeat("\tprintln()\n", maxFuncLines) + "}\n"
	file := "package a\n" + strings.Repeat("\n", maxFileLines)
	branchy := "package a\n\nfunc (t *T) branchy(x int) {\n" + strings.Repeat("\tif x > 0 && x < 9 {\n\t}\n", 8) + "}\n"
	tr := tree{"a/long.go": []byte(long), "a/file.go": []byte(file), "a/b.go": []byte(branchy), "a/ok.go": []byte("package a\n")}
	seen(
		t, sizeViolations(tr.sources(t)),
		"a/long.go:3: long has 102 lines", "a/file.go has 601 lines", "a/b.go:3: T.branchy has cyclomatic complexity 17",
	)
}

func sizeViolations(sources []source) []string {
	var out []string
	for _, s := range sources {
		if s.test {
			continue // tables and scripts may be long
		}
		if s.size > maxFileLines {
			out = append(out, fmt.Sprintf("%s has %d lines, at most %d", s.name, s.size, maxFileLines))
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if lines > maxFuncLines {
				out = append(out, fmt.Sprintf("%s: %s has %d lines, at most %d", s.at(f), funcName(f), lines, maxFuncLines))
			}
			if c := complexity(f.Body); c > maxComplexity {
				out = append(out, fmt.Sprintf("%s: %s has cyclomatic complexity %d, at most %d", s.at(f), funcName(f), c, maxComplexity))
			}
		}
	}
	return out
}

func funcName(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	return receiver(f.Recv.List[0].Type) + "." + f.Name.Name
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	}
	return "?"
}

// complexity counts as gocyclo does: one, and one for every way to branch.
func complexity(body ast.Node) int {
	n := 1
	ast.Inspect(body, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if node.List != nil {
				n++
			}
		case *ast.CommClause:
			if node.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if node.Op == token.LAND || node.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

func TestManners(t *testing.T) { none(t, "manners", mannersViolations(repository(t).sources(t))) }

func TestMannersSeenFailing(t *testing.T) {
	seen(
		t, mannersViolations(fixture(t, "manners.txtar").sources(t)),
		"modules/x/x.go:13: init()", "modules/x/x.go:15: os.Getenv", "modules/x/x.go:16: os.Exit", "modules/x/x.go:17: log.Fatalf",
		"modules/x/x.go:18: the package's variable count is changed", "modules/x/x.go:19: the package's variable count is changed",
		"modules/x/x.go:20: the package's variable table is changed", "modules/x/x.go:30: Exported has no comment",
		"modules/x/x.go:32: T has no comment", "modules/x/x.go:34: T.Method has no comment", "modules/x/x.go:39: Loose has no comment",
		"pipeline/x_test.go:6: init()",
	)
}

// forbidden calls below package main: the program's edges are its arguments.
var forbidden = map[string]map[string]bool{
	"os":      {"Exit": true, "Getenv": true, "LookupEnv": true, "Environ": true, "ExpandEnv": true},
	"log":     {"Fatal": true, "Fatalf": true, "Fatalln": true},
	"syscall": {"Exit": true, "Getenv": true, "Environ": true},
}

func mannersViolations(sources []source) []string {
	globals := map[string]map[string]bool{} // folder and package -> variables
	for _, s := range sources {
		key := s.dir + " " + s.file.Name.Name
		if globals[key] == nil {
			globals[key] = map[string]bool{}
		}
		for _, d := range s.file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
				for _, spec := range g.Specs {
					for _, n := range spec.(*ast.ValueSpec).Names {
						globals[key][n.Name] = true
					}
				}
			}
		}
	}
	var out []string
	for _, s := range sources {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && f.Name.Name == "init" {
				out = append(out, s.at(f)+": init() hides when things happen; call it")
			}
			if ok && f.Body != nil && !s.test {
				out = append(out, changes(s, f, globals[s.dir+" "+s.file.Name.Name])...)
			}
		}
		if !s.test && s.file.Name.Name != "main" {
			out = append(out, edges(s)...)
		}
		if !s.test {
			out = append(out, uncommented(s)...)
		}
	}
	return out
}

// edges lists what only package main may do. The engine child is the same
// executable re-executed and has no main of its own to be handed anything.
func edges(s source) []string {
	var out []string
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if !ok || !forbidden[pkg.Name][sel.Sel.Name] {
			return true
		}
		if sel.Sel.Name != "Exit" && below(s.dir, "modules/engine/embedded") {
			return true
		}
		out = append(out, fmt.Sprintf("%s: %s.%s outside package main; hand it in", s.at(n), pkg.Name, sel.Sel.Name))
		return true
	})
	return out
}

// changes lists assignments to the package's variables. It goes by names: a
// name the function declares itself is not the package's.
func changes(s source, f *ast.FuncDecl, globals map[string]bool) []string {
	local := declared(f)
	var out []string
	check := func(e ast.Expr) {
		if name := base(e); name != "" && name != "_" && globals[name] && !local[name] {
			out = append(out, fmt.Sprintf("%s: the package's variable %s is changed", s.at(e), name))
		}
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, l := range n.Lhs {
					check(l)
				}
			}
		case *ast.IncDecStmt:
			check(n.X)
		}
		return true
	})
	return out
}

func base(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return base(e.X)
	case *ast.SelectorExpr:
		return base(e.X)
	case *ast.StarExpr:
		return base(e.X)
	case *ast.ParenExpr:
		return base(e.X)
	}
	return ""
}

func declared(f *ast.FuncDecl) map[string]bool {
	local := map[string]bool{}
	add := func(fields *ast.FieldList) {
		if fields == nil {
			return
		}
		for _, fl := range fields.List {
			for _, n := range fl.Names {
				local[n.Name] = true
			}
		}
	}
	add(f.Recv)
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			add(n.Params)
			add(n.Results)
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, l := range n.Lhs {
					local[base(l)] = true
				}
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				for _, l := range []ast.Expr{n.Key, n.Value} {
					if l != nil {
						local[base(l)] = true
					}
				}
			}
		case *ast.ValueSpec:
			for _, name := range n.Names {
				local[name.Name] = true
			}
		}
		return true
	})
	return local
}

// uncommented lists exported names without a comment.
func uncommented(s source) []string {
	var out []string
	miss := func(n ast.Node, name string) { out = append(out, s.at(n)+": "+name+" has no comment") }
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			exported := d.Name.IsExported() && (d.Recv == nil || ast.IsExported(strings.Split(funcName(d), ".")[0]))
			if exported && d.Doc == nil {
				miss(d, funcName(d))
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
						miss(spec, spec.Name.Name)
					}
				case *ast.ValueSpec:
					if spec.Names[0].IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						miss(spec, spec.Names[0].Name)
					}
				}
			}
		}
	}
	return out
}
