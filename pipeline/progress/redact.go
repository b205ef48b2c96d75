package progress

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"drydock/modules/secret"
)

const (
	redacted = "***"
	maxLine  = 1 << 16 // a longer line is shown in pieces
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
// More may become known on the way.
func Redacted(secrets []string, s Sink) *RedactedSink {
	r := &RedactedSink{sink: s}
	r.Hide(secrets...)
	return r
}

// forms lists every spelling of the secrets, longest first.
func forms(secrets []string) [][]byte {
	values := make([][]byte, len(secrets))
	for i, s := range secrets {
		values[i] = []byte(s)
	}
	return secret.Forms(values...)
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

// RedactedSink replaces secrets in what it passes on.
type RedactedSink struct {
	sink Sink

	mu      sync.Mutex
	values  []string
	secrets [][]byte // their forms; replaced, never changed
}

// Hide adds secrets.
func (r *RedactedSink) Hide(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range secrets {
		if !slices.Contains(r.values, s) {
			r.values = append(r.values, s)
		}
	}
	r.secrets = forms(r.values)
}

func (r *RedactedSink) known() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.secrets
}

// Emit passes the event on with its text and error redacted.
func (r *RedactedSink) Emit(e Event) {
	e.Text = r.text(e.Text)
	if e.Err != nil {
		if msg := e.Err.Error(); r.text(msg) != msg {
			e.Err = errors.New(r.text(msg))
		}
	}
	r.sink.Emit(e)
}

// Close closes the sink behind it.
func (r *RedactedSink) Close() error { return r.sink.Close() }

func (r *RedactedSink) text(s string) string {
	var b bytes.Buffer
	w := &redactor{w: &b, secrets: r.known()}
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
