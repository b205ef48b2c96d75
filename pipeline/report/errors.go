package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"drydock/modules/artifact"
)

// Error is an error as JSON.
type Error struct {
	Message  string   `json:"message"`
	Kind     string   `json:"kind"` // gate, usage, fault, internal or interrupted
	Exit     int      `json:"exit"`
	Place    string   `json:"place"` // file:line, URL or reference; "" where there is none
	Remedies []string `json:"remedies"`
}

var kinds = map[int]string{
	artifact.ExitGate: "gate", artifact.ExitUsage: "usage", artifact.ExitFault: "fault",
	artifact.ExitInternal: "internal", artifact.ExitInterrupted: "interrupted",
}

// NewError describes err for JSON; nil for nil.
func NewError(err error) *Error {
	if err == nil {
		return nil
	}
	exit := artifact.ExitCode(err)
	return &Error{
		Message: err.Error(), Kind: kinds[exit], Exit: exit, Place: place(err),
		Remedies: append([]string{}, artifact.Remedies(err)...),
	}
}

// place is the innermost place along err's chain: the most precise one.
func place(err error) string {
	var out string
	for {
		var e *artifact.Error
		if !errors.As(err, &e) {
			return out
		}
		if e.Place != "" {
			out = e.Place
		}
		err = e.Err
	}
}

// PrintError writes err for people: one line, then what to do, one remedy per
// line.
func PrintError(w io.Writer, err error) error {
	if err == nil {
		return nil
	}
	var b strings.Builder
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	fmt.Fprintf(&b, "drydock: error: %s\n", lines[0])
	for _, l := range lines[1:] {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	for _, r := range artifact.Remedies(err) {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(r, "\n", "\n  "))
	}
	_, werr := io.WriteString(w, b.String())
	return werr
}

// PrintErrorJSON writes err as one JSON object, what --json prints when a verb
// has no result: {"version":1,"error":{…},"exit":N}.
func PrintErrorJSON(w io.Writer, err error) error {
	out := struct {
		Version int    `json:"version"`
		Error   *Error `json:"error"`
		Exit    int    `json:"exit"`
	}{Version, NewError(err), artifact.ExitCode(err)}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
