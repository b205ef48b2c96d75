//go:build linux

package front

import (
	"bytes"
	"io"
	"slices"
	"sync"

	secrets "drydock/modules/secret"
)

// redacted is what stands in an output where a secret stood.
const redacted = "***"

// minSession is the shortest secret that is taken out of messages of steps that
// did not have it.
const minSession = 6

// redactor finds secrets in what is written. A nil redactor finds nothing.
type redactor struct{ byFirst [256][][]byte }

// newRedactor finds the values, their lines when they have several, and the
// usual encodings of them.
func newRedactor(values [][]byte) *redactor {
	var needles [][]byte
	for _, v := range values {
		needles = append(needles, v, bytes.TrimSpace(v))
	}
	needles = append(needles, secrets.Forms(values...)...)
	needles = slices.DeleteFunc(needles, func(n []byte) bool { return len(n) == 0 })
	if len(needles) == 0 {
		return nil
	}
	slices.SortFunc(needles, func(a, b []byte) int { // the longest is tried first
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return bytes.Compare(a, b)
	})
	r := &redactor{}
	for _, n := range slices.CompactFunc(needles, bytes.Equal) {
		r.byFirst[n[0]] = append(r.byFirst[n[0]], n)
	}
	return r
}

// match is the length of the secret that starts at text[0], and whether a
// longer one may once there is more text.
func (r *redactor) match(text []byte) (n int, more bool) {
	for _, needle := range r.byFirst[text[0]] {
		if len(needle) > len(text) {
			more = more || bytes.HasPrefix(needle, text)
		} else if bytes.HasPrefix(text, needle) {
			return len(needle), more
		}
	}
	return 0, more
}

// feed is text without secrets, and what must wait for more text.
func (r *redactor) feed(text []byte, last bool) (clean, held []byte) {
	for i := 0; i < len(text); {
		n, more := r.match(text[i:])
		switch {
		case more && !last:
			return clean, append([]byte(nil), text[i:]...)
		case n > 0:
			clean = append(clean, redacted...)
			i += n
		default:
			clean = append(clean, text[i])
			i++
		}
	}
	return clean, nil
}

// text is a whole text without secrets.
func (r *redactor) text(s string) string {
	if r == nil || s == "" {
		return s
	}
	clean, _ := r.feed([]byte(s), true)
	return string(clean)
}

// value is text for every string in a value of an error's extensions.
func (r *redactor) value(v any) any {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case []string:
		out := make([]string, len(v))
		for i := range v {
			out[i] = r.text(v[i])
		}
		return out
	}
	return v
}

// redacting is a stream without secrets, also when they come in several writes.
type redacting struct {
	r    *redactor
	to   io.WriteCloser
	mu   sync.Mutex
	held []byte
}

// redact puts the redactor before a stream.
func (r *redactor) redact(to io.WriteCloser) io.WriteCloser {
	if r == nil {
		return to
	}
	return &redacting{r: r, to: to}
}

func (w *redacting) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var clean []byte
	clean, w.held = w.r.feed(append(w.held, p...), false)
	if len(clean) == 0 {
		return len(p), nil
	}
	if _, err := w.to.Write(clean); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flush writes what waited for more.
func (w *redacting) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clean, _ := w.r.feed(w.held, true)
	w.held = nil
	if len(clean) == 0 {
		return nil
	}
	_, err := w.to.Write(clean)
	return err
}

// Close writes what waited for more and closes the stream.
func (w *redacting) Close() error {
	err := w.flush()
	if cerr := w.to.Close(); err == nil {
		err = cerr
	}
	return err
}

// flushed ends what a stream holds back, if it is one that does.
func flushed(w io.Writer) error {
	if r, ok := w.(*redacting); ok {
		return r.flush()
	}
	return nil
}
