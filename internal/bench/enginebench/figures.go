//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	common "drydock/internal/bench"
)

var (
	errNoDagger  = errors.New("none is named (_EXPERIMENTAL_DAGGER_RUNNER_HOST, _EXPERIMENTAL_DAGGER_CLI_BIN)")
	errNotWanted = errors.New("not asked for")
)

// figures is what the measuring writes.
type figures struct {
	Version   int       `json:"version"`
	Time      time.Time `json:"time"`
	CPUs      int       `json:"cpus"`
	BaseBytes int64     `json:"baseBytes"`

	Milliseconds map[string]map[string][]float64 `json:"milliseconds"` // peer, what, every run
	Medians      map[string]map[string]float64   `json:"medians"`      // milliseconds
	Ratios       []ratio                         `json:"ratios"`
	Peak         map[string]int64                `json:"peakBytes"` // memory of the engine, by peer
	LeftOut      map[string]string               `json:"leftOut"`   // peer, why
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
		Milliseconds: map[string]map[string][]float64{}, Medians: map[string]map[string]float64{},
		Peak: map[string]int64{}, LeftOut: map[string]string{},
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
			f.Medians[who][what] = common.Median(runs)
		}
		one, many := f.Medians[who]["one step"], f.Medians[who]["many steps"]
		if many > 0 {
			f.Medians[who]["step"] = (many - one) / overheadSteps
		}
	}
	for _, c := range []struct{ what, ours, peer string }{
		{"step", "drydock", "runc"}, {"step", "drydock", "buildkitd"},
		{"nothing changed", "drydock", "buildkitd"}, {"new commands", "drydock", "buildkitd"},
		{"cold with pull", "drydock", "buildkitd"}, {workName, "drydock", "buildkitd"},
		{"nothing changed", "drydock", daggerName}, {"new commands", "drydock", daggerName}, {workName, "drydock", daggerName},
		{"nothing changed", "drydock T2", "drydock"}, {"new commands", "drydock T2", "drydock"}, {"cold with pull", "drydock T2", "drydock"},
		{"step", "drydock T2", "drydock"}, {workName, "drydock T2", "drydock"},
		{cpuOf + workName, "drydock T2", "drydock"},
		{"nothing changed", "drydock T2", kanikoName}, {"new commands", "drydock T2", kanikoName}, {"cold with pull", "drydock T2", kanikoName},
	} {
		f.ratio(c.what, c.ours, c.peer, f.Medians[c.ours][c.what], f.Medians[c.peer][c.what])
	}
	for _, who := range []string{"drydock", "drydock T2"} {
		m := f.Medians[who]
		f.ratio(cpuOf+atOnceName, who, who+", "+oneByOneName, m[cpuOf+atOnceName], m[cpuOf+oneByOneName])
	}
	for who, bytes := range f.Peak {
		fmt.Fprintf(os.Stderr, "%-34s %s: %d MB\n", "most memory of the engine", who, bytes/1_000_000)
	}
}

// ratio notes a over b, when both were measured.
func (f *figures) ratio(what, ours, peer string, a, b float64) {
	if a <= 0 || b <= 0 {
		return
	}
	r := ratio{What: what, Ours: ours, Peer: peer, Ratio: a / b}
	f.Ratios = append(f.Ratios, r)
	fmt.Fprintf(os.Stderr, "%-34s %s / %s = %.2f (%.0f ms / %.0f ms)\n", r.What, r.Ours, r.Peer, r.Ratio, a, b)
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
