package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"drydock/modules/artifact"
	"drydock/pipeline/report"
)

// version is set by release builds with -ldflags.
var version = "0.2.0-dev"

// Main is the program: it returns the exit code and never ends the process.
func Main(ctx context.Context, s streams, args, environ []string) int {
	app := newApp(s, environ, args...)
	asJSON := wantsJSON(args)
	err := app.RunContext(ctx, append([]string{app.Name}, arrange(app, args)...))
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, artifact.ErrInterrupted) {
		err = artifact.ErrInterrupted
	}
	var done *exitError
	if errors.As(err, &done) {
		return done.code
	}
	if err != nil {
		if asJSON {
			_ = report.PrintErrorJSON(s.out, err) // the exit code still tells
		}
		_ = report.PrintError(s.err, err)
	}
	return artifact.ExitCode(err)
}

// exitError carries an exit code whose reasons were already printed.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// exitWith is nil for 0.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code}
}

func wantsJSON(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == "--json" || a == "-json" || a == "--json=true" {
			return true
		}
	}
	return false
}

func newApp(s streams, environ []string, args ...string) *cli.App {
	app := &cli.App{
		Name:                 "drydock",
		Usage:                "build container images from mirrors only, inspect them, promote them by digest",
		UsageText:            "drydock [verb] [flags] [arguments]      (without a verb: run)",
		Version:              version,
		Writer:               s.out,
		ErrWriter:            s.err,
		Reader:               s.in,
		HideHelpCommand:      true,
		EnableBashCompletion: false,
		ExitErrHandler:       func(*cli.Context, error) {},
		OnUsageError:         usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownVerb(c.App, c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Description: exitCodesHelp,
	}
	p := &program{streams: s, environ: environ, args: args}
	app.Commands = p.verbs()
	finishCommands(app.Commands)
	return app
}

const exitCodesHelp = `Exit codes: 0 done and passed, 1 a gate said no, 2 usage, configuration or
catalog error, 3 engine, network or registry fault (worth a retry), 4 internal
error, 130 interrupted. stdout carries the result only; progress and logs go to
stderr. Flags may stand before the verb and after arguments. Every flag can be
given as an environment variable: --fail-fast is DRYDOCK_FAIL_FAST.`

// finishCommands gives every verb the same manners.
func finishCommands(cs []*cli.Command) {
	for _, c := range cs {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		if len(c.Subcommands) > 0 {
			finishCommands(c.Subcommands)
			if c.Action == nil {
				c.Action = needsSubVerb
			}
		}
	}
}

func needsSubVerb(c *cli.Context) error {
	names := []string{}
	for _, s := range c.Command.Subcommands {
		names = append(names, s.Name)
	}
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading command line", Place: c.Command.Name + " " + c.Args().First(),
		Message: "a sub-verb is needed", Remedy: "one of: " + strings.Join(names, ", "),
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := c.App.Name
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName // with the verbs it belongs to
	}
	return &artifact.Error{Kind: artifact.KindUsage, Op: "reading command line", Err: err, Remedy: "see " + name + " --help"}
}

func unknownVerb(app *cli.App, name string) error {
	e := &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading command line", Place: name,
		Message: "no such verb", Remedy: "see drydock --help",
	}
	for _, c := range app.Commands {
		if strings.HasPrefix(c.Name, name) || strings.HasPrefix(name, c.Name) {
			e.Remedy = "did you mean drydock " + c.Name + "?"
		}
	}
	return e
}

// noArguments refuses arguments a verb has no use for.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: c.Args().First(),
			Message: c.Command.Name + " takes no arguments",
			Remedy:  "choose images with --image NAME; see drydock " + c.Command.Name + " --help",
		}
	}
	return nil
}

// printJSON writes v as the result.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
