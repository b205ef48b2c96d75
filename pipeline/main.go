// Drydock builds container images where nothing but the company's mirrors can
// be reached, inspects them, and promotes by digest what passed.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

// streams are the three a program has. The result goes to out and nothing
// else does; progress and logs go to err.
type streams struct {
	in       io.Reader
	out, err io.Writer
	tty      bool // err is a terminal
}

func main() {
	// The same executable is the embedded engine's process and a step's init.
	if handled, code := engine.Child(os.Args); handled {
		os.Exit(code)
	}
	ctx, stop := interruptible(context.Background())
	code := Main(ctx, streams{os.Stdin, os.Stdout, os.Stderr, isTerminal(os.Stderr)}, os.Args[1:], os.Environ())
	stop()
	os.Exit(code)
}

// interruptible cancels, with artifact.ErrInterrupted as the cause, on the
// first SIGINT, SIGTERM or SIGHUP; a second one ends the program at once (the
// engine and its steps end with their parent).
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	sigs := make(chan os.Signal, 2)
	signal.Notify(sigs, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if _, open := <-sigs; !open {
			return
		}
		cancel(artifact.ErrInterrupted)
		if _, open := <-sigs; open {
			os.Exit(artifact.ExitInterrupted)
		}
	}()
	return ctx, func() {
		signal.Stop(sigs)
		close(sigs)
		cancel(nil)
	}
}
