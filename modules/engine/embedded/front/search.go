//go:build linux

package front

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
)

// searchParams are the arguments of the fields called search; their meaning is
// ripgrep's, which a Dagger Engine runs.
const searchParams = "pattern:s! literal:b multiline:b dotall:b insensitive:b skipIgnored:b skipHidden:b filesOnly:b limit:i paths:l globs:l"

// searched is one search.
type searched struct {
	*call
	ref     gateway.Reference
	root    string // of what is searched, absolute
	pattern *regexp.Regexp
	globs   []gitignore.Pattern
	chosen  bool // a glob says what is searched, not only what is not
	limit   int  // 0: none
	found   []object
}

func newSearch(c *call) (*searched, error) {
	text := c.str("pattern")
	if c.flag("literal") {
		text = regexp.QuoteMeta(text)
	}
	flags := "m"
	if c.flag("insensitive") {
		flags += "i"
	}
	if c.flag("multiline") && c.flag("dotall") {
		flags += "s"
	}
	re, err := regexp.Compile("(?" + flags + ":" + text + ")")
	if err != nil {
		return nil, usage(fmt.Sprintf("%s.%s: %q is not a regular expression: %v", c.typ, c.field, c.str("pattern"), err), "set literal to search for the text itself")
	}
	s := &searched{call: c, pattern: re, limit: c.num("limit"), found: []object{}}
	for _, glob := range c.strs("globs") {
		// with gitignore's meaning turned round, as ripgrep has it
		name, not := strings.CutPrefix(glob, "!")
		if !not {
			s.chosen, name = true, "!"+name
		}
		s.globs = append(s.globs, gitignore.ParsePattern(name, nil))
	}
	return s, nil
}

// searchDirectory searches the files below a directory, or below paths of it.
func searchDirectory(ctx context.Context, c *call, d *directory) (any, error) {
	s, err := newSearch(c)
	if err != nil {
		return nil, err
	}
	var dropped []string
	if c.flag("skipIgnored") {
		if dropped, err = c.gitIgnores(ctx, d); err != nil {
			return nil, err
		}
	}
	paths := c.strs("paths")
	if len(paths) == 0 {
		paths = []string{"."}
	}
	err = c.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		s.ref, s.root = ref, d.path
		for _, p := range paths {
			p = strings.TrimPrefix(path.Clean("./"+p), "/")
			if p == ".." || strings.HasPrefix(p, "../") {
				return usage(fmt.Sprintf("Directory.search: %s is not in the directory", p), "")
			}
			if err := s.below(ctx, p, dropped); err != nil {
				return err
			}
		}
		return nil
	})
	return s.found, err
}

// below searches a path, which is a file or a directory.
func (s *searched) below(ctx context.Context, p string, dropped []string) error {
	if s.ref == nil {
		return nil
	}
	at := path.Join(s.root, p)
	st, err := s.ref.StatFile(ctx, gateway.StatRequest{Path: at})
	if err != nil {
		return missing(at, err)
	}
	if !os.FileMode(st.Mode).IsDir() {
		return s.file(ctx, p)
	}
	return s.directory(ctx, p, dropped)
}

func (s *searched) directory(ctx context.Context, dir string, dropped []string) error {
	list, err := readDir(ctx, s.ref, path.Join(s.root, dir))
	if err != nil {
		return err
	}
	for _, st := range list {
		p, mode := path.Join(dir, path.Base(st.Path)), os.FileMode(st.Mode)
		if s.full() || !s.wants(p, mode.IsDir(), dropped) {
			continue
		}
		switch {
		case mode.IsDir():
			err = s.directory(ctx, p, dropped)
		case mode.IsRegular():
			err = s.file(ctx, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *searched) full() bool { return s.limit > 0 && len(s.found) >= s.limit }

// wants says whether a path found on the way is searched; one that was asked
// for always is.
func (s *searched) wants(p string, dir bool, dropped []string) bool {
	if s.flag("skipHidden") && strings.HasPrefix(path.Base(p), ".") {
		return false
	}
	for _, d := range dropped {
		if literally.Replace(p) == d {
			return false
		}
	}
	parts := strings.Split(p, "/")
	for i := len(s.globs) - 1; i >= 0; i-- {
		switch s.globs[i].Match(parts, dir) {
		case gitignore.Exclude:
			return false
		case gitignore.Include:
			return true
		}
	}
	return dir || !s.chosen
}

// file searches one file. One with a zero byte is not text, and left.
func (s *searched) file(ctx context.Context, p string) error {
	var buf bytes.Buffer
	at := path.Join(s.root, p)
	if _, err := copyFile(ctx, s.ref, at, &limited{w: &buf, left: maxContents, name: at}); err != nil {
		return err
	}
	s.text(p, buf.Bytes())
	return nil
}

// text notes what is found in a file: each line with its matches, or lines that
// a match spans.
func (s *searched) text(p string, text []byte) {
	if bytes.IndexByte(text, 0) >= 0 {
		return
	}
	line, counted := 1, 0
	for from := 0; from < len(text) && !s.full(); {
		to := len(text)
		if !s.flag("multiline") {
			if i := bytes.IndexByte(text[from:], '\n'); i >= 0 {
				to = from + i + 1
			}
		}
		part := text[from:to]
		all := s.pattern.FindAllIndex(bytes.TrimSuffix(part, []byte("\n")), -1)
		if s.flag("multiline") {
			all = s.pattern.FindAllIndex(part, -1)
		}
		if len(all) > 0 && s.flag("filesOnly") {
			s.found = append(s.found, searchRecord(p, 0, 0, nil, nil))
			return
		}
		for len(all) > 0 && !s.full() {
			start, end, n := span(part, all)
			line += bytes.Count(text[counted:from+start], []byte("\n"))
			counted = from + start
			if utf8.Valid(part[start:end]) {
				s.found = append(s.found, searchRecord(p, line, from+start, part[start:end], moved(all[:n], start)))
			}
			all = all[n:]
		}
		from = to
	}
}

// span is the whole lines that the first match is in, and how many of the
// matches are in them.
func span(text []byte, all [][]int) (start, end, n int) {
	start = bytes.LastIndexByte(text[:all[0][0]], '\n') + 1
	end = start
	for n = 0; n < len(all) && (n == 0 || all[n][0] < end); n++ {
		last := max(all[n][1]-1, all[n][0])
		end = len(text)
		if i := bytes.IndexByte(text[min(last, len(text)):], '\n'); i >= 0 {
			end = last + i + 1
		}
	}
	return start, end, n
}

func moved(all [][]int, by int) [][]int {
	out := make([][]int, len(all))
	for i, m := range all {
		out[i] = []int{m[0] - by, m[1] - by}
	}
	return out
}

func searchRecord(p string, line, offset int, lines []byte, matches [][]int) object {
	subs := []any{}
	for _, m := range matches {
		subs = append(subs, newRecord("SearchSubmatch", args{"text": string(lines[m[0]:m[1]]), "start": int64(m[0]), "end": int64(m[1])}).made())
	}
	return newRecord("SearchResult", args{
		"filePath": p, "lineNumber": int64(line), "absoluteOffset": int64(offset), "matchedLines": string(lines), "submatches": subs,
	})
}

// searchFile searches one file.
func searchFile(ctx context.Context, c *call, f *file) (any, error) {
	s, err := newSearch(c)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if err := c.copyOut(ctx, f, &limited{w: &buf, left: maxContents, name: f.path}); err != nil {
		return nil, err
	}
	s.text(f.base(), buf.Bytes())
	return s.found, nil
}
