// Command step is what Drydock runs inside the engine: a static program that
// is mounted into otherwise empty containers and, as their init, into the
// containers of images under test. It alone links syft and grype.
//
// Every subcommand reads files and writes files; none but reach uses a network. It exits
// with the codes of the main program and reports the error that ended it on
// one line of stderr (package wire).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"drydock/modules/artifact"
	"drydock/modules/steprun/wire"
)

// command is one subcommand.
type command struct {
	name, short string
	run         func(ctx context.Context, args []string, std streams) error
}

// streams is where a subcommand writes what is not a file.
type streams struct{ out, err io.Writer }

// commands is every subcommand, in the order --help shows them.
func commands() []command {
	return []command{
		{"normalize", "rewrite an image archive so that the same content is the same digest", runNormalize},
		{"leaks", "look for secrets in an image archive", runLeaks},
		{"compare", "say how an image built again differs from the one there was", runCompare},
		{"sbom", "make an image archive's bill of materials", runSBOM},
		{"scan", "find known vulnerabilities in a bill of materials", runScan},
		{"test", "run black-box tests, as the init of the image's own container", runTest},
		{"reach", "say which addresses the network of steps leads to", runReach},
		{"vulndb", "import or build a vulnerability database", runVulnDB},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr})
	if err == nil {
		return
	}
	if !errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintln(os.Stderr, wire.FormatError(err))
	}
	stop()
	os.Exit(artifact.ExitCode(err))
}

func run(ctx context.Context, args []string, std streams) error {
	if len(args) > 0 {
		for _, c := range commands() {
			if c.name == args[0] {
				// The container is empty. Temporary files go to its disk, not to memory.
				_ = os.MkdirAll(os.TempDir(), 0o1777)
				return c.run(ctx, args[1:], std)
			}
		}
	}
	_, _ = fmt.Fprintln(std.err, "usage: drydock-step COMMAND [flags]\n\nDrydock runs this program inside its engine; people run drydock.\n\nCommands:")
	for _, c := range commands() {
		_, _ = fmt.Fprintf(std.err, "  %-10s %s\n", c.name, c.short)
	}
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" {
		return flag.ErrHelp
	}
	return usage("unknown command %q", args[0])
}

// usage is an error in how the program was called.
func usage(format string, args ...any) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: "running drydock-step", Message: fmt.Sprintf(format, args...)}
}

// parse reads flags; every flag named in required must be set.
func parse(fs *flag.FlagSet, args []string, std streams, required ...string) error {
	fs.SetOutput(std.err)
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usage("%v", err)
	}
	if fs.NArg() > 0 {
		return usage("unexpected argument %q", fs.Arg(0))
	}
	for _, name := range required {
		if fs.Lookup(name).Value.String() == "" {
			return usage("%s: --%s is required", fs.Name(), name)
		}
	}
	return nil
}

// writeJSON writes a value to a file, making its directory.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(path, append(raw, '\n'))
}

func writeFile(path string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}
