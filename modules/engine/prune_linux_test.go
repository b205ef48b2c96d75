package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (h *helper) close() {
	h.t.Helper()
	if err := h.in.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.expect("closed")
}

// fill is a command that leaves so many megabytes nothing can compress away.
func fill(name string) string {
	return "keep /bin/busybox dd if=/dev/urandom of=/" + name + " bs=1M count=4"
}

func TestPrune(t *testing.T) {
	cache := needEngine(t)
	cfg := Config{CacheDir: cache, Environ: os.Environ()}
	if s, err := ReadStatus(t.Context(), Config{CacheDir: t.TempDir(), Environ: os.Environ(), Tier: "T9"}); err == nil || s.Running {
		t.Errorf("status without an engine: %+v, %v", s, err)
	}
	a := startHelper(t, cache)
	a.expect("up")
	a.do(fill("one"), "kept")
	a.do(fill("two"), "kept")
	s, err := ReadStatus(t.Context(), cfg)
	if err != nil || !s.Running || len(s.Clients) != 1 || s.Clients[0].PID != a.cmd.Process.Pid || s.Bytes < 8<<20 || s.Quota == 0 {
		t.Fatalf("status beside a run: %+v, %v", s, err)
	}
	if p, err := Prune(t.Context(), cfg, PruneOptions{OlderThan: time.Hour}); err != nil || p.Records != 0 {
		t.Errorf("older than an hour: %+v, %v", p, err)
	}
	if p, err := Prune(t.Context(), cfg, PruneOptions{}); err != nil || p.Records != 0 {
		t.Errorf("over the quota: %+v, %v", p, err)
	}
	p, err := Prune(t.Context(), cfg, PruneOptions{MaxSize: 6 << 20})
	if err != nil || p.Bytes < 4<<20 {
		t.Errorf("down to a size: %+v, %v", p, err)
	}
	if s, err = ReadStatus(t.Context(), cfg); err != nil || s.Bytes > 6<<20 {
		t.Errorf("after that: %+v, %v", s, err)
	}
	a.do("echo goes on", "goes on")
	a.close()
	// nothing runs: an engine is started for it, and gone afterwards
	if p, err = Prune(t.Context(), cfg, PruneOptions{All: true}); err != nil || p.Records == 0 {
		t.Errorf("all: %+v, %v", p, err)
	}
	if Running(cache) {
		t.Error("an engine is left")
	}
	if s, err = ReadStatus(t.Context(), cfg); err != nil || s.Running || s.Bytes > 1<<20 {
		t.Errorf("in the end: %+v, %v", s, err)
	}
	left := false
	_ = filepath.WalkDir(StateDir(cache), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "/one") {
			left = true
		}
		return nil
	})
	if left {
		t.Error("the file of a removed step is still on disk")
	}
}

// A cache over its quota is brought below it when the engine ends; what was
// used last stays.
func TestQuota(t *testing.T) {
	cache := needEngine(t)
	const quota = 10 << 20
	cfg := Config{CacheDir: cache, Environ: os.Environ(), Quota: quota}
	a := startHelper(t, cache, quota)
	a.expect("up")
	for _, name := range []string{"one", "two", "three", "four"} {
		a.do(fill(name), "kept")
	}
	if s, err := ReadStatus(t.Context(), cfg); err != nil || s.Quota != quota {
		t.Fatalf("before: %+v, %v", s, err)
	}
	a.close()
	if s, err := ReadStatus(t.Context(), cfg); err != nil || s.Bytes > quota || s.Bytes < 4<<20 {
		t.Errorf("after: %+v, %v", s, err)
	}
	b := startHelper(t, cache, quota)
	b.expect("up")
	b.do(fill("four"), "kept")
	if n := len(b.gate.steps("step")); n != 0 {
		t.Error("the newest step was removed")
	}
}
