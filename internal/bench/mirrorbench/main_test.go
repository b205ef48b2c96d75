//go:build linux

package main

import (
	"strings"
	"testing"

	"drydock/internal/bench"
)

func TestJudge(t *testing.T) {
	good := figures{Sets: []setRun{{Name: "small", Ratio: 0.95}}, MemoryBefore: 30 << 20, MemoryPeak: 50 << 20}
	if err := good.judge(); err != nil {
		t.Error(err)
	}
	slow, fat := good, good
	slow.Sets = []setRun{{Name: "small", Ratio: 0.5}}
	fat.MemoryPeak = 500 << 20
	for name, f := range map[string]figures{"small: 0.50": slow, "memory grew": fat} {
		if err := f.judge(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m := bench.Median([]float64{3, 1, 2}); m != 2 {
		t.Errorf("median %v", m)
	}
}
