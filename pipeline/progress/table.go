package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	redrawEvery  = 100 * time.Millisecond
	maxRows      = 12 // running steps shown at once
	maxTail      = 20 // log lines of a step shown when it fails
	defaultWidth = 80

	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearDown  = "\x1b[J"
)

// row is a step that runs.
type row struct {
	key   stepKey
	label string
	since time.Time
	last  string   // last log line
	tail  []string // last log lines
}

// table is the live view: finished steps scroll by as lines, running ones stay
// below them and are redrawn in place.
type table struct {
	w     io.Writer
	width int

	rows    []*row
	pending strings.Builder // finished lines not yet written
	drawn   int             // rows of the live part on the screen
	hidden  bool            // the cursor
	dirty   bool
	done    int
	cached  int
	failed  int
}

func newTable(w io.Writer, width int) *table {
	if width <= 0 {
		width = defaultWidth
	}
	return &table{w: w, width: width}
}

func (t *table) handle(e Event) error {
	t.dirty = true
	switch e.Kind {
	case Started:
		if t.find(e.key()) == nil {
			t.rows = append(t.rows, &row{key: e.key(), label: clean(e.label()), since: e.Time, last: clean(e.Text)})
		}
	case Log:
		t.log(e)
	case Note:
		t.line("•", e, "")
	case Done:
		t.done++
		t.end("✓", e)
	case Cached:
		t.done++
		t.cached++
		t.end("=", e)
	case Failed:
		t.failed++
		t.end("✗", e)
	}
	return nil
}

func (t *table) find(k stepKey) *row {
	for _, r := range t.rows {
		if r.key == k {
			return r
		}
	}
	return nil
}

func (t *table) log(e Event) {
	r := t.find(e.key())
	if r == nil {
		t.line(" ", e, "")
		return
	}
	for _, l := range strings.Split(strings.TrimRight(e.Text, "\n"), "\n") {
		l = clean(l)
		r.last = l
		if len(r.tail) == maxTail {
			r.tail = r.tail[1:]
		}
		r.tail = append(r.tail, l)
	}
}

// end turns a running step into a finished line, with its log if it failed.
func (t *table) end(mark string, e Event) {
	started := map[stepKey]time.Time{}
	var tail []string
	for i, r := range t.rows {
		if r.key == e.key() {
			started[r.key], tail = r.since, r.tail
			t.rows = append(t.rows[:i], t.rows[i+1:]...)
			break
		}
	}
	if e.Kind == Failed {
		for _, l := range tail {
			t.pending.WriteString("    │ " + l + "\n")
		}
	}
	t.line(mark, e, message(e, e.seconds(started)))
}

func (t *table) line(mark string, e Event, text string) {
	if text == "" {
		text = strings.TrimRight(e.Text, "\n")
	}
	label := clean(e.label())
	for _, l := range strings.Split(text, "\n") {
		fmt.Fprintln(&t.pending, strings.TrimRight(strings.Join(nonEmpty(mark, label, clean(l)), " "), " "))
	}
}

func nonEmpty(parts ...string) []string {
	out := parts[:0]
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

// tick redraws when something changed or a clock is running.
func (t *table) tick(now time.Time) error {
	if !t.dirty && len(t.rows) == 0 {
		return nil
	}
	return t.draw(now, true)
}

// finish writes the last lines, removes the live part and shows the cursor.
func (t *table) finish() error { return t.draw(time.Now(), false) }

// draw writes one frame in a single Write, so that frames never interleave.
func (t *table) draw(now time.Time, live bool) error {
	width := t.currentWidth()
	var b strings.Builder
	if live && !t.hidden && len(t.rows) > 0 {
		b.WriteString(hideCursor)
		t.hidden = true
	}
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r%s", t.drawn, clearDown)
	}
	b.WriteString(t.pending.String())
	t.pending.Reset()
	t.drawn, t.dirty = 0, false
	if live && len(t.rows) > 0 {
		for _, l := range t.frame(now) {
			b.WriteString(cut(l, width-1) + "\n")
			t.drawn++
		}
	}
	if !live && t.hidden {
		b.WriteString(showCursor)
		t.hidden = false
	}
	if b.Len() == 0 {
		return nil
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

// frame is the live part, one string per line.
func (t *table) frame(now time.Time) []string {
	var out []string
	labels := 0
	shown := t.rows[:min(len(t.rows), maxRows)]
	for _, r := range shown {
		labels = max(labels, runes(r.label))
	}
	for _, r := range shown {
		pad := strings.Repeat(" ", labels-runes(r.label))
		out = append(out, fmt.Sprintf("⠶ %s%s %7s  %s", r.label, pad, duration(now.Sub(r.since).Seconds()), r.last))
	}
	foot := fmt.Sprintf("  %d running, %d done (%d cached), %d failed", len(t.rows), t.done, t.cached, t.failed)
	if more := len(t.rows) - len(shown); more > 0 {
		foot += fmt.Sprintf("; %d of the running not shown", more)
	}
	return append(out, foot)
}

func (t *table) currentWidth() int {
	if f, ok := t.w.(interface{ Fd() uintptr }); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return t.width
}

func runes(s string) int { return len([]rune(s)) }

// cut shortens s to width cells, so that a row never wraps.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	return string(r[:width-1]) + "…"
}
