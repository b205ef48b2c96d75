// Package dockerfile reads Dockerfiles as BuildKit does, says which images
// they build on, and puts the engine's spelling of those images in their
// place without moving a line.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"drydock/modules/artifact"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// scratch is the name of the empty image (dockerfile2llb's emptyImageName).
const scratch = "scratch"

// File is one parsed Dockerfile.
type File struct {
	Name   string // as given to Parse, used in errors
	Syntax string // reference in a "# syntax=" directive, "" if there is none
	Stages []Stage

	data   []byte
	escape rune
	meta   []instructions.ArgCommand
	code   []statement
}

// Stage is one FROM and what follows it.
type Stage struct {
	Name string // after AS, lower case, "" if unnamed
	From From
}

// From is one FROM instruction.
type From struct {
	Line     int
	Raw      string // reference as written, variables not replaced
	Name     string // reference with the defaults of global ARGs put in; "" when one has no default
	Platform string // --platform as written, "" if there is none
}

// BaseRef is one reference to an image outside the Dockerfile.
type BaseRef struct {
	Ref         string // with build arguments put in
	Line        int
	Instruction string // FROM, COPY or RUN
	Platform    string // --platform with build arguments put in (as written where one is not known); "" is the target platform
}

// statement is one instruction after the global ARGs.
type statement struct {
	node  *parser.Node
	stage int
	cmd   any // *instructions.Stage or instructions.Command
}

// Parse reads a Dockerfile; name is its path, for errors.
func Parse(name string, data []byte) (*File, error) {
	f := &File{Name: name, data: data}
	f.Syntax, _, _, _ = parser.DetectSyntax(data)
	res, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, f.fault(lineOf(err), err, "")
	}
	f.escape = res.EscapeToken
	for _, n := range res.AST.Children {
		if err := f.add(n); err != nil {
			return nil, err
		}
	}
	if len(f.Stages) == 0 {
		return nil, f.fault(1, errors.New("no FROM instruction"), "begin the first stage with FROM and a base of the catalog")
	}
	env, err := f.globals(nil)
	if err != nil {
		return nil, err
	}
	for i := range f.Stages {
		from := &f.Stages[i].From
		res, err := shell.NewLex(f.escape).ProcessWordWithMatches(from.Raw, env)
		if err != nil {
			return nil, f.fault(from.Line, err, "")
		}
		if !unknown(from.Raw, res.Unmatched) {
			from.Name = res.Result
		}
	}
	return f, nil
}

// unknown says whether a word depends on one of some variables that have no value:
// ${X:-default} and ${X:+other} say what they are without.
func unknown(word string, unmatched map[string]struct{}) bool {
	for k := range unmatched {
		if needs(word, k) {
			return true
		}
	}
	return false
}

// needs says whether a word has a variable that is to have a value.
func needs(word, variable string) bool {
	return regexp.MustCompile(`\$` + regexp.QuoteMeta(variable) + `([^A-Za-z0-9_]|$)|\$\{` + regexp.QuoteMeta(variable) + `(\}|:?\?|[#%/])`).MatchString(word)
}

// Frontend is the frontend the syntax directive names, and where it stands as
// file:line; "" when that is the Dockerfile language, which the engine has built
// in.
func (f *File) Frontend() (ref, place string) {
	if f.Syntax == "" || BuiltIn(f.Syntax) {
		return "", ""
	}
	return f.Syntax, fmt.Sprintf("%s:%d", f.Name, f.syntaxLine())
}

// BuiltIn says whether a reference means the Dockerfile language as Docker
// publishes it, in any version.
func BuiltIn(syntax string) bool {
	repo, _, _ := strings.Cut(syntax, "@")
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		repo = repo[:i]
	}
	repo = strings.TrimPrefix(repo, "docker.io/")
	return repo == "docker/dockerfile" || repo == "docker/dockerfile-upstream"
}

func (f *File) syntaxLine() int {
	if _, _, loc, ok := parser.DetectSyntax(f.data); ok && len(loc) > 0 {
		return max(loc[0].Start.Line, 1)
	}
	return 1
}

// add appends one instruction, as instructions.Parse does, keeping its node.
func (f *File) add(n *parser.Node) error {
	// A linter that says nothing: without one a check directive panics.
	cmd, err := instructions.ParseInstructionWithLinter(n, linter.New(&linter.Config{SkipAll: true}))
	if err != nil {
		return f.fault(n.StartLine, err, "")
	}
	switch c := cmd.(type) {
	case *instructions.ArgCommand:
		if len(f.Stages) == 0 {
			f.meta = append(f.meta, *c)
			return nil
		}
	case *instructions.Stage:
		f.Stages = append(f.Stages, Stage{
			Name: c.Name,
			From: From{Line: n.StartLine, Raw: c.BaseName, Platform: c.Platform},
		})
	}
	if len(f.Stages) == 0 {
		return f.fault(n.StartLine, fmt.Errorf("%s before the first FROM", strings.ToUpper(n.Value)), "only ARG may stand before FROM")
	}
	f.code = append(f.code, statement{node: n, stage: len(f.Stages) - 1, cmd: cmd})
	return nil
}

// globals is the environment FROM lines are expanded in: the given arguments
// BuildKit sets by itself, and the ARGs before the first FROM.
func (f *File) globals(args map[string]string) (values, error) {
	env := values{}
	for _, k := range automatic {
		if v, ok := args[k]; ok {
			env[k] = v
		}
	}
	lex := shell.NewLex(f.escape)
	for _, cmd := range f.meta {
		for _, kp := range cmd.Args {
			if v, ok := args[kp.Key]; ok {
				env[kp.Key] = v
				continue
			}
			if kp.Value == nil {
				continue
			}
			res, err := lex.ProcessWordWithMatches(*kp.Value, env)
			if err != nil {
				return nil, f.fault(lineOf(parser.WithLocation(err, cmd.Location())), err, "")
			}
			env[kp.Key] = res.Result
		}
	}
	return env, nil
}

// automatic are the arguments BuildKit defines without an ARG line
// (dockerfile2llb's defaultArgs).
var automatic = [...]string{
	"BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT",
	"TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT", "TARGETSTAGE",
}

// values is a shell.EnvGetter.
type values map[string]string

func (v values) Get(k string) (string, bool) { s, ok := v[k]; return s, ok }

func (v values) Keys() []string {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	return keys
}

// fault is an error at a line of the file.
func (f *File) fault(line int, err error, remedy string) error {
	if remedy == "" {
		remedy = "mend the Dockerfile at that line"
	}
	var le *parser.LocationError
	if errors.As(err, &le) && le.Unwrap() != nil {
		err = le.Unwrap()
	}
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading Dockerfile",
		Place: f.Name + ":" + strconv.Itoa(line), Message: err.Error(), Remedy: remedy,
	}
}

// lineOf is the first line a parser error speaks of.
func lineOf(err error) int {
	var le *parser.LocationError
	if !errors.As(err, &le) {
		return 1
	}
	for _, ranges := range le.Locations {
		for _, r := range ranges {
			return max(r.Start.Line, 1)
		}
	}
	return 1
}
