//go:build linux

package front

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

// fault is an error with GraphQL extensions. The extension "kind" is usage,
// fault or internal, "place" is file:line, "remedy" how to mend it.
type fault struct {
	message string
	ext     map[string]any
	err     error
}

func (f *fault) Error() string { return f.message }
func (f *fault) Unwrap() error { return f.err }

func usage(message, remedy string) error {
	f := &fault{message: message, ext: map[string]any{"kind": "usage"}}
	if remedy != "" {
		f.ext["remedy"] = remedy
	}
	return f
}

// pathError is an error and where in the query it happened.
type pathError struct {
	error
	path ast.Path
}

func (e *pathError) Unwrap() error { return e.error }

// located notes where an error happened, innermost place wins.
func located(err error, path ast.Path) error {
	var have *pathError
	if errors.As(err, &have) {
		return err
	}
	return &pathError{error: err, path: path}
}

// asGraphQL is the error as the response says it, without secrets.
func asGraphQL(err error, hide *redactor) *gqlerror.Error {
	out := &gqlerror.Error{Message: hide.text(stripTokens(err.Error()))}
	var p *pathError
	if errors.As(err, &p) {
		out.Path = p.path
	}
	var f *fault
	var g *gqlerror.Error
	switch {
	case errors.As(err, &f):
		out.Extensions = map[string]any{}
		for k, v := range f.ext {
			out.Extensions[k] = hide.value(v)
		}
	case errors.As(err, &g):
		out.Locations = g.Locations
	}
	return out
}

// solveError explains an error of BuildKit: a step that failed becomes an
// EXEC_ERROR with its output, at the Dockerfile line it stands on.
func (s *Server) solveError(err error) error {
	if err == nil {
		return nil
	}
	var have *fault
	if errors.As(err, &have) || errors.Is(err, context.Canceled) {
		return err
	}
	place, instruction := dockerfileLine(err)
	ext := map[string]any{}
	if place != "" {
		ext["place"], ext["kind"] = place, "usage"
	}
	var exit *gatewaypb.ExitError
	if !errors.As(err, &exit) {
		maps.Copy(ext, s.failures.get(err.Error()).ext)
		return &fault{message: prefixed(place, instruction, stripTokens(rootMessage(err))), ext: ext, err: err}
	}
	rec := s.failures.get(err.Error())
	cmd := rec.args
	if len(cmd) == 0 {
		cmd = execArgs(err)
	}
	ext["_type"], ext["cmd"], ext["exitCode"] = "EXEC_ERROR", cmd, int(exit.ExitCode)
	ext["stdout"], ext["stderr"] = rec.stdout, rec.stderr
	message := fmt.Sprintf("process %q did not complete successfully: exit code: %d", strings.Join(cmd, " "), exit.ExitCode)
	if rec.note != "" {
		message += ": " + rec.note
	}
	if place != "" {
		message = prefixed(place, instruction, message)
		if tail := lastLines(rec.stderr, 10); tail != "" {
			message += "\n" + tail
		}
	}
	return &fault{message: message, ext: ext, err: err}
}

func prefixed(place, instruction, message string) string {
	if place == "" {
		return message
	}
	if instruction == "" {
		return place + ": " + message
	}
	return place + ": " + instruction + ": " + message
}

// ourMounts are the mounts drydock gives every RUN: nobody wrote them, and a
// line of a Dockerfile is shown without them.
var ourMounts = regexp.MustCompile(` --mount=type=secret,id=drydock-[^ ]*`)

// dockerfileLine is file:line and the first line of the instruction an error names.
func dockerfileLine(err error) (place, instruction string) {
	sources := errdefs.Sources(err)
	if len(sources) == 0 {
		return "", ""
	}
	src := sources[len(sources)-1]
	if src.Info == nil || len(src.Ranges) == 0 {
		return "", ""
	}
	line := int(src.Ranges[0].Start.Line)
	lines := strings.Split(string(src.Info.Data), "\n")
	if line >= 1 && line <= len(lines) {
		instruction = shorten(ourMounts.ReplaceAllString(strings.TrimSpace(lines[line-1]), ""), 120)
	}
	return fmt.Sprintf("%s:%d", src.Info.Filename, line), instruction
}

// execArgs is the command of the step an error came from.
func execArgs(err error) []string {
	var solve *errdefs.SolveError
	if errors.As(err, &solve) && solve.Op.GetExec() != nil && solve.Op.GetExec().Meta != nil {
		return solve.Op.GetExec().Meta.Args
	}
	return nil
}

// rootMessage drops what the transport puts in front of an error.
func rootMessage(err error) string {
	message := err.Error()
	for _, noise := range []string{"failed to run Build function: ", "failed to solve: ", "rpc error: code = Unknown desc = "} {
		message = strings.ReplaceAll(message, noise, "")
	}
	return message
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
