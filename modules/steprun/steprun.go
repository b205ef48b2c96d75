// Package steprun runs the step program in the engine: a static binary in an
// otherwise empty container, with no network, read-only inputs and no keys.
// Whatever parses bytes that others wrote is run through it.
package steprun

import (
	"context"
	"errors"
	"sort"
	"strings"

	"dagger.io/dagger"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
)

const (
	// Program is where the step program is mounted in every container.
	Program = "/.drydock/step"
	// NetworkVariable set to "none" makes the embedded engine run a step with
	// loopback only. A Dagger Engine ignores it; the sandbox init sees to it.
	NetworkVariable = "DRYDOCK_NETWORK"
)

// Call is one run of the step program.
type Call struct {
	Binary string                       // the step program on this host, for the engine's platform
	Args   []string                     // subcommand and flags
	Files  map[string]*dagger.File      // mounted read-only inputs by path
	Dirs   map[string]*dagger.Directory // likewise
	Env    map[string]string

	// Secrets are mounted files too; what they hold is part of no cache key.
	Secrets map[string]*dagger.Secret
}

// Container is an empty container that runs the call; its outputs are read
// with File or Directory. Nothing runs until something is read from it.
func Container(c *dagger.Client, call Call) *dagger.Container {
	ctr := c.Container().WithMountedFile(Program, c.Host().File(call.Binary))
	for _, p := range sortedKeys(call.Files) {
		ctr = ctr.WithMountedFile(p, call.Files[p])
	}
	for _, p := range sortedKeys(call.Dirs) {
		ctr = ctr.WithMountedDirectory(p, call.Dirs[p])
	}
	for _, p := range sortedKeys(call.Secrets) {
		ctr = ctr.WithMountedSecret(p, call.Secrets[p])
	}
	ctr = ctr.WithEnvVariable(NetworkVariable, "none").WithEnvVariable("TMPDIR", "/tmp")
	for _, k := range sortedKeys(call.Env) {
		ctr = ctr.WithEnvVariable(k, call.Env[k])
	}
	return ctr.WithExec(append([]string{Program}, call.Args...))
}

// Explain turns what the engine says about a step that failed into the error
// the step itself reported, if it did; otherwise into an engine fault.
func Explain(ctx context.Context, op, place string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	text := err.Error()
	var exec *dagger.ExecError
	if errors.As(err, &exec) {
		text = exec.Stderr + "\n" + text
	}
	if f, ok := wire.ParseError(text); ok {
		if f.Place == "" {
			f.Place = place
		}
		return f
	}
	out := &artifact.Error{Kind: artifact.KindFault, Op: op, Place: place, Err: err}
	if exec != nil {
		out.Message = tail(exec.Stderr, 600)
	}
	return out
}

// tail is the last n bytes of s, from a line start where there is one.
func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
