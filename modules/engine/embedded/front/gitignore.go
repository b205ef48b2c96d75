//go:build linux

package front

import (
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// gitRule is one line of a .gitignore file.
type gitRule struct {
	pattern gitignore.Pattern
}

func parseGitIgnore(base, text string) []gitRule {
	var domain []string
	if base != "." {
		domain = strings.Split(base, "/")
	}
	var rules []gitRule
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		rules = append(rules, gitRule{gitignore.ParsePattern(line, domain)})
	}
	return rules
}

// gitIgnored says whether a path is ignored: the last matching rule wins, and
// what lies in an ignored directory is ignored.
func gitIgnored(rules []gitRule, name string, dir bool) bool {
	if parent := path.Dir(name); parent != "." && gitIgnored(rules, parent, true) {
		return true
	}
	parts := strings.Split(name, "/")
	for i := len(rules) - 1; i >= 0; i-- {
		switch rules[i].pattern.Match(parts, dir) {
		case gitignore.Exclude:
			return true
		case gitignore.Include:
			return false
		}
	}
	return false
}
