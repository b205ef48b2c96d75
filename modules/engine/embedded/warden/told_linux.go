package warden

import (
	"slices"
	"sync"
)

// maxTold is how many refused addresses are remembered.
const maxTold = 10

// told is what the step's end is explained with.
type told struct {
	mu      sync.Mutex
	ended   bool // the command was reaped
	reason  string
	refused []string
}

func (t *told) because(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reason == "" {
		t.reason = reason
	}
}

func (t *told) failed(err error) {
	if err != nil {
		t.because("its guard failed: " + err.Error())
	}
}

func (t *told) refuse(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.refused) < maxTold && !slices.Contains(t.refused, what) {
		t.refused = append(t.refused, what)
	}
}

// Reason says why the step was killed; "" when it was not by us.
func (w *Warden) Reason() string {
	w.told.mu.Lock()
	defer w.told.mu.Unlock()
	return w.told.reason
}

// Refused lists the first things the step wanted to reach and could not.
func (w *Warden) Refused() []string {
	w.told.mu.Lock()
	defer w.told.mu.Unlock()
	return slices.Clone(w.told.refused)
}
