package progress

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/url"
	"sort"
	"strings"
	"sync"
)

const (
	redacted      = "***"
	minSecret     = 4       // shorter ones would redact ordinary text
	minSecretLine = 8       // of a secret of several lines, lines this long count alone
	maxLine       = 1 << 16 // a longer line is shown in pieces
)

// Redactor returns a writer that passes everything on to w with the secrets
// replaced by "***", also when one is split over writes: what may be the start
// of a secret is held back until the next write or Close. Each secret also
// counts in its URL-escaped and base64 forms, and line by line if it has
// several lines. Secrets shorter than four bytes are ignored. Close does not
// close w unless it is a writer made by Lines.
func Redactor(secrets []string, w io.Writer) io.WriteCloser {
	return &redactor{w: w, secrets: forms(secrets)}
}

// Redacted returns a sink that passes events on with the secrets replaced.
func Redacted(secrets []string, s Sink) Sink {
	return &redactedSink{sink: s, secrets: forms(secrets)}
}

// forms lists every spelling of the secrets, longest first.
func forms(secrets []string) [][]byte {
	seen := map[string]bool{}
	add := func(s string, least int) {
		if len(s) >= least {
			seen[s] = true
		}
	}
	for _, s := range secrets {
		trimmed := strings.TrimSpace(s)
		if len(trimmed) < minSecret {
			continue
		}
		add(trimmed, minSecret)
		add(url.QueryEscape(trimmed), minSecret)
		add(url.PathEscape(trimmed), minSecret)
		add(base64.StdEncoding.EncodeToString([]byte(s)), minSecret)
		add(base64.StdEncoding.EncodeToString([]byte(trimmed)), minSecret)
		if lines := strings.Split(trimmed, "\n"); len(lines) > 1 {
			for _, l := range lines {
				if l = strings.TrimSpace(l); !strings.HasPrefix(l, "-----") {
					add(l, minSecretLine)
				}
			}
		}
	}
	out := make([][]byte, 0, len(seen))
	for s := range seen {
		out = append(out, []byte(s))
	}
	sort.Slice(out, func(i, j int) bool {
		if len(out[i]) != len(out[j]) {
			return len(out[i]) > len(out[j])
		}
		return bytes.Compare(out[i], out[j]) < 0
	})
	return out
}

type redactor struct {
	w       io.Writer
	secrets [][]byte

	mu      sync.Mutex
	pending []byte
	covered int  // leading bytes of pending that are part of a secret already replaced
	inside  bool // the last byte passed on was part of a secret
}

// Write passes p on, except for an end that may be the start of a secret.
func (r *redactor) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, p...)
	if err := r.pass(r.holdFrom()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close passes on what was held back.
func (r *redactor) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.pass(len(r.pending))
	if l, ok := r.w.(*lines); ok {
		err = errors.Join(err, l.Close())
	}
	return err
}

// holdFrom is the first index from which pending may be an unfinished secret.
func (r *redactor) holdFrom() int {
	hold := len(r.pending)
	for _, s := range r.secrets {
		for i := max(0, len(r.pending)-len(s)+1); i < hold; i++ {
			if bytes.HasPrefix(s, r.pending[i:]) {
				hold = i
				break
			}
		}
	}
	return hold
}

// pass writes pending up to hold with secrets replaced. A secret that reaches
// beyond hold is replaced now and its rest remembered as covered.
func (r *redactor) pass(hold int) error {
	mask := make([]bool, len(r.pending))
	for i := range r.covered {
		mask[i] = true
	}
	maskAll(mask, r.pending, r.secrets)
	var out []byte
	for i := range hold {
		if !mask[i] {
			out = append(out, r.pending[i])
		} else if !r.inside {
			out = append(out, redacted...)
		}
		r.inside = mask[i]
	}
	r.covered = 0
	if r.inside {
		for i := hold; i < len(mask) && mask[i]; i++ {
			r.covered++
		}
	}
	r.pending = append(r.pending[:0], r.pending[hold:]...)
	if len(out) == 0 {
		return nil
	}
	_, err := r.w.Write(out)
	return err
}

func maskAll(mask []bool, text []byte, secrets [][]byte) {
	for _, s := range secrets {
		for from := 0; ; {
			i := bytes.Index(text[from:], s)
			if i < 0 {
				break
			}
			for k := from + i; k < from+i+len(s); k++ {
				mask[k] = true
			}
			from += i + 1
		}
	}
}

type redactedSink struct {
	sink    Sink
	secrets [][]byte
}

// Emit passes the event on with its text and error redacted.
func (r *redactedSink) Emit(e Event) {
	e.Text = r.text(e.Text)
	if e.Err != nil {
		if msg := e.Err.Error(); r.text(msg) != msg {
			e.Err = errors.New(r.text(msg))
		}
	}
	r.sink.Emit(e)
}

// Close closes the sink behind it.
func (r *redactedSink) Close() error { return r.sink.Close() }

func (r *redactedSink) text(s string) string {
	var b bytes.Buffer
	w := &redactor{w: &b, secrets: r.secrets}
	w.pending = []byte(s)
	_ = w.pass(len(s)) // a bytes.Buffer takes everything
	return b.String()
}

// Lines returns a writer that emits what is written to it as Log events like
// e, one per line; Close emits a last line without a newline. Put a Redactor in
// front of it, not behind: a very long line becomes several events.
func Lines(s Sink, e Event) io.WriteCloser {
	e.Kind = Log
	return &lines{sink: s, event: e}
}

type lines struct {
	sink  Sink
	event Event

	mu      sync.Mutex
	pending []byte
}

// Write emits every full line.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, p...)
	for {
		i := bytes.IndexByte(l.pending, '\n')
		if i < 0 && len(l.pending) < maxLine {
			return len(p), nil
		}
		rest := i + 1
		if i < 0 {
			i, rest = maxLine, maxLine
		}
		l.emit(l.pending[:i])
		l.pending = append(l.pending[:0], l.pending[rest:]...)
	}
}

// Close emits the last line if it had no newline.
func (l *lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > 0 {
		l.emit(l.pending)
		l.pending = nil
	}
	return nil
}

func (l *lines) emit(b []byte) {
	e := l.event
	// A carriage return overwrites: a progress bar's last state is the line.
	s := strings.TrimSuffix(string(b), "\r")
	if i := strings.LastIndexByte(s, '\r'); i >= 0 {
		s = s[i+1:]
	}
	e.Text = s
	l.sink.Emit(e)
}
