package dockerfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Added is one ADD of an address, with its variables put in.
type Added struct {
	Place    string // file:line
	URL      string
	Name     string // of the file it becomes in a folder
	Checksum string // of --checksum, "" without one
}

// CopyFetched replaces every ADD of an address by a COPY of a file of that name
// out of the image that place puts it in. Lines keep their numbers. It is for
// engines that reach no mirror, or check no checksum.
func (f *File) CopyFetched(args map[string]string, place func(Added) (ref string, err error)) ([]byte, error) {
	globals, err := f.globals(args)
	if err != nil {
		return nil, err
	}
	lex := shell.NewLex(f.escape)
	env := values{}
	lines := bytes.SplitAfter(f.data, []byte("\n"))
	for _, st := range f.code {
		switch c := st.cmd.(type) {
		case *instructions.Stage:
			env = maps.Clone(globals)
			for k := range env {
				if _, automatic := args[k]; !automatic {
					delete(env, k) // global until an ARG asks for it
				}
			}
		case *instructions.ArgCommand:
			for _, a := range c.Args {
				if v, ok := argument(a, args, globals); ok {
					env[a.Key] = v
				} else if a.Value != nil {
					env[a.Key] = *a.Value
				}
			}
		case *instructions.EnvCommand:
			for _, kv := range c.Env {
				env[kv.Key] = kv.Value
			}
		case *instructions.AddCommand:
			if err := f.copyFetched(lines, st, c, lex, env, place); err != nil {
				return nil, err
			}
		}
	}
	return bytes.Join(lines, nil), nil
}

// argument is what an ARG is given from outside its stage.
func argument(a instructions.KeyValuePairOptional, args map[string]string, globals values) (string, bool) {
	if v, ok := args[a.Key]; ok {
		return v, true
	}
	if a.Value != nil {
		return "", false
	}
	v, ok := globals[a.Key]
	return v, ok
}

func (f *File) copyFetched(lines [][]byte, st statement, c *instructions.AddCommand, lex *shell.Lex, env values, place func(Added) (string, error)) error {
	n := st.node
	if !slices.ContainsFunc(c.SourcePaths, isAddress) {
		return nil
	}
	if len(c.SourcePaths)+len(c.SourceContents) != 1 || c.Unpack != nil && *c.Unpack {
		return f.fault(n.StartLine, errors.New("this engine cannot add an address together with other sources, nor unpack it"),
			"give the address an ADD of its own and unpack it with RUN, or use the embedded engine")
	}
	added, err := addedBy(c, lex, env)
	if err != nil {
		return f.fault(n.StartLine, err, "write the address out, or use the embedded engine")
	}
	added.Place = fmt.Sprintf("%s:%d", f.Name, n.StartLine)
	ref, err := place(added)
	if err != nil {
		return err
	}
	operands, err := json.Marshal([]string{"/" + added.Name, c.DestPath})
	if err != nil {
		return err
	}
	words := []string{"COPY", "--from=" + ref}
	for _, flag := range n.Flags {
		if !strings.HasPrefix(flag, "--checksum") {
			words = append(words, flag)
		}
	}
	if c.Chmod == "" {
		words = append(words, "--chmod=0600") // as ADD has it
	}
	rewriteLines(lines[n.StartLine-1:min(n.EndLine, len(lines))], strings.Join(append(words, string(operands)), " "))
	return nil
}

// addedBy puts the variables into an ADD of one address.
func addedBy(c *instructions.AddCommand, lex *shell.Lex, env values) (Added, error) {
	var words [2]string
	for i, word := range []string{c.SourcePaths[0], c.Checksum} {
		res, err := lex.ProcessWordWithMatches(word, env)
		if err != nil {
			return Added{}, err
		}
		if unknown(word, res.Unmatched) {
			return Added{}, fmt.Errorf("%s has a variable whose value only the base knows", word)
		}
		words[i] = res.Result
	}
	u, err := url.Parse(words[0])
	if err != nil {
		return Added{}, err
	}
	out := Added{URL: words[0], Checksum: words[1], Name: path.Base(u.Path)}
	if out.Name == "." || out.Name == "/" || strings.ContainsAny(out.Name, "$\"'\\` \t*?[") {
		return Added{}, fmt.Errorf("%s names no file that can be added by this engine", out.URL)
	}
	return out, nil
}

// isAddress says whether a source of ADD is a file to fetch; what git clones is none.
func isAddress(source string) bool {
	if !strings.HasPrefix(source, "http://") && !strings.HasPrefix(source, "https://") {
		return false
	}
	u, err := url.Parse(source)
	return err != nil || !strings.HasSuffix(u.Path, ".git") && u.Fragment == ""
}

// ReachesOut says whether a build reaches something by itself though every RUN is
// cut off and every address fetched before: what ADD clones, and a RUN that asks
// for the machine's network or privileges.
func (f *File) ReachesOut() bool {
	for _, st := range f.code {
		add, ok := st.cmd.(*instructions.AddCommand)
		if ok && slices.ContainsFunc(add.SourcePaths, func(s string) bool {
			return !isAddress(s) && (strings.Contains(s, "://") || strings.HasPrefix(s, "git@") || strings.Contains(s, "$"))
		}) {
			return true
		}
	}
	return len(f.Demands()) > 0
}
