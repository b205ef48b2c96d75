package store

import (
	"errors"
	"io"
)

// mirrorError is an error of asking or reading, which says nothing of the bytes
// that came before.
type mirrorError struct{ error }

// Unwrap gives the error itself.
func (e mirrorError) Unwrap() error { return e.error }

func ofMirror(err error) bool {
	var e mirrorError
	return errors.As(err, &e) && !errors.Is(err, ErrOtherRange)
}

// ErrOtherRange is in the chain of an error of Want.Open when not the bytes asked
// for were answered.
var ErrOtherRange = errors.New("the mirror answered with another range than was asked for")

// mirrorBody marks the errors of reading.
type mirrorBody struct{ r io.Reader }

// Read implements io.Reader.
func (b mirrorBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = mirrorError{err}
	}
	return n, err
}
