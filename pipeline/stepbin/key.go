package stepbin

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"go/parser"
	"go/token"
	"hash"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// sourceKey names what the program is made of: the files of its package and of
// every package of the module it imports, with the versions of the rest.
func sourceKey(root, arch string) (string, error) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "step program 1 %s\n", arch)
	for _, f := range []string{"go.mod", "go.sum"} {
		if err := addFile(h, root, f); err != nil {
			return "", err
		}
	}
	todo, seen := []string{program}, map[string]bool{program: true}
	for len(todo) > 0 {
		sort.Strings(todo)
		dir := todo[0]
		todo = todo[1:]
		imports, err := addPackage(h, root, dir)
		if err != nil {
			return "", err
		}
		for _, i := range imports {
			if !seen[i] {
				seen[i] = true
				todo = append(todo, i)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// addPackage hashes a package's files and returns the module's packages it
// imports. Files for other systems count too: simpler, and seldom wrong.
func addPackage(h hash.Hash, root, dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(dir)))
	if err != nil {
		return nil, err
	}
	var imports []string
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasSuffix(e.Name(), "_test.go") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		name := path.Join(dir, e.Name())
		if err := addFile(h, root, name); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(name)), nil, parser.ImportsOnly)
		if err != nil {
			return nil, err
		}
		for _, s := range f.Imports {
			p, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return nil, err
			}
			if sub, ok := strings.CutPrefix(p, module+"/"); ok {
				imports = append(imports, sub)
			}
		}
	}
	return imports, nil
}

func addFile(h hash.Hash, root, name string) error {
	raw, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	_, err = fmt.Fprintf(h, "%s %x\n", name, sum)
	return err
}
