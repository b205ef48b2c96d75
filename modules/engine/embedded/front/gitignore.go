//go:build linux

package front

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// parseGitIgnore gives the rules of a .gitignore file of the directory base.
func parseGitIgnore(base, text string) []gitignore.Pattern {
	var domain []string
	if base != "." {
		domain = strings.Split(base, "/")
	}
	var rules []gitignore.Pattern
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		rules = append(rules, gitignore.ParsePattern(line, domain))
	}
	return rules
}

// gitIgnored says whether a path is ignored: the last matching rule wins, and
// what lies in an ignored directory is ignored.
func gitIgnored(rules []gitignore.Pattern, name string, dir bool) bool {
	if parent := path.Dir(name); parent != "." && gitIgnored(rules, parent, true) {
		return true
	}
	parts := strings.Split(name, "/")
	for i := len(rules) - 1; i >= 0; i-- {
		switch rules[i].Match(parts, dir) {
		case gitignore.Exclude:
			return true
		case gitignore.Include:
			return false
		}
	}
	return false
}

// gitTree is a tree whose .gitignore files are read.
type gitTree struct {
	list func(dir string) (names map[string]bool, err error) // true: a directory
	read func(file string) (string, error)

	rules   []gitignore.Pattern
	dropped []string // what is ignored, without what lies in it
}

// walk reads the .gitignore files from a directory down, each before those
// below it, which have the last word. What is ignored is not looked into.
func (t *gitTree) walk(dir string) error {
	names, err := t.list(dir)
	if err != nil {
		return err
	}
	if isDir, there := names[".gitignore"]; there && !isDir {
		if err := t.load(dir); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(names) {
		p := path.Join(dir, name)
		if gitIgnored(t.rules, p, names[name]) {
			t.dropped = append(t.dropped, p)
			continue
		}
		if names[name] && name != ".git" {
			if err := t.walk(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// load adds the rules of a directory's own file.
func (t *gitTree) load(dir string) error {
	text, err := t.read(path.Join(dir, ".gitignore"))
	t.rules = append(t.rules, parseGitIgnore(dir, text)...)
	return err
}

// hostIgnores says what git ignores in a directory of the host: by the
// .gitignore files in it and above it, up to the repository it belongs to. In
// what is no repository nothing is ignored.
func hostIgnores(dir string) (func(string, bool) bool, error) {
	root := dir
	for ; ; root = filepath.Dir(root) {
		if _, err := os.Lstat(filepath.Join(root, ".git")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return func(string, bool) bool { return false }, nil
		}
	}
	tree := &gitTree{
		list: func(p string) (map[string]bool, error) { return hostNames(filepath.Join(root, p)) },
		read: func(p string) (string, error) {
			text, err := os.ReadFile(filepath.Join(root, p))
			return string(text), err
		},
	}
	own, err := filepath.Rel(root, dir)
	if err != nil {
		return nil, err
	}
	above := "."
	for _, part := range strings.Split(own, "/") {
		if own == "." {
			break
		}
		if err := tree.load(above); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		above = path.Join(above, part)
	}
	if own == "." || !gitIgnored(tree.rules, own, true) {
		err = tree.walk(own)
	}
	return func(name string, isDir bool) bool {
		p := path.Join(own, name)
		return p != "." && gitIgnored(tree.rules, p, isDir)
	}, err
}

func hostNames(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = e.IsDir()
	}
	return names, err
}

// gitIgnores are patterns for what the .gitignore files of a directory leave out.
func (s *Server) gitIgnores(ctx context.Context, d *directory) ([]string, error) {
	tree := &gitTree{}
	err := s.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		tree.list = func(p string) (map[string]bool, error) {
			entries, err := readDir(ctx, ref, path.Join(d.path, p))
			names := map[string]bool{}
			for _, e := range entries {
				names[path.Base(e.Path)] = os.FileMode(e.Mode).IsDir()
			}
			return names, err
		}
		tree.read = func(p string) (string, error) {
			var text strings.Builder
			_, err := copyFile(ctx, ref, path.Join(d.path, p), &text)
			return text.String(), err
		}
		return tree.walk(".")
	})
	patterns := make([]string, len(tree.dropped))
	for i, p := range tree.dropped {
		patterns[i] = literally.Replace(p)
	}
	return patterns, err
}

// literally makes a path a pattern for itself.
var literally = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`, "^", `\^`, "!", `\!`)
