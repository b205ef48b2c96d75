// Package progress carries what happens while a plan runs from the rooms that
// do it to whoever watches: rooms emit events, a sink renders them as a live
// table, as plain lines or as JSON.
package progress

import (
	"io"
	"strconv"
	"time"

	"drydock/modules/artifact"
)

// Kind says what an event reports.
type Kind string

// The kinds of event. A step is opened by Started and closed by exactly one of
// Done, Cached and Failed; a step found in a cache may be only Cached. Log and
// Note may come at any time.
const (
	Started Kind = "started"
	Log     Kind = "log"
	Done    Kind = "done"
	Cached  Kind = "cached"
	Failed  Kind = "failed"
	Note    Kind = "note" // for the reader of the whole run, never dropped
)

// Event is one thing that happened. Image, Variant, Platform and Step say to
// what; each may be empty. A zero Time is filled in when it is emitted.
type Event struct {
	Time     time.Time
	Image    string
	Variant  string
	Platform string
	Step     string
	Kind     Kind
	Text     string  // a log line, a note, or a detail of how a step ended
	Err      error   // of Failed
	Seconds  float64 // of Done, Cached and Failed; 0 means: since Started
}

// Sink takes events and shows them. Emit may be called from any goroutine and
// never waits for the reader; when the reader is too slow, log lines are
// dropped and counted. Close shows what is left, gives the terminal back and
// may be called more than once; events emitted after it are dropped.
type Sink interface {
	Emit(Event)
	Close() error
}

// Mode is how progress is shown.
type Mode string

// The modes. Auto is TTY on a terminal and Plain elsewhere.
const (
	Auto  Mode = "auto"
	TTY   Mode = "tty"
	Plain Mode = "plain"
	JSON  Mode = "json"
)

// ParseMode reads the value of --progress; "" is Auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return Auto, nil
	case Auto, TTY, Plain, JSON:
		return m, nil
	}
	return "", &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading --progress", Place: strconv.Quote(s),
		Message: "no such way to show progress", Remedy: "use auto, tty, plain or json",
	}
}

// New makes a sink that writes to w. isTTY decides what Auto means; width is
// the terminal's (0: 80), and is looked up again at every redraw when w is a
// terminal itself.
func New(mode Mode, w io.Writer, isTTY bool, width int) Sink {
	if mode == Auto || mode == "" {
		mode = Plain
		if isTTY {
			mode = TTY
		}
	}
	switch mode {
	case TTY:
		return newQueue(newTable(w, width), redrawEvery)
	case JSON:
		return newQueue(&jsonLines{w: w}, 0)
	default:
		return newQueue(&plainLines{w: w, started: map[stepKey]time.Time{}}, 0)
	}
}

// Discard is a sink that shows nothing.
func Discard() Sink { return discard{} }

type discard struct{}

func (discard) Emit(Event)   {}
func (discard) Close() error { return nil }

// stepKey identifies a step among concurrent ones.
type stepKey struct{ image, variant, platform, step string }

func (e Event) key() stepKey { return stepKey{e.Image, e.Variant, e.Platform, e.Step} }

// label is the event's place in words, "nginx linux/amd64 build".
func (e Event) label() string {
	var s string
	for _, part := range []string{e.Image, e.Variant, e.Platform, e.Step} {
		if part == "" {
			continue
		}
		if s != "" {
			s += " "
		}
		s += part
	}
	return s
}

// seconds is how long the step took: as told, or since it started.
func (e Event) seconds(started map[stepKey]time.Time) float64 {
	if e.Seconds > 0 {
		return e.Seconds
	}
	if at, ok := started[e.key()]; ok {
		return e.Time.Sub(at).Seconds()
	}
	return 0
}
