package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drydock/modules/artifact"
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func data(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// source opens readers one after the other, the last one for ever.
func source(size int64, readers ...func() io.Reader) func(context.Context, Attempt) (io.ReadCloser, Meta, error) {
	var n atomic.Int32
	return func(context.Context, Attempt) (io.ReadCloser, Meta, error) {
		i := min(int(n.Add(1)), len(readers)) - 1
		return io.NopCloser(readers[i]()), Meta{Size: size, ETag: `"e"`}, nil
	}
}

func plain(b []byte) func() io.Reader { return func() io.Reader { return bytes.NewReader(b) } }

// breaking gives some bytes, then an error.
func breaking(b []byte, err error) func() io.Reader {
	return func() io.Reader { return io.MultiReader(bytes.NewReader(b), errReader{err}) }
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func fetchOne(t *testing.T, s *Store, w Want) (Entry, string, error) {
	t.Helper()
	f := s.Start(context.Background(), w)
	defer f.Release()
	return f.Wait(context.Background())
}

func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	for _, of := range []string{"tmp", "partial"} {
		left, err := os.ReadDir(filepath.Join(dir, of))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if len(left) != 0 {
			t.Errorf("%d files left in %s", len(left), of)
		}
	}
}

func TestKeepsWhatIsRight(t *testing.T) {
	dir, b := t.TempDir(), data(t, 100_000)
	s := Open(dir)
	e, path, err := fetchOne(t, s, Want{Place: "p", Key: "k", SHA256: sum(b), Open: source(int64(len(b)), plain(b))})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, b) || e.Digest.Hex() != sum(b) || e.ETag != `"e"` {
		t.Errorf("entry %+v, %v", e, err)
	}
	if _, _, ok := Open(dir).Entry("k"); !ok {
		t.Error("another process does not find it")
	}
	noLeftovers(t, dir)
}

func TestNothingWrongEnters(t *testing.T) {
	b := data(t, 1000)
	short := breaking(b[:500], io.ErrUnexpectedEOF)
	broken := func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }
	for name, w := range map[string]Want{
		"wrong hash": {SHA256: sum([]byte("other")), Open: source(-1, plain(b))},
		"wrong size": {Size: 999, Open: source(-1, plain(b))},
		"too short":  {Size: 1001, Open: source(-1, plain(b))},
		"announced":  {Open: source(1001, plain(b))},
		"over limit": {Limit: 999, Open: source(-1, plain(b))},
		"truncated":  {Open: source(1000, short), Broken: broken},
		"verify":     {Open: source(1000, plain(b)), Verify: func(context.Context, string) error { return errors.New("no") }},
		"changed":    {Open: source(-1, short, plain(data(t, 1000))), Broken: broken},
		"shrunk":     {Open: source(-1, short, plain(b[:400])), Broken: broken},
		"unchanged": {Open: func(context.Context, Attempt) (io.ReadCloser, Meta, error) {
			return io.NopCloser(strings.NewReader("")), Meta{NotModified: true}, nil
		}},
	} {
		dir := t.TempDir()
		s := Open(dir)
		w.Place, w.Key = "http://m.test/f", "k"
		_, _, err := fetchOne(t, s, w)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if _, _, ok := s.Entry("k"); ok {
			t.Errorf("%s: entered the store", name)
		}
		if _, err := os.Stat(filepath.Join(dir, "sha256")); err == nil {
			t.Errorf("%s: a blob was kept", name)
		}
		noLeftovers(t, dir)
	}
}

