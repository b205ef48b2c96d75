package mirror

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"drydock/modules/artifact"
)

// flaky is a mirror of one file that misbehaves, one way per request and the
// last way for ever.
type flaky struct {
	mu     sync.Mutex
	asked  []http.Header
	answer []func(w http.ResponseWriter, r *http.Request)
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	n := min(len(f.asked), len(f.answer)-1)
	f.asked = append(f.asked, r.Header.Clone())
	f.mu.Unlock()
	f.answer[n](w, r)
}

// whole serves all of a file, ranges too.
func whole(b []byte, etag string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
}

// cutOff announces a file and breaks off after some bytes.
func cutOff(b []byte, etag string, after int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", etag)
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b[:after])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// lies answers a range with other bytes.
func lies(b []byte, contentRange string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(b)
	}
}

func mirrorOf(t *testing.T, answers ...func(http.ResponseWriter, *http.Request)) (*flaky, string) {
	t.Helper()
	f := &flaky{answer: answers}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return f, srv.URL
}

func someBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTransfers breaks downloads off, and lies about them: what is right comes
// in with no byte asked for twice, what is wrong never enters.
func TestTransfers(t *testing.T) {
	b := someBytes(t, 300_000)
	const half = 150_000
	rest := fmt.Sprintf("bytes %d-%d/%d", half, len(b)-1, len(b))
	other := append(bytes.Clone(b[:half]), someBytes(t, half)...)
	for name, c := range map[string]struct {
		answers  []func(http.ResponseWriter, *http.Request)
		known    bool // its digest is
		ok       bool
		resumed  bool
		complain string
	}{
		"resumed by its validator": {answers: list(cutOff(b, `"a"`, half), whole(b, `"a"`)), ok: true, resumed: true},
		"resumed by its digest":    {answers: list(cutOff(b, "", half), whole(b, "")), known: true, ok: true, resumed: true},
		"begun anew, no validator": {answers: list(cutOff(b, "", half), whole(b, "")), ok: true},
		"weak validator":           {answers: list(cutOff(b, `W/"a"`, half), whole(b, `W/"a"`)), ok: true},
		"changed in between":       {answers: list(cutOff(b, `"a"`, half), whole(someBytes(t, len(b)), `"b"`)), resumed: true, complain: "changed while"},
		"another length then":      {answers: list(cutOff(b, `"a"`, half), lies(b[half:], fmt.Sprintf("bytes %d-%d/%d", half, len(b), len(b)+1))), resumed: true, complain: "changed while"},
		"another range":            {answers: list(cutOff(b, `"a"`, half), lies(b[half:], "bytes 7-9/10")), resumed: true, complain: "another range"},
		"another end":              {answers: list(cutOff(b, "", half), lies(other[half:], rest)), known: true, resumed: true, complain: "wrong checksum"},
		"short for ever":           {answers: list(cutOff(b, `"a"`, half), lies(nil, rest)), resumed: true, complain: "bytes were served"},
		"never whole":              {answers: list(cutOff(b, "", half)), complain: "broke off"},
		"another file":             {answers: list(whole(other, `"a"`)), known: true, complain: "wrong checksum"},
		"too long":                 {answers: list(whole(append(bytes.Clone(b), 1), `"a"`)), known: true, complain: "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			f, url := mirrorOf(t, c.answers...)
			w := newWorld(t)
			s := w.discover(Config{})
			want := artifact.Digest("")
			req := Request{Ecosystem: OCI, Path: "v2/x/blobs/1"}
			s.cfg.OCI = Setting{URLs: []string{url}}
			if c.known {
				want = digest(b)
				req.SHA256, req.Size = want, int64(len(b))
			}
			blob, err := s.Fetch(context.Background(), req)
			if c.ok != (err == nil) || err != nil && !strings.Contains(err.Error(), c.complain) {
				t.Fatalf("%v, want %q", err, c.complain)
			}
			if c.ok {
				if got, err := os.ReadFile(blob.Path); err != nil || !bytes.Equal(got, b) {
					t.Errorf("not what was served: %v", err)
				}
			} else if left, _ := os.ReadDir(w.dir + "/cache/mirror/sha256"); len(left) > 0 {
				t.Errorf("%d folders of blobs: something entered the store", len(left))
			}
			resumed := len(f.asked) > 1 && f.asked[1].Get("Range") == fmt.Sprintf("bytes=%d-", half)
			if resumed != c.resumed {
				t.Errorf("resumed %v: %v", resumed, f.asked)
			}
			if left, _ := os.ReadDir(w.dir + "/cache/mirror/tmp"); len(left) > 0 {
				t.Errorf("%d temporary files left", len(left))
			}
		})
	}
}

func list(a ...func(http.ResponseWriter, *http.Request)) []func(http.ResponseWriter, *http.Request) {
	return a
}

// TestFailover has several mirrors of which the first is gone, wrong, or breaks
// off for ever.
func TestFailover(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := "http://" + l.Addr().String()
	_ = l.Close()
	b := someBytes(t, 300_000)
	_, breaks := mirrorOf(t, cutOff(b, `"a"`, 100_000))
	_, wrong := mirrorOf(t, whole(someBytes(t, 10), `"w"`))
	_, empty := mirrorOf(t, http.NotFound)
	_, down := mirrorOf(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for name, first := range map[string]string{"gone": gone, "breaks off": breaks, "wrong": wrong, "empty": empty, "refuses": down} {
		second, good := mirrorOf(t, whole(b, `"z"`))
		w := newWorld(t)
		s := w.discover(Config{OCI: Setting{URLs: []string{first, good}}})
		_, sock := testGateway(t, s, t.TempDir())
		resp, body := get(t, stepClient(t, sock, step1, false), "http://mirror.drydock.internal/v2/x/blobs/"+string(digest(b)))
		if resp.StatusCode != http.StatusOK || body != string(b) {
			t.Errorf("%s: %s, %d bytes", name, resp.Status, len(body))
		}
		if name == "breaks off" && second.asked[0].Get("Range") == "" {
			t.Error("the second mirror was asked for what the first had given")
		}
	}
	s := newWorld(t).discover(Config{OCI: Setting{URLs: []string{gone, empty}}})
	if _, err := s.Fetch(context.Background(), Request{Ecosystem: OCI, Path: "v2/x/blobs/1"}); err == nil || !strings.Contains(err.Error(), gone) {
		t.Errorf("none of them: %v", err)
	}
}
