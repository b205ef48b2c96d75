//go:build linux

package main

import (
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	f := newFigures()
	for _, m := range []struct {
		who, what string
		ms        int
	}{
		{"drydock", "one step", 100}, {"drydock", "many steps", 100 + overheadSteps*30},
		{"drydock", "nothing changed", 10}, {"drydock", "nothing changed", 30}, {"drydock", "nothing changed", 200},
		{"runc", "step", 60}, {"buildkitd", "nothing changed", 60},
		{"drydock", workName, 100}, {"drydock T2", workName, 150},
		{"drydock", cpuOf + atOnceName, 90}, {"drydock", cpuOf + oneByOneName, 100},
	} {
		f.add(m.who, m.what, time.Duration(m.ms)*time.Millisecond)
	}
	f.compare()
	got := map[string]float64{}
	for _, r := range f.Ratios {
		got[r.What+" "+r.Peer] = r.Ratio
	}
	want := map[string]float64{"step runc": 0.5, "nothing changed buildkitd": 0.5,
		workName + " drydock": 1.5, cpuOf + atOnceName + " drydock, " + oneByOneName: 0.9}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: %v, want %v", k, got[k], v)
		}
	}
}
