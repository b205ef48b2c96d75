package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

// execGrace is how long a command may take to end when drydock is interrupted.
const execGrace = 10 * time.Second

func (p *program) engineExecVerb() *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a program that uses a Dagger SDK on the embedded engine", ArgsUsage: "-- CMD [ARG...]",
		Description: `Starts the embedded engine (or joins the one that runs), serves the Dagger API
on a port of loopback and runs CMD with DAGGER_SESSION_PORT and
DAGGER_SESSION_TOKEN in its environment, as dagger run does. Steps reach the
catalog's mirrors and nothing else; where no catalog is named and the default
one is not there, the mirrors of this machine's own clients. Standard streams are CMD's, and so is the
exit code; everything CMD started in the engine ends with it. README says which
part of the Dagger API there is.`,
		Flags: engineFlags(), Action: p.verb(p.engineExec),
	}
}

func (p *program) engineExec(c *cli.Context, s settings) (err error) {
	words := c.Args().Slice()
	if len(words) == 0 {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "running a program on the engine", Message: "no command is given",
			Remedy: "drydock engine exec -- go run ./ci",
		}
	}
	if s.Engine == engine.KindDagger {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "running a program on the engine", Place: "--engine dagger",
			Message: "a Dagger Engine has its own way to do this", Remedy: "use dagger run, or --engine embedded",
		}
	}
	if len(s.exports) > 0 {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "running a program on the engine", Place: "--cache-to " + s.CacheTo,
			Message: "what a program builds is not exported", Remedy: "leave it out; drydock run and drydock build export theirs",
		}
	}
	program, err := exec.LookPath(words[0])
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "running a program on the engine", Place: words[0],
			Err: err, Remedy: "check the spelling and PATH",
		}
	}
	s.Engine, s.noCatalog = engine.KindEmbedded, true
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := ses.close(); err == nil {
			err = cerr
		}
	}()
	e, err := ses.line.Engine()
	if err != nil {
		return err
	}
	return p.session(c.Context, e, program, words)
}

// session serves the engine and runs the command on it.
func (p *program) session(ctx context.Context, e *engine.Engine, program string, words []string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "serving the Dagger API", Err: err}
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return fmt.Errorf("making a session token: %w", err)
	}
	token := hex.EncodeToString(secret[:])
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	serveCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- e.Serve(serveCtx, l, token) }()
	err = p.runCommand(ctx, program, words, append(withoutDagger(p.environ), engine.SessionEnv(port, token)...))
	stop()
	return errors.Join(err, <-served)
}

// runCommand runs the command to its end; an interrupt is passed on to it.
func (p *program) runCommand(ctx context.Context, program string, words, environ []string) error {
	cmd := exec.CommandContext(ctx, program, words[1:]...)
	cmd.Args[0] = words[0]
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, p.in, p.out, p.err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = execGrace
	err := cmd.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() >= 0:
		return exitWith(ended.ExitCode())
	case errors.As(err, &ended):
		if ws, ok := ended.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ctx.Err() == nil {
			return exitWith(128 + int(ws.Signal()))
		}
		return artifact.ErrInterrupted
	case ctx.Err() != nil:
		return artifact.ErrInterrupted
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOEXEC):
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "running a program on the engine", Place: words[0], Err: err,
			Remedy: "give a program that can be executed",
		}
	}
	return err
}

// withoutDagger is an environment that names no other engine.
func withoutDagger(environ []string) []string {
	var out []string
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "DAGGER_SESSION_") && !strings.HasPrefix(name, "_EXPERIMENTAL_DAGGER_") {
			out = append(out, pair)
		}
	}
	return out
}

// lookup is a variable of the invocation's environment; the last one wins.
func (p *program) lookup(name string) (value string, ok bool) {
	for _, pair := range p.environ {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			value, ok = v, true
		}
	}
	return value, ok
}
