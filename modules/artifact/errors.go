package artifact

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
)

// Kind sorts errors by what a caller can do about them.
type Kind int

// The kinds, each with its exit code (see ExitCode).
const (
	KindInternal Kind = iota // a bug of ours: 4
	KindGate                 // a gate said no: 1
	KindUsage                // usage, configuration or catalog error: 2
	KindFault                // engine, network or registry fault, worth a retry: 3
)

// Error says what was being done, where, what is wrong and how to mend it.
type Error struct {
	Kind    Kind
	Op      string // what was being done: "reading catalog"
	Place   string // file:line, URL or reference; may be ""
	Message string // what is wrong, lower case; may be "" when Err says it
	Remedy  string // how to mend it; printed on its own line
	Err     error  // cause, may be nil
}

// Error is one line: op place: message: cause. The remedy is not part of it.
func (e *Error) Error() string {
	head := strings.TrimSpace(e.Op + " " + e.Place)
	parts := make([]string, 0, 3)
	for _, p := range []string{head, e.Message} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrInterrupted is the cancellation cause after SIGINT, SIGTERM or SIGHUP.
var ErrInterrupted = errors.New("interrupted")

// Exit codes of the program.
const (
	ExitOK          = 0
	ExitGate        = 1
	ExitUsage       = 2
	ExitFault       = 3
	ExitInternal    = 4
	ExitInterrupted = 130
)

// ExitCode maps an error to the program's exit code. An error nobody gave a
// kind is internal, but for a full disk. A context cancelled for another cause keeps that cause's.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if errors.Is(err, ErrInterrupted) || errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	var e *Error
	if errors.As(err, &e) && (e.Kind != KindInternal || !diskFull(err)) {
		return [...]int{ExitInternal, ExitGate, ExitUsage, ExitFault}[e.Kind]
	}
	if errors.Is(err, context.DeadlineExceeded) || diskFull(err) {
		return ExitFault
	}
	return ExitInternal
}

// diskFull: whatever was being written, the disk or a quota is at its end.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Remedies collects the remedies along err's chain, outermost first, each once.
func Remedies(err error) []string {
	var out []string
	seen := map[string]bool{}
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		if e, ok := err.(*Error); ok && e.Remedy != "" && !seen[e.Remedy] {
			seen[e.Remedy] = true
			out = append(out, e.Remedy)
		}
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, c := range u.Unwrap() {
				walk(c)
			}
		}
	}
	walk(err)
	if diskFull(err) {
		where := ""
		var p *fs.PathError
		if errors.As(err, &p) {
			where = " on the disk of " + p.Path
		}
		out = append(out, "make room"+where+" and run again: what was finished is kept")
	}
	return out
}
