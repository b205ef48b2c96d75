// Package secret knows how a secret looks where it should not be.
package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
)

const (
	// minValue is the shortest value that is looked for: a shorter one stands in
	// any text.
	minValue = 4
	// minForm is the shortest line or encoding of one that is.
	minForm = 8
)

// Forms lists the ways in which values may be written, the longest first:
// themselves, without the space around them, their lines when they have
// several, in hexadecimal, in base64 wherever they stand in what was encoded,
// escaped as in URLs and in JSON. Values shorter than four bytes, and lines and
// encodings shorter than eight, are left out: they would stand in any text.
func Forms(values ...[]byte) [][]byte {
	var out [][]byte
	for _, v := range values {
		plain := bytes.TrimSpace(v)
		if len(plain) < minValue {
			continue
		}
		out = append(out, v, plain)
		for _, f := range append(lines(plain), append(encoded(v), encoded(plain)...)...) {
			if len(f) >= minForm {
				out = append(out, f)
			}
		}
	}
	slices.SortFunc(out, func(a, b []byte) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return bytes.Compare(a, b)
	})
	return slices.CompactFunc(out, bytes.Equal)
}

// lines are those of a value of several, without the frame of a PEM block,
// which is the same in all.
func lines(value []byte) [][]byte {
	all := bytes.Split(value, []byte("\n"))
	if len(all) < 2 {
		return nil
	}
	var out [][]byte
	for _, l := range all {
		if l = bytes.TrimSpace(l); !bytes.HasPrefix(l, []byte("-----")) {
			out = append(out, l)
		}
	}
	return out
}

func encoded(value []byte) [][]byte {
	out := [][]byte{
		[]byte(hex.EncodeToString(value)), []byte(url.QueryEscape(string(value))), []byte(url.PathEscape(string(value))),
	}
	if quoted, err := json.Marshal(string(value)); err == nil {
		out = append(out, quoted[1:len(quoted)-1])
	}
	// alone it is known to the last character
	out = append(out, []byte(base64.StdEncoding.EncodeToString(value)), []byte(base64.URLEncoding.EncodeToString(value)))
	for shift := range 3 {
		out = append(out, inBase64(base64.RawStdEncoding, value, shift), inBase64(base64.RawURLEncoding, value, shift))
	}
	return out
}

// inBase64 is what base64 makes of a value for sure when it stands shift bytes
// after a multiple of three: without the characters its neighbours decide too.
func inBase64(enc *base64.Encoding, value []byte, shift int) []byte {
	text := enc.EncodeToString(append(make([]byte, shift), value...))
	from, to := []int{0, 2, 3}[shift], len(text)
	if (shift+len(value))%3 != 0 {
		to--
	}
	if from >= to {
		return nil
	}
	return []byte(text[from:to])
}
