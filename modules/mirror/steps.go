package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/store"
	"drydock/modules/mirror/lockfile"
)

// stepBook keeps what each step fetched: in memory while it runs, on disk once
// it has succeeded, so that a cached step still has its materials.
type stepBook struct {
	dir string

	mu       sync.Mutex
	steps    map[string]*runningStep
	builds   map[string]map[string]string // build to step to name
	contacts map[string][]Contact         // by step, of those that ended
}

type runningStep struct {
	name      string
	runs      int
	controls  map[net.Conn]*sync.Mutex
	materials map[string]artifact.Material
	absents   map[lockfile.Absent]bool
	contacts  []*Contact
	untold    []refusal     // from before the executor's connection was seen
	begun     chan struct{} // closed when the executor's connection is seen
	lock      string        // key of the lock the step is under, "" for none
}

// stepFile is materials/<hex>.json.
type stepFile struct {
	Version   int                 `json:"version"` // stepVersion; 1 had no paths and no absent files
	Step      string              `json:"step"`
	Name      string              `json:"name"`
	Materials []artifact.Material `json:"materials"`
	Absent    []lockfile.Absent   `json:"absent,omitempty"`
	Contacts  []Contact           `json:"contacts,omitempty"` // hosts that are no mirrors
}

const stepVersion = 2

func newStepBook(cacheDir string) *stepBook {
	return &stepBook{
		dir:   filepath.Join(cacheDir, "materials"),
		steps: map[string]*runningStep{}, builds: map[string]map[string]string{}, contacts: map[string][]Contact{},
	}
}

// begin notes that a step runs; the function returned notes how it ended.
func (b *stepBook) begin(step, name string, control net.Conn) (end func(ok bool) error) {
	return b.beginUnder(step, name, lockOf(name), control)
}

// beginUnder is begin with the key of the step's lock.
func (b *stepBook) beginUnder(step, name, lock string, control net.Conn) (end func(ok bool) error) {
	b.mu.Lock()
	s := b.running(step)
	s.name, s.lock = plainName(name), lock
	if s.runs++; s.runs == 1 {
		close(s.begun)
	}
	s.controls[control] = &sync.Mutex{}
	untold := s.untold
	s.untold = nil
	b.mu.Unlock()
	for _, r := range untold {
		b.refuse(step, r)
	}
	return func(ok bool) error { return b.end(step, control, ok) }
}

// running is a step's record, made when there is none. The lock is held.
func (b *stepBook) running(step string) *runningStep {
	s := b.steps[step]
	if s == nil {
		s = &runningStep{
			controls: map[net.Conn]*sync.Mutex{}, materials: map[string]artifact.Material{},
			absents: map[lockfile.Absent]bool{}, begun: make(chan struct{}),
		}
		b.steps[step] = s
	}
	return s
}

// isRunning says whether a step has begun and not ended.
func (b *stepBook) isRunning(step string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.steps[step]
	return s != nil && s.runs > 0
}

func (b *stepBook) end(step string, control net.Conn, ok bool) error {
	b.mu.Lock()
	s := b.steps[step]
	delete(s.controls, control)
	if s.runs--; s.runs == 0 {
		delete(b.steps, step)
	}
	doc := stepFile{Version: stepVersion, Step: step, Name: s.name, Materials: sorted(s.materials), Absent: sortedAbsents(s.absents)}
	for i := range doc.Materials {
		doc.Materials[i].Step = s.name
	}
	for _, c := range s.contacts {
		c.Step = s.name
		doc.Contacts = append(doc.Contacts, *c)
	}
	if len(doc.Contacts) > 0 {
		b.contacts[step] = doc.Contacts
	}
	b.mu.Unlock()
	if !ok {
		return nil
	}
	text, err := json.MarshalIndent(doc, "", "\t")
	if err != nil {
		return err
	}
	return store.WriteFile(b.file(step), append(text, '\n'))
}

func (b *stepBook) file(step string) string {
	name := artifact.Digest(step).Hex()
	if _, err := artifact.ParseDigest(step); err != nil {
		sum := sha256.Sum256([]byte(step))
		name = hex.EncodeToString(sum[:])
	}
	return filepath.Join(b.dir, name+".json")
}

// fetched notes what a step was given. Its control connection may be seen
// later than its first request: the two come by different connections.
func (b *stepBook) fetched(step string, m artifact.Material) {
	b.fetchedAs(step, materialKey(m), m)
}

// fetchedAs is fetched with the material's key.
func (b *stepBook) fetchedAs(step, key string, m artifact.Material) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := b.running(step).materials; all[key] != m {
		all[key] = m
	}
}

// materialKey tells materials apart: one file of a mirror may be known to
// Dockerfiles by several names, each of which a lock needs.
func materialKey(m artifact.Material) string { return m.URL + " " + string(m.Digest) + " " + m.Path }

