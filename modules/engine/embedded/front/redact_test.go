//go:build linux

package front

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

func TestRedactorSplits(t *testing.T) {
	r := newRedactor([][]byte{[]byte("swordfish"), []byte("sword"), []byte("two\nlines of it\n")})
	text := "a swordfish, a sword, swordf, " + hex.EncodeToString([]byte("swordfish")) + " lines of it sw"
	want := "a ***, a ***, ***f, *** *** sw"
	for size := 1; size < len(text); size++ {
		var buf bytes.Buffer
		w := r.redact(nopCloser{&buf})
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if buf.String() != want {
			t.Errorf("in pieces of %d: %q, want %q", size, buf.String(), want)
		}
	}
}

func TestRedactorBase64(t *testing.T) {
	secret := "a-long-enough-secret"
	r := newRedactor([][]byte{[]byte(secret)})
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding} {
		for before := range 4 {
			for after := range 4 {
				text := enc.EncodeToString([]byte(strings.Repeat("x", before) + secret + strings.Repeat("y", after)))
				if got := r.text(text); !strings.Contains(got, redacted) || strings.Contains(got, text[8:20]) {
					t.Errorf("%d before, %d after: %s became %s", before, after, text, got)
				}
			}
		}
	}
}

func TestRedactorLeavesTheRest(t *testing.T) {
	if newRedactor(nil) != nil || newRedactor([][]byte{nil, []byte(" \n")}).text("a b") != "a b" {
		t.Error("blank secrets are found")
	}
	var none *redactor
	if none.text("x") != "x" {
		t.Error("no redactor changes a text")
	}
	values := newSecretStore()
	values.put("short", []byte("cat"))
	values.put("long", []byte("catamaran"))
	if got := values.redactor().text("a cat on a catamaran"); got != "a cat on a ***" {
		t.Errorf("session wide: %q", got)
	}
}
