package dockerfile

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Rewrite gives the Dockerfile with every reference Bases lists for a target
// replaced by what spell makes of it, and without its syntax directive. Every
// line keeps its number, so that the engine's errors name the user's own lines.
func (f *File) Rewrite(target string, args map[string]string, spell func(ref string) (string, error)) ([]byte, error) {
	refs, err := f.references(target, args)
	if err != nil {
		return nil, err
	}
	spelled := make([]string, len(refs))
	for i, r := range refs {
		if spelled[i], err = spell(r.Ref); err != nil {
			return nil, f.fault(r.Line, err, "")
		}
		if spelled[i] == "" || strings.ContainsAny(spelled[i], "$\"'\\`, \t\r\n") {
			return nil, f.fault(r.Line, fmt.Errorf("%q is not a reference", spelled[i]), "")
		}
	}
	lines := bytes.SplitAfter(f.data, []byte("\n"))
	for i := 0; i < len(refs); {
		j := i
		for j < len(refs) && refs[j].at == refs[i].at {
			j++
		}
		if err := f.replace(lines, refs[i:j], spelled[i:j]); err != nil {
			return nil, err
		}
		i = j
	}
	f.dropSyntax(lines)
	out := bytes.Join(lines, nil)
	if err := f.verify(out, target, args, refs, spelled); err != nil {
		return nil, err
	}
	return out, nil
}

// replace puts the spellings of one instruction's references in their place.
func (f *File) replace(lines [][]byte, refs []reference, spelled []string) error {
	n := f.code[refs[0].at].node
	first, last := n.StartLine-1, min(n.EndLine, len(lines))
	if refs[0].Instruction == "FROM" {
		replaceFrom(lines[first:last], n, spelled[0])
		return nil
	}
	text := string(bytes.Join(lines[first:last], nil))
	cursor := 0
	for i, r := range refs {
		at := find(text, r, cursor)
		if at < 0 {
			return f.fault(r.Line, fmt.Errorf("%w: %s", errMoved, r.Ref), "write the option plainly, on one line and without quotes")
		}
		text = text[:at] + spelled[i] + text[at+len(r.written):]
		cursor = at + len(spelled[i])
	}
	copy(lines[first:last], bytes.SplitAfter([]byte(text), []byte("\n")))
	return nil
}

// replaceFrom writes a FROM anew on its first line and empties the others.
func replaceFrom(lines [][]byte, n *parser.Node, ref string) {
	words := append([]string{"FROM"}, n.Flags...)
	words = append(words, ref)
	for a := n.Next.Next; a != nil; a = a.Next {
		words = append(words, a.Value)
	}
	rewriteLines(lines, strings.Join(words, " "))
}

// rewriteLines puts an instruction on its first line and empties the others.
func rewriteLines(lines [][]byte, instruction string) {
	for i, l := range lines {
		end := ""
		if bytes.HasSuffix(l, []byte("\r\n")) {
			end = "\r\n"
		} else if bytes.HasSuffix(l, []byte("\n")) {
			end = "\n"
		}
		if i == 0 {
			lines[i] = []byte(instruction + end)
		} else {
			lines[i] = []byte(end)
		}
	}
}

// find gives the offset of the reference's text at or after from, where it
// stands as the value of its option.
func find(text string, r reference, from int) int {
	key, before, after := "--from=", " \t\n", " \t\r\n\\`"
	if r.Instruction == "RUN" {
		key, before, after = "from=", "=,\"'", ",\"' \t\r\n"
	}
	for {
		i := strings.Index(text[from:], key+r.written)
		if i < 0 {
			return -1
		}
		start := from + i
		end := start + len(key) + len(r.written)
		opens := start > 0 && strings.ContainsRune(before, rune(text[start-1]))
		closes := end == len(text) || strings.ContainsRune(after, rune(text[end]))
		if opens && closes {
			return start + len(key)
		}
		from = start + 1
	}
}

// dropSyntax takes the syntax directive out: the engine would fetch the
// frontend it names, and has its own. Other directives stay the first lines,
// since a comment before them would end them.
func (f *File) dropSyntax(lines [][]byte) {
	if f.Syntax == "" {
		return
	}
	at := f.syntaxLine() - 1
	next := at + 1
	for next < len(lines) && f.isDirective(lines[next]) {
		lines[next-1] = lines[next]
		next++
	}
	lines[next-1] = []byte("#\n")
	if next == len(lines) {
		lines[next-1] = []byte("#")
	}
}

// isDirective says whether a line after the syntax directive is another one.
func (f *File) isDirective(line []byte) bool {
	var p parser.DirectiveParser
	d, err := p.ParseLine(bytes.TrimRight(line, "\r\n"))
	return err == nil && d != nil
}

// verify reads the result back: the same instructions on the same lines, and
// the references replaced.
func (f *File) verify(out []byte, target string, args map[string]string, refs []reference, spelled []string) error {
	again, err := Parse(f.Name, out)
	if err != nil {
		return err
	}
	got, err := again.references(target, args)
	if err != nil {
		return err
	}
	same := len(got) == len(refs) && len(again.code) == len(f.code) &&
		bytes.Count(out, []byte("\n")) == bytes.Count(f.data, []byte("\n"))
	for i := 0; same && i < len(got); i++ {
		same = got[i].Ref == spelled[i] && got[i].Line == refs[i].Line && got[i].Instruction == refs[i].Instruction
	}
	for i := 0; same && i < len(again.code); i++ {
		same = again.code[i].node.StartLine == f.code[i].node.StartLine
	}
	if !same {
		line := 1
		if len(refs) > 0 {
			line = refs[0].Line
		}
		return f.fault(line, errMoved, "write FROM, --from= and from= plainly, on one line and without quotes")
	}
	return nil
}
