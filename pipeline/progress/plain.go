package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// plainLines writes one line per event behind a stable prefix, for CI logs.
type plainLines struct {
	w       io.Writer
	started map[stepKey]time.Time
}

func (p *plainLines) tick(time.Time) error { return nil }
func (p *plainLines) finish() error        { return nil }

func (p *plainLines) handle(e Event) error {
	if e.Kind == Started {
		p.started[e.key()] = e.Time
	}
	prefix := ""
	if l := e.label(); l != "" {
		prefix = "[" + clean(l) + "] "
	}
	var b strings.Builder
	for _, line := range strings.Split(message(e, e.seconds(p.started)), "\n") {
		b.WriteString(strings.TrimRight(prefix+clean(line), " "))
		b.WriteByte('\n')
	}
	if e.Kind == Done || e.Kind == Cached || e.Kind == Failed {
		delete(p.started, e.key())
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}

// message is what an event says, without its place.
func message(e Event, seconds float64) string {
	text := strings.TrimRight(e.Text, "\n")
	with := func(head string) string {
		if text == "" {
			return head
		}
		return head + ": " + text
	}
	switch e.Kind {
	case Started:
		return with("started")
	case Done:
		return with("done " + duration(seconds))
	case Cached:
		return with("cached")
	case Failed:
		if e.Err != nil {
			text = strings.TrimPrefix(text+": "+e.Err.Error(), ": ")
		}
		return with("failed " + duration(seconds))
	case Note:
		return with("note")
	default:
		return text
	}
}

func duration(seconds float64) string {
	if seconds < 60 {
		return fmt.Sprintf("%.1fs", seconds)
	}
	d := time.Duration(seconds) * time.Second
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}

// clean makes text safe to show: what a step prints was written by others and
// must neither move the cursor nor give a CI agent commands ("##vso[" counts
// anywhere in a line of an Azure agent's log, "::" at the start of a GitHub
// runner's).
func clean(s string) string {
	s = strings.ReplaceAll(s, "##vso[", "##_vso[")
	s = strings.ReplaceAll(s, "##[", "##_[")
	if strings.HasPrefix(strings.TrimSpace(s), "::") {
		s = strings.Replace(s, "::", ":_:", 1)
	}
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case isControl(r):
			return -1
		}
		return r
	}, dropEscapes(s))
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) }

// dropEscapes removes ANSI control sequences (ECMA-48 5.4: CSI, parameter and
// intermediate bytes, one final byte; and OSC strings up to BEL or ST).
func dropEscapes(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != 0x1b {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i >= len(s) {
			break
		}
		switch s[i] {
		case '[':
			for i++; i < len(s) && (s[i] < 0x40 || s[i] > 0x7e); i++ {
			}
		case ']':
			for i++; i < len(s) && s[i] != 0x07 && s[i] != 0x1b; i++ {
			}
			if i+1 < len(s) && s[i] == 0x1b && s[i+1] == '\\' {
				i++
			}
		}
	}
	return b.String()
}

// jsonLines writes one JSON object per event.
type jsonLines struct{ w io.Writer }

// jsonEvent is the wire form of an Event.
type jsonEvent struct {
	Time     string  `json:"time"`
	Kind     Kind    `json:"kind"`
	Image    string  `json:"image,omitempty"`
	Variant  string  `json:"variant,omitempty"`
	Platform string  `json:"platform,omitempty"`
	Step     string  `json:"step,omitempty"`
	Text     string  `json:"text,omitempty"`
	Error    string  `json:"error,omitempty"`
	Seconds  float64 `json:"seconds,omitempty"`
}

func (j *jsonLines) tick(time.Time) error { return nil }
func (j *jsonLines) finish() error        { return nil }

func (j *jsonLines) handle(e Event) error {
	out := jsonEvent{
		Time: e.Time.UTC().Format(time.RFC3339Nano), Kind: e.Kind, Image: e.Image, Variant: e.Variant,
		Platform: e.Platform, Step: e.Step, Text: e.Text, Seconds: e.Seconds,
	}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	_, err = j.w.Write(append(b, '\n'))
	return err
}
