//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

var errNoDagger = errors.New("not measured here: its engine needs privileges and is no Go module of ours")

// figures is what the measuring writes.
type figures struct {
	Version   int       `json:"version"`
	Time      time.Time `json:"time"`
	CPUs      int       `json:"cpus"`
	BaseBytes int64     `json:"baseBytes"`

	Milliseconds map[string]map[string][]float64 `json:"milliseconds"` // peer, what, every run
	Medians      map[string]map[string]float64   `json:"medians"`      // milliseconds
	Ratios       []ratio                         `json:"ratios"`
	LeftOut      map[string]string               `json:"leftOut"` // peer, why
}

// ratio is one of our medians over a peer's.
type ratio struct {
	What  string  `json:"what"`
	Ours  string  `json:"ours"`
	Peer  string  `json:"peer"`
	Ratio float64 `json:"ratio"`
}

func newFigures() *figures {
	return &figures{
		Version: 1, Time: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(),
		Milliseconds: map[string]map[string][]float64{}, Medians: map[string]map[string]float64{}, LeftOut: map[string]string{},
	}
}

func (f *figures) leave(who string, why error) {
	fmt.Fprintf(os.Stderr, "%s is left out: %v\n", who, why)
	f.LeftOut[who] = why.Error()
}

func (f *figures) add(who, what string, took time.Duration) {
	if f.Milliseconds[who] == nil {
		f.Milliseconds[who] = map[string][]float64{}
	}
	f.Milliseconds[who][what] = append(f.Milliseconds[who][what], float64(took.Microseconds())/1000)
}

// compare takes medians and sets them side by side.
func (f *figures) compare() {
	for who, all := range f.Milliseconds {
		f.Medians[who] = map[string]float64{}
		for what, runs := range all {
			f.Medians[who][what] = median(runs)
		}
		one, many := f.Medians[who]["one step"], f.Medians[who]["many steps"]
		if many > 0 {
			f.Medians[who]["step"] = (many - one) / overheadSteps
		}
	}
	for _, c := range []struct{ what, ours, peer string }{
		{"step", "drydock", "runc"}, {"step", "drydock", "buildkitd"},
		{"nothing changed", "drydock", "buildkitd"}, {"new commands", "drydock", "buildkitd"},
		{"cold with pull", "drydock", "buildkitd"},
		{"nothing changed", "drydock T2", "drydock"}, {"new commands", "drydock T2", "drydock"}, {"cold with pull", "drydock T2", "drydock"},
	} {
		a, b := f.Medians[c.ours][c.what], f.Medians[c.peer][c.what]
		if a <= 0 || b <= 0 {
			continue
		}
		r := ratio{What: c.what, Ours: c.ours, Peer: c.peer, Ratio: a / b}
		f.Ratios = append(f.Ratios, r)
		fmt.Fprintf(os.Stderr, "%-34s %s / %s = %.2f (%.0f ms / %.0f ms)\n", r.What, r.Ours, r.Peer, r.Ratio, a, b)
	}
}

func median(runs []float64) float64 {
	s := slices.Sorted(slices.Values(runs))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func (f *figures) write(path string) error {
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
