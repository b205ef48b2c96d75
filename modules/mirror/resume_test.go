//go:build linux

package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
)

// resumeEnv makes this test program a process that fetches, and is killed.
const resumeEnv = "DRYDOCK_TEST_RESUME"

type resumeTask struct {
	URL, Path, Cache string
	SHA256           artifact.Digest
	Size             int64
}

// hangs serves the beginning of a file, up to one place after the other with a
// while between, and then nothing until the client goes.
func hangs(b []byte, etag string, places ...int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		from := 0
		for _, to := range places {
			if from > 0 {
				time.Sleep(600 * time.Millisecond) // longer than what comes without a note
			}
			_, _ = w.Write(b[from:to])
			_ = http.NewResponseController(w).Flush()
			from = to
		}
		<-r.Context().Done()
	}
}

// TestResumeAfterKill: a process is killed while it fetches, and another one goes
// on where it was.
func TestResumeAfterKill(t *testing.T) {
	if task := os.Getenv(resumeEnv); task != "" {
		fetchAndHang(t, task)
		return
	}
	b := someBytes(t, 900_000)
	f, url := mirrorOf(t, hangs(b, `"a"`, 500_000, 501_000), whole(b, `"a"`))
	w := newWorld(t)
	cache := filepath.Join(w.dir, "cache")
	task, err := json.Marshal(resumeTask{URL: url, Path: "v2/x/blobs/1", Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestResumeAfterKill$")
	child.Env = append(os.Environ(), resumeEnv+"="+string(task))
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the other process's note", func() bool { return len(notes(t, w)) == 1 })
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	s := w.discover(Config{OCI: Setting{URLs: []string{url}}})
	blob, err := s.Fetch(context.Background(), Request{Ecosystem: OCI, Path: "v2/x/blobs/1"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(blob.Path); err != nil || !bytes.Equal(got, b) {
		t.Errorf("not what was served: %v", err)
	}
	if len(f.asked) != 2 || f.asked[1].Get("Range") != "bytes=501000-" || f.asked[1].Get("If-Range") != `"a"` {
		t.Errorf("%v", f.asked)
	}
	noPartials(t, w)
}

func fetchAndHang(t *testing.T, text string) {
	t.Helper()
	var task resumeTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		t.Fatal(err)
	}
	s, err := Discover(context.Background(), Config{OCI: Setting{URLs: []string{task.URL}}}, Host{Environ: []string{"GOENV=off"}, EtcApt: "/none"}, task.Cache)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Fetch(context.Background(), Request{Ecosystem: OCI, Path: task.Path})
	t.Fatalf("it was not killed: %v", err)
}

// notes are those of transfers that can be gone on with.
func notes(t *testing.T, w *world) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dir, "cache", "mirror", "partial", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func noPartials(t *testing.T, w *world) {
	t.Helper()
	for _, dir := range []string{"partial", "tmp"} {
		if left, _ := os.ReadDir(filepath.Join(w.dir, "cache", "mirror", dir)); len(left) > 0 {
			t.Errorf("%d files left in %s", len(left), dir)
		}
	}
}

// TestResumeLater: a transfer that ended early is gone on with by another store on
// the same folder, where that is sure to be the same file, and begun anew where
// it is not.
func TestResumeLater(t *testing.T) {
	b := someBytes(t, 400_000)
	other := someBytes(t, len(b))
	const half = 200_000
	old := func(h func(http.ResponseWriter, *http.Request), at time.Time) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Last-Modified", at.UTC().Format(http.TimeFormat))
			h(w, r)
		}
	}
	noRanges := func(b []byte) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	changeFile := func(change func(b []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, note string) {
			part := strings.TrimSuffix(note, ".json")
			got, err := os.ReadFile(part)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(part, change(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	day := time.Now().Add(-24 * time.Hour)
	for name, c := range map[string]struct {
		first  func(http.ResponseWriter, *http.Request)
		later  []func(http.ResponseWriter, *http.Request)
		known  bool // its digest is
		change func(t *testing.T, note string)
		none   bool     // nothing is kept
		ranges []string // asked for later
		want   []byte
	}{
		"by its validator":         {first: hangs(b, `"a"`, half), later: list(whole(b, `"a"`)), ranges: []string{"bytes=200000-"}, want: b},
		"by its digest":            {first: hangs(b, "", half), later: list(whole(b, "")), known: true, ranges: []string{"bytes=200000-"}, want: b},
		"by an old time":           {first: old(hangs(b, "", half), day), later: list(old(whole(b, ""), day)), ranges: []string{"bytes=200000-"}, want: b},
		"a time too new":           {first: old(hangs(b, "", half), time.Now()), later: list(whole(b, "")), none: true, ranges: []string{""}, want: b},
		"no validator":             {first: hangs(b, "", half), later: list(whole(b, "")), none: true, ranges: []string{""}, want: b},
		"a weak one":               {first: hangs(b, `W/"a"`, half), later: list(whole(b, `W/"a"`)), none: true, ranges: []string{""}, want: b},
		"the file is another":      {first: hangs(b, `"a"`, half), later: list(whole(other, `"b"`)), ranges: []string{"bytes=200000-"}, want: other},
		"no ranges":                {first: hangs(b, `"a"`, half), later: list(noRanges(b)), ranges: []string{"bytes=200000-"}, want: b},
		"nothing left":             {first: hangs(b, `"a"`, half), later: list(whole(b[:1000], `"a"`), whole(b[:1000], `"a"`)), ranges: []string{"bytes=200000-", ""}, want: b[:1000]},
		"poisoned before":          {first: hangs(other, "", half), later: list(whole(b, ""), whole(b, "")), known: true, ranges: []string{"bytes=200000-", ""}, want: b},
		"poisoned, same validator": {first: hangs(other, `"a"`, half), later: list(whole(b, `"a"`), whole(b, `"a"`)), known: true, ranges: []string{"bytes=200000-", ""}, want: b},
		"another range":            {first: hangs(b, `"a"`, half), later: list(lies(b[7:9], "bytes 7-9/400000"), whole(b, `"a"`)), ranges: []string{"bytes=200000-", ""}, want: b},
		"another length":           {first: hangs(b, `"a"`, half), later: list(lies(b[half:], "bytes 200000-400000/400001"), whole(b, `"a"`)), ranges: []string{"bytes=200000-", ""}, want: b},
		"breaks off again":         {first: hangs(b, `"a"`, half), later: list(cutOff(b, `"a"`, half), whole(b, `"a"`)), ranges: []string{"bytes=200000-", "bytes=200000-"}, want: b},
		"a damaged file":           {first: hangs(b, `"a"`, half), later: list(whole(b, `"a"`)), change: changeFile(func(b []byte) []byte { b[70_000] ^= 1; return b }), ranges: []string{""}, want: b},
		"a shorter file":           {first: hangs(b, `"a"`, half), later: list(whole(b, `"a"`)), change: changeFile(func(b []byte) []byte { return b[:1000] }), ranges: []string{""}, want: b},
		"a longer file":            {first: hangs(b, `"a"`, half), later: list(whole(b, `"a"`)), change: changeFile(func(b []byte) []byte { return append(b, other...) }), ranges: []string{"bytes=200000-"}, want: b},
		"a damaged note":           {first: hangs(b, `"a"`, half), later: list(whole(b, `"a"`)), change: func(t *testing.T, note string) { writeFile(t, note, "{") }, ranges: []string{""}, want: b},
	} {
		t.Run(name, func(t *testing.T) {
			f, url := mirrorOf(t, append(list(c.first), c.later...)...)
			w := newWorld(t)
			req := Request{Ecosystem: OCI, Path: "v2/x/blobs/1"}
			if c.known {
				req.SHA256, req.Size = digest(b), int64(len(b))
			}
			cfg := Config{OCI: Setting{URLs: []string{url}}}
			endEarly(t, w, cfg, req, half)
			kept := notes(t, w)
			if c.none != (len(kept) == 0) {
				t.Fatalf("%d transfers are kept", len(kept))
			}
			if c.change != nil {
				c.change(t, kept[0])
			}
			before := len(f.asked)
			blob, err := w.discover(cfg).Fetch(context.Background(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(blob.Path); err != nil || !bytes.Equal(got, c.want) || blob.Material.Digest != digest(c.want) {
				t.Errorf("%d bytes, not the file: %v", len(got), err)
			}
			var ranges []string
			for _, h := range f.asked[before:] {
				ranges = append(ranges, h.Get("Range"))
			}
			if strings.Join(ranges, ",") != strings.Join(c.ranges, ",") {
				t.Errorf("asked for %q, not %q", ranges, c.ranges)
			}
			noPartials(t, w)
		})
	}
}

// TestResumeForAStep: a step is given the bytes that were here before those that
// still come. Where the mirror lies about the rest, the step's transfer is cut off
// or begins anew, and what was wrong is not kept.
func TestResumeForAStep(t *testing.T) {
	b := someBytes(t, 900_000)
	const half = 500_000
	rest := fmt.Sprintf("bytes %d-%d/%d", half, len(b)-1, len(b))
	f, url := mirrorOf(t, hangs(b, `"a"`, half), whole(b, `"a"`), hangs(b, `"a"`, half), lies(someBytes(t, len(b)-half), rest), whole(b, `"a"`))
	w := newWorld(t)
	cfg := Config{OCI: Setting{URLs: []string{url}}}
	path := "v2/x/blobs/" + string(digest(b))
	req := Request{Ecosystem: OCI, Path: path, SHA256: digest(b), Size: int64(len(b))}
	endEarly(t, w, cfg, req, half)
	_, sock := testGateway(t, w.discover(cfg), t.TempDir())
	if resp, body := get(t, stepClient(t, sock, step1, false), gatewayAt+"/"+path); resp.StatusCode != http.StatusOK || body != string(b) {
		t.Errorf("%s, %d bytes", resp.Status, len(body))
	}
	if f.asked[1].Get("Range") != fmt.Sprintf("bytes=%d-", half) {
		t.Errorf("%v", f.asked[1])
	}
	noPartials(t, w)

	w.dir = t.TempDir()
	endEarly(t, w, cfg, req, half)
	_, sock = testGateway(t, w.discover(cfg), t.TempDir())
	c := stepClient(t, sock, step1, false)
	resp, err := c.Get(gatewayAt + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err == nil && !bytes.Equal(got, b) { // if none of it was shown yet, it came anew
		t.Errorf("%d bytes of a lie were given as the file", len(got))
	}
	noPartials(t, w)
	if resp, body := get(t, c, gatewayAt+"/"+path); resp.StatusCode != http.StatusOK || body != string(b) {
		t.Errorf("%s, %d bytes", resp.Status, len(body))
	}
	if h := f.asked[len(f.asked)-1]; h.Get("Range") != "" {
		t.Errorf("gone on with what was wrong: %v", h)
	}
}

// endEarly fetches until so many bytes have come, as a process that is told to
// end.
func endEarly(t *testing.T, w *world, cfg Config, req Request, after int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := w.discover(cfg).Fetch(ctx, req)
		ended <- err
	}()
	part := ""
	waitFor(t, "the first bytes", func() bool {
		found, _ := filepath.Glob(filepath.Join(w.dir, "cache", "mirror", "partial", "*"))
		for _, f := range found {
			if st, err := os.Stat(f); err == nil && st.Size() == after {
				part = f
			}
		}
		return part != ""
	})
	cancel()
	if err := <-ended; err == nil {
		t.Fatal("the transfer did not end early")
	}
	waitFor(t, "the end of the transfer", func() bool {
		f, err := os.Open(part)
		if err != nil {
			return true // not kept
		}
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	})
}
