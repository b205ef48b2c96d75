package progress

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRedactorSplitOverWrites(t *testing.T) {
	secrets := []string{"hunter2secret", "s3cr3t", "s3cr3t-longer", "cdefgh", "abcdef", "aaaa", "", "abc", "p@ss w/rd"}
	tests := []struct{ in, want string }{
		{"token=hunter2secret;", "token=***;"},
		{"hunter2secre", "hunter2secre"},
		{"hunter2hunter2secret", "hunter2***"},
		{"s3cr3t-long", "***-long"},
		{"s3cr3t-longer!", "***!"},
		{"x abcdefgh y", "x *** y"}, // two that overlap
		{"baaaaaaaab", "b***b"},     // one that overlaps itself
		{"abc", "abc"},              // too short to be a secret
		{"u:p%40ss+w%2Frd@ u:p@ss%20w%2Frd@", "u:***@ u:***@"},
		{"Basic " + base64.StdEncoding.EncodeToString([]byte("hunter2secret")), "Basic ***"},
		{"s3cr3ts3cr3t", "***"},
	}
	for _, tt := range tests {
		for first := 0; first <= len(tt.in); first++ {
			for second := first; second <= len(tt.in); second++ {
				var b bytes.Buffer
				w := Redactor(secrets, &b)
				for _, part := range []string{tt.in[:first], tt.in[first:second], tt.in[second:]} {
					if n, err := w.Write([]byte(part)); err != nil || n != len(part) {
						t.Fatalf("write: %d, %v", n, err)
					}
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if b.String() != tt.want {
					t.Fatalf("%q split at %d and %d: %q, want %q", tt.in, first, second, b.String(), tt.want)
				}
			}
		}
	}
}

func TestRedactorDoesNotHoldOrdinaryText(t *testing.T) {
	var b bytes.Buffer
	w := Redactor([]string{"hunter2secret"}, &b)
	fmt.Fprint(w, "50% done\nhun")
	if b.String() != "50% done\n" {
		t.Errorf("shown so far %q", b.String())
	}
	fmt.Fprint(w, "gry\n")
	if b.String() != "50% done\nhungry\n" {
		t.Errorf("shown so far %q", b.String())
	}
}

func TestRedactorKnowsLinesOfAKey(t *testing.T) {
	key := "-----BEGIN PRIVATE KEY-----\nMIGTAgEAMBMGByqGSM49\nAgEGCCqGSM49AwEHBG0w\n-----END PRIVATE KEY-----\n"
	var b bytes.Buffer
	w := Redactor([]string{key}, &b)
	fmt.Fprint(w, "[1] MIGTAgEAMBMGByqGSM49\n[2] AgEGCCqGSM49AwEHBG0w\n-----BEGIN PRIVATE KEY-----\n")
	w.Close()
	if want := "[1] ***\n[2] ***\n-----BEGIN PRIVATE KEY-----\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}

func TestRedactorPassesWriteErrorsOn(t *testing.T) {
	w := Redactor([]string{"hunter2secret"}, failing{})
	if _, err := w.Write([]byte("text")); !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
}

var errFull = errors.New("no space left")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

type recorder struct{ events []Event }

func (r *recorder) Emit(e Event) { r.events = append(r.events, e) }
func (r *recorder) Close() error { return nil }

func TestRedactedSinkAndLines(t *testing.T) {
	rec := &recorder{}
	s := Redacted([]string{"hunter2secret"}, rec)
	cause := errors.New("plain")
	s.Emit(Event{Kind: Failed, Text: "with hunter2secret", Err: errors.New("401 for hunter2secret")})
	s.Emit(Event{Kind: Failed, Err: cause})
	if e := rec.events[0]; e.Text != "with ***" || e.Err.Error() != "401 for ***" {
		t.Errorf("%+v", e)
	}
	if !errors.Is(rec.events[1].Err, cause) {
		t.Error("an error without a secret lost its identity")
	}

	rec.events = nil
	w := Redactor([]string{"hunter2secret"}, Lines(rec, Event{Image: "nginx", Kind: Done}))
	for _, part := range []string{"one\ntw", "o hunter2", "secret\r\n10%\r50%\r100%\n\nlast"} {
		fmt.Fprint(w, part)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range rec.events {
		if e.Kind != Log || e.Image != "nginx" {
			t.Errorf("%+v", e)
		}
		got = append(got, e.Text)
	}
	if want := "one|two ***|100%||last"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", strings.Join(got, "|"), want)
	}
}

func TestLongLinesComeInPieces(t *testing.T) {
	rec := &recorder{}
	w := Lines(rec, Event{})
	fmt.Fprint(w, strings.Repeat("x", 2*maxLine+5))
	w.Close()
	if len(rec.events) != 3 || len(rec.events[2].Text) != 5 {
		t.Errorf("%d events", len(rec.events))
	}
}

func FuzzRedactor(f *testing.F) {
	f.Add("hunter2secret", "x hunter2secret y", 5)
	f.Add("aaaa", "aaaaaaa", 3)
	f.Add("abab", "ababab", 2)
	f.Fuzz(func(t *testing.T, secret, text string, at int) {
		secret = strings.TrimSpace(secret)
		if len(secret) < 4 || at < 0 || at > len(text) || strings.Contains(secret, "*") {
			return
		}
		var b bytes.Buffer
		w := Redactor([]string{secret}, &b)
		start := time.Now()
		_, _ = w.Write([]byte(text[:at]))
		_, _ = w.Write([]byte(text[at:]))
		_ = w.Close()
		if strings.Contains(b.String(), secret) {
			t.Errorf("%q in %q", secret, b.String())
		}
		if !strings.Contains(text, secret) && len(forms([]string{secret})) == 1 && b.String() != text {
			t.Errorf("changed %q to %q after %s", text, b.String(), time.Since(start))
		}
	})
}
