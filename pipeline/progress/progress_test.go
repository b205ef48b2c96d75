package progress

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drydock/modules/artifact"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

// story is a run in which everything happens that can.
func story() []Event {
	at := func(s float64) time.Time {
		return time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC).Add(time.Duration(s * float64(time.Second)))
	}
	nginx := Event{Image: "nginx", Platform: "linux/amd64", Step: "build"}
	app := Event{Image: "app", Variant: "go1.26", Platform: "linux/arm64", Step: "scan"}
	ev := func(e Event, s float64, k Kind, text string) Event {
		e.Time, e.Kind, e.Text = at(s), k, text
		return e
	}
	failed := ev(app, 75, Failed, "")
	failed.Err = errors.New("reading database: checksum differs\nof two")
	done := ev(nginx, 12, Done, "")
	told := ev(Event{Image: "redis", Step: "sign"}, 80, Done, "2 attestations")
	told.Seconds = 0.25
	return []Event{
		ev(Event{}, 0, Note, "debian mirror is public"),
		ev(nginx, 1, Started, ""),
		ev(nginx, 2, Log, "Get:1 bookworm/main\nGet:2 \x1b[31mred\x1b[0m"),
		ev(app, 3, Started, "grype"),
		ev(nginx, 4, Log, "##vso[task.setvariable variable=x]evil"),
		ev(nginx, 5, Log, "::set-output name=x::evil"),
		done,
		ev(Event{Image: "redis", Step: "sbom"}, 13, Cached, ""),
		ev(app, 14, Log, "matching"),
		failed,
		told,
	}
}

func render(t *testing.T, mode Mode) string {
	t.Helper()
	var b bytes.Buffer
	s := New(mode, &b, false, 80)
	for _, e := range story() {
		s.Emit(e)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPlain(t *testing.T) {
	got := render(t, Auto)
	golden(t, "plain.txt", got)
	if strings.Contains(got, "##vso[") || strings.Contains(got, "\x1b") {
		t.Error("a step's output gives commands to the CI agent or the terminal")
	}
}

func TestJSON(t *testing.T) { golden(t, "events.jsonl", render(t, JSON)) }

func TestTable(t *testing.T) {
	var b bytes.Buffer
	tab := newTable(&b, 60)
	for i, e := range story() {
		if err := tab.handle(e); err != nil {
			t.Fatal(err)
		}
		if i == 4 || i == 8 {
			if err := tab.tick(e.Time.Add(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tab.finish(); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.txt", strings.ReplaceAll(b.String(), "\x1b", "ESC"))
	if strings.Count(b.String(), hideCursor) != 1 || !strings.HasSuffix(b.String(), showCursor) {
		t.Error("the terminal is not given back")
	}
	for _, l := range strings.Split(b.String(), "\n") {
		if strings.HasPrefix(l, "⠶") && runes(l) > 59 {
			t.Errorf("row would wrap: %q", l)
		}
	}
}

func TestTableGivesTheTerminalBackOnInterrupt(t *testing.T) {
	var b bytes.Buffer
	s := New(TTY, &b, true, 80)
	for i := range maxRows + 3 {
		s.Emit(Event{Image: fmt.Sprint("i", i), Step: "build", Kind: Started})
	}
	time.Sleep(3 * redrawEvery)
	if err := s.Close(); err != nil { // as the program does when its context ends
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Emit(Event{Kind: Note, Text: "late"})
	out := b.String()
	if !strings.Contains(out, hideCursor) || !strings.HasSuffix(out, showCursor) {
		t.Errorf("%q", out)
	}
	if !strings.Contains(out, "3 of the running not shown") {
		t.Error("rows beyond the limit are not mentioned")
	}
	if n := strings.Count(out, " running,"); n > 5 {
		t.Errorf("%d frames in 0.3 s", n)
	}
}

// stuck is a reader that stopped reading, as a terminal after Ctrl-S.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func TestSlowReaderNeverBlocksThePipeline(t *testing.T) {
	w := stuck{make(chan struct{})}
	defer close(w.release)
	q := newQueue(&plainLines{w: w, started: map[stepKey]time.Time{}}, 0)
	q.wait = 50 * time.Millisecond
	start := time.Now()
	for range 2 * maxQueuedLogs {
		q.Emit(Event{Kind: Log, Text: "x"})
	}
	q.Emit(Event{Kind: Failed, Step: "build"})
	q.mu.Lock()
	last, dropped := q.events[len(q.events)-1], q.dropped
	q.mu.Unlock()
	if last.Kind != Failed || dropped == 0 {
		t.Errorf("last %+v, dropped %d", last, dropped)
	}
	if err := q.Close(); !errors.Is(err, errStuck) {
		t.Errorf("close: %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func TestDroppedLinesAreCounted(t *testing.T) {
	var b bytes.Buffer
	gate := make(chan struct{})
	q := newQueue(&plainLines{w: gated{gate, &b}, started: map[stepKey]time.Time{}}, 0)
	for range maxQueuedLogs + 7 {
		q.Emit(Event{Kind: Log, Text: "x"})
	}
	q.mu.Lock()
	dropped := q.dropped
	q.mu.Unlock()
	close(gate)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if dropped > 0 && !strings.Contains(b.String(), fmt.Sprintf("note: %d log lines were not shown", dropped)) {
		t.Errorf("%d dropped lines are not mentioned", dropped)
	}
}

type gated struct {
	gate <-chan struct{}
	w    *bytes.Buffer
}

func (g gated) Write(p []byte) (int, error) {
	<-g.gate
	return g.w.Write(p)
}

func TestManyGoroutines(t *testing.T) {
	var b bytes.Buffer
	s := New(Plain, &b, false, 0)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for k := range 50 {
				s.Emit(Event{Image: fmt.Sprint("i", i), Kind: Log, Text: fmt.Sprint(k)})
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != 1000 {
		t.Errorf("%d lines", n)
	}
}

func TestWriteErrorsComeOutOfClose(t *testing.T) {
	s := New(Plain, failing{}, false, 0)
	s.Emit(Event{Kind: Note, Text: "x"})
	if err := s.Close(); !errors.Is(err, errFull) {
		t.Errorf("close: %v", err)
	}
}

func TestParseMode(t *testing.T) {
	for in, want := range map[string]Mode{"": Auto, "auto": Auto, "tty": TTY, "plain": Plain, "json": JSON} {
		if got, err := ParseMode(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	_, err := ParseMode("fancy")
	if artifact.ExitCode(err) != artifact.ExitUsage || len(artifact.Remedies(err)) != 1 {
		t.Errorf("error %v", err)
	}
	Discard().Emit(Event{})
}