// refuse tells the executors of a step what was refused.
func (b *stepBook) refuse(step string, r refusal) {
	line, err := json.Marshal(map[string]refusal{"refused": r})
	if err != nil {
		return
	}
	b.mu.Lock()
	targets := map[net.Conn]*sync.Mutex{}
	s := b.running(step)
	for c, mu := range s.controls {
		targets[c] = mu
	}
	if len(targets) == 0 && len(s.untold) < 16 {
		s.untold = append(s.untold, r)
	}
	b.mu.Unlock()
	for c, mu := range targets {
		mu.Lock()
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Write(append(line, '\n')) // an executor that is gone needs no telling
		mu.Unlock()
	}
}

// build notes which steps a build consists of; named again, they add up (one
// name covers a build's platforms).
func (b *stepBook) build(h hello) error {
	var errs []error
	for _, s := range h.Steps {
		if s.MadeBy != "" && s.MadeBy != s.Step {
			errs = append(errs, b.inherit(s.Step, s.MadeBy))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds[h.Build] == nil {
		b.builds[h.Build] = map[string]string{}
	}
	for _, s := range h.Steps {
		b.builds[h.Build][s.Step] = plainName(s.Name)
	}
	return errors.Join(errs...)
}

// inherit gives a step the materials of the one whose cached result it was given:
// a base whose manifest alone is another, or a context of which the step sees
// nothing new, makes a new name for a step and no new result.
func (b *stepBook) inherit(step, made string) error {
	var doc stepFile
	text, err := os.ReadFile(b.file(made))
	if err != nil || json.Unmarshal(text, &doc) != nil || !doc.known() {
		return nil // nothing is known of that one either
	}
	doc.Step = step
	if text, err = json.MarshalIndent(doc, "", "\t"); err != nil {
		return err
	}
	return store.WriteFile(b.file(step), append(text, '\n'))
}

// Fetched is what the steps of a build fetched and what they were told is not
// there.
type Fetched struct {
	Materials []artifact.Material
	Absent    []lockfile.Absent
	Contacts  []Contact // hosts that are no mirrors; none unless egress was observed
	Complete  bool      // the build and every step of it is known
	Lockable  bool      // so are the paths of all of it

	steps map[string][]string // by materialKey
}

// StepsOf names the steps that fetched one of the materials.
func (f Fetched) StepsOf(m artifact.Material) []string { return f.steps[materialKey(m)] }

func (b *stepBook) of(build string) Fetched {
	b.mu.Lock()
	steps := map[string]string{}
	out := Fetched{Complete: b.builds[build] != nil, steps: map[string][]string{}}
	for k, v := range b.builds[build] {
		steps[k] = v
	}
	b.mu.Unlock()
	out.Lockable = out.Complete
	all := map[string]artifact.Material{}
	absents := map[lockfile.Absent]bool{}
	for step, name := range steps {
		var doc stepFile
		text, err := os.ReadFile(b.file(step))
		if err != nil || json.Unmarshal(text, &doc) != nil || !doc.known() {
			out.Complete, out.Lockable = false, false
			continue
		}
		out.Lockable = out.Lockable && doc.Version == stepVersion
		for _, a := range doc.Absent {
			absents[a] = true
		}
		out.Contacts = append(out.Contacts, doc.Contacts...)
		for _, m := range doc.Materials {
			if name != "" {
				m.Step = name
			}
			k := materialKey(m)
			if old, ok := all[k]; !ok || m.Step < old.Step {
				all[k] = m
			}
			if !contains(out.steps[k], m.Step) {
				out.steps[k] = append(out.steps[k], m.Step)
			}
		}
	}
	out.Materials, out.Absent = sorted(all), sortedAbsents(absents)
	return out
}

// absent notes what a step was told is not there.
func (b *stepBook) absent(step string, a lockfile.Absent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running(step).absents[a] = true
}

// lockOf waits until a step's name is known and returns the key of the lock it
// is under: the first request may come before the executor's own connection.
func (b *stepBook) lockOf(ctx context.Context, step string) string {
	b.mu.Lock()
	s := b.running(step)
	b.mu.Unlock()
	wait := time.NewTimer(10 * time.Second)
	defer wait.Stop()
	select {
	case <-s.begun:
	case <-wait.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.lock
}

// lockNow is lockOf as far as it is known; begun says that it is.
func (b *stepBook) lockNow(step string) (key string, begun bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.steps[step]
	if s == nil || s.runs == 0 {
		return "", false
	}
	return s.lock, true
}

func sortedAbsents(all map[lockfile.Absent]bool) []lockfile.Absent {
	var out []lockfile.Absent
	for a := range all {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b lockfile.Absent) int {
		return strings.Compare(a.Ecosystem+" "+a.Path, b.Ecosystem+" "+b.Path)
	})
	return out
}

func sorted(all map[string]artifact.Material) []artifact.Material {
	out := make([]artifact.Material, 0, len(all))
	for _, m := range all {
		out = append(out, m)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].URL != out[j].URL {
			return out[i].URL < out[j].URL
		}
		return materialKey(out[i]) < materialKey(out[j])
	})
	return out
}
