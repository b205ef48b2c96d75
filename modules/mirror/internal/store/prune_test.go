package store

import (
	"os"
	"testing"
	"time"

	"drydock/modules/artifact"
)

// filled is a store with three blobs of 1000 bytes, the first used longest ago.
func filled(t *testing.T) (*Store, []artifact.Digest, []string) {
	t.Helper()
	s := Open(t.TempDir())
	var sums []artifact.Digest
	var paths []string
	for i := range 3 {
		b := data(t, 1000)
		e, path, err := fetchOne(t, s, Want{Place: "p", Key: string(rune('a' + i)), Open: source(-1, plain(b))})
		if err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
		sums, paths = append(sums, e.Digest), append(paths, path)
	}
	return s, sums, paths
}

func there(path string) bool { _, err := os.Stat(path); return err == nil }

func TestPrune(t *testing.T) {
	s, sums, paths := filled(t)
	if u, err := s.Usage(); err != nil || u.Files != 3 || u.Bytes != 3000 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, _, ok := s.Blob(sums[0], 0); !ok { // now it is the most recently used
		t.Fatal("not there")
	}
	if _, err := s.Prune(PruneOptions{}); err != nil || !there(paths[1]) {
		t.Errorf("nothing was asked for: %v", err)
	}
	gone, err := s.Prune(PruneOptions{MaxBytes: 2500})
	if err != nil || gone.Files != 1 || gone.Bytes != 1000 || there(paths[1]) || !there(paths[0]) || !there(paths[2]) {
		t.Errorf("%+v, %v", gone, err)
	}
	if _, _, ok := s.Entry("b"); ok {
		t.Error("what is gone is still found")
	}
	if gone, err = s.Prune(PruneOptions{OlderThan: time.Hour}); err != nil || gone.Files != 1 || there(paths[2]) || !there(paths[0]) {
		t.Errorf("%+v, %v", gone, err)
	}
}

// TestPruneSparesWhatIsUsed has a process that began before a blob was last used.
func TestPruneSparesWhatIsUsed(t *testing.T) {
	s, sums, paths := filled(t)
	release, err := s.Register()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := s.Blob(sums[1], 0); !ok {
		t.Fatal("not there")
	}
	other := Open(s.dir) // another process
	gone, err := other.Prune(PruneOptions{MaxBytes: 1})
	if err != nil || gone.Files != 2 || !there(paths[1]) {
		t.Errorf("%+v, %v", gone, err)
	}
	release()
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(paths[1], past, past); err != nil {
		t.Fatal(err)
	}
	if gone, err = other.Prune(PruneOptions{MaxBytes: 1}); err != nil || gone.Files != 1 || there(paths[1]) {
		t.Errorf("when it has ended: %+v, %v", gone, err)
	}
}

// TestPrunePartial: transfers that broke off count and go as blobs do, but for
// one that somebody is at; what nobody goes on with is swept.
func TestPrunePartial(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir)
	kept := func(key string, age time.Duration) (string, *incoming) {
		in, err := s.receive(key)
		if err != nil || in.whole != nil {
			t.Fatalf("%s: it cannot be gone on with: %v", key, err)
		}
		if _, err := in.Write(data(t, 100_000)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(notePath(in.Name()), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		past := time.Now().Add(-age)
		for _, f := range []string{in.Name(), notePath(in.Name())} {
			if err := os.Chtimes(f, past, past); err != nil {
				t.Fatal(err)
			}
		}
		return in.Name(), in
	}
	busy, in := kept("busy", time.Hour)
	idle, other := kept("idle", time.Hour)
	_ = other.Close()
	if u, err := s.Usage(); err != nil || u.Files != 2 || u.Bytes != 200_000 {
		t.Errorf("%+v, %v", u, err)
	}
	if again, err := Open(dir).receive("busy"); err != nil || again.whole == nil {
		t.Errorf("two write one file: %v", err)
	} else {
		again.end(false)
	}
	gone, err := s.Prune(PruneOptions{MaxBytes: 1})
	if err != nil || gone.Files != 1 || !there(busy) || there(idle) || there(notePath(idle)) {
		t.Errorf("%+v, %v", gone, err)
	}
	_ = in.Close()
	if gone, err = s.Prune(PruneOptions{OlderThan: time.Minute}); err != nil || gone.Files != 1 || there(busy) || there(notePath(busy)) {
		t.Errorf("%+v, %v", gone, err)
	}
	old, in := kept("old", partialFor+time.Hour)
	_ = in.Close()
	young, in := kept("young", partialFor-time.Hour)
	_ = in.Close()
	if Open(dir); there(old) || there(notePath(old)) || !there(young) {
		t.Error("not what is older than a week was swept")
	}
}