func TestBreaksOffAndComesAgain(t *testing.T) {
	b := data(t, 300_000)
	s := Open(t.TempDir())
	_, path, err := fetchOne(t, s, Want{
		Place: "p", Key: "k", SHA256: sum(b),
		Open:   source(int64(len(b)), breaking(b[:200_000], io.ErrUnexpectedEOF), breaking(b[:100], io.ErrUnexpectedEOF), plain(b)),
		Broken: func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, b) {
		t.Errorf("not what was served: %v", err)
	}
}

func TestDamagedBlobIsNotFound(t *testing.T) {
	dir, b := t.TempDir(), data(t, 1000)
	_, path, err := fetchOne(t, Open(dir), Want{Place: "p", Key: "k", Open: source(-1, plain(b))})
	if err != nil {
		t.Fatal(err)
	}
	b[3]++
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := Open(dir) // a later process
	if _, _, ok := s.Entry("k"); ok {
		t.Error("a damaged blob was found")
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a damaged blob was left")
	}
	for _, junk := range []string{"", "{", `{"version":2,"key":"k"}`} {
		if err := os.WriteFile(s.entryPath("k"), []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := s.Entry("k"); ok {
			t.Errorf("entry %q was read", junk)
		}
	}
}

// TestFlightIsNobodys cancels the one who came first; who came later still gets
// the file, by the same transfer.
func TestFlightIsNobodys(t *testing.T) {
	b := data(t, 100_000)
	var opened atomic.Int32
	gate := make(chan struct{})
	s := Open(t.TempDir())
	w := Want{Place: "p", Key: "k", Open: func(ctx context.Context, _ Attempt) (io.ReadCloser, Meta, error) {
		opened.Add(1)
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, Meta{}, context.Cause(ctx)
		}
		return io.NopCloser(bytes.NewReader(b)), Meta{Size: -1}, nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	first := s.Start(ctx, w)
	second := s.Start(context.Background(), w)
	defer second.Release()
	cancel()
	if _, _, err := first.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	first.Release()
	close(gate)
	if _, _, err := second.Wait(context.Background()); err != nil {
		t.Errorf("the second: %v", err)
	}
	if opened.Load() != 1 {
		t.Errorf("%d transfers", opened.Load())
	}
}

func TestAbandonedFlightEnds(t *testing.T) {
	ended := make(chan struct{})
	f := Open(t.TempDir()).Start(context.Background(), Want{Place: "p", Key: "k", Open: func(ctx context.Context, _ Attempt) (io.ReadCloser, Meta, error) {
		<-ctx.Done()
		close(ended)
		return nil, Meta{}, ctx.Err()
	}})
	f.Release()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("nobody wants it and it goes on")
	}
}

// TestFollow reads while the file arrives, and never sees the end of one that
// turns out wrong.
func TestFollow(t *testing.T) {
	b := data(t, 500_000)
	for name, hash := range map[string]string{"right": sum(b), "wrong": sum([]byte("other"))} {
		pr, pw := io.Pipe()
		s := Open(t.TempDir())
		f := s.Start(context.Background(), Want{Place: "p", SHA256: hash, Open: func(context.Context, Attempt) (io.ReadCloser, Meta, error) {
			return pr, Meta{Size: int64(len(b))}, nil
		}})
		completed := 0
		body, meta, err := f.Follow(context.Background(), func(Entry) { completed++ })
		if err != nil || meta.Size != int64(len(b)) {
			t.Fatalf("%s: %+v, %v", name, meta, err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = pw.Write(b[:400_000])
			early := make([]byte, 300_000)
			if _, err := io.ReadFull(body, early); err != nil || !bytes.Equal(early, b[:300_000]) {
				t.Errorf("%s: the bytes that were there did not come: %v", name, err)
			}
			_, _ = pw.Write(b[400_000:])
			_ = pw.Close()
		})
		wg.Wait()
		rest, err := io.ReadAll(body)
		if name == "right" && (err != nil || len(rest) != 200_000 || completed != 1) {
			t.Errorf("right: %d bytes, completed %d, %v", len(rest), completed, err)
		}
		if name == "wrong" && (err == nil || len(rest) >= 200_000 || completed != 0) {
			t.Errorf("wrong: %d bytes, completed %d, %v", len(rest), completed, err)
		}
		_ = body.Close()
		f.Release()
	}
}

func TestDiskTroubleSaysSo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := fetchOne(t, Open(filepath.Join(file, "below")), Want{Place: "p", Key: "k", Open: source(-1, plain([]byte("x")))})
	var e *artifact.Error
	if !errors.As(err, &e) || !strings.Contains(e.Remedy, "--cache") {
		t.Errorf("got %v", err)
	}
}

func TestOldLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, "tmp", "get-1"), filepath.Join(dir, "tmp", "get-2")
	for _, f := range []string{old, young} {
		if err := WriteFile(f, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	Open(dir)
	if _, err := os.Stat(old); err == nil {
		t.Error("the old one is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("the young one is gone")
	}
}
