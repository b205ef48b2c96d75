package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/store"
)

// stepBook keeps what each step fetched: in memory while it runs, on disk once
// it has succeeded, so that a cached step still has its materials.
type stepBook struct {
	dir string

	mu     sync.Mutex
	steps  map[string]*runningStep
	builds map[string]map[string]string // build to step to name
}

type runningStep struct {
	name      string
	runs      int
	controls  map[net.Conn]*sync.Mutex
	materials map[string]artifact.Material
	untold    []refusal // from before the executor's connection was seen
}

// stepFile is materials/<hex>.json.
type stepFile struct {
	Version   int                 `json:"version"` // 1
	Step      string              `json:"step"`
	Name      string              `json:"name"`
	Materials []artifact.Material `json:"materials"`
}

func newStepBook(cacheDir string) *stepBook {
	return &stepBook{
		dir:   filepath.Join(cacheDir, "materials"),
		steps: map[string]*runningStep{}, builds: map[string]map[string]string{},
	}
}

// begin notes that a step runs; the function returned notes how it ended.
func (b *stepBook) begin(step, name string, control net.Conn) (end func(ok bool) error) {
	b.mu.Lock()
	s := b.running(step)
	s.name = name
	s.runs++
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
		s = &runningStep{controls: map[net.Conn]*sync.Mutex{}, materials: map[string]artifact.Material{}}
		b.steps[step] = s
	}
	return s
}

func (b *stepBook) end(step string, control net.Conn, ok bool) error {
	b.mu.Lock()
	s := b.steps[step]
	delete(s.controls, control)
	if s.runs--; s.runs == 0 {
		delete(b.steps, step)
	}
	doc := stepFile{Version: 1, Step: step, Name: s.name, Materials: sorted(s.materials)}
	for i := range doc.Materials {
		doc.Materials[i].Step = s.name
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
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running(step).materials[m.URL+" "+string(m.Digest)] = m
}

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
func (b *stepBook) build(h hello) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.builds[h.Build] == nil {
		b.builds[h.Build] = map[string]string{}
	}
	for _, s := range h.Steps {
		b.builds[h.Build][s.Step] = s.Name
	}
}

func (b *stepBook) materials(build string) (out []artifact.Material, complete bool) {
	b.mu.Lock()
	steps := map[string]string{}
	known := b.builds[build] != nil
	for k, v := range b.builds[build] {
		steps[k] = v
	}
	b.mu.Unlock()
	all := map[string]artifact.Material{}
	for step, name := range steps {
		var doc stepFile
		text, err := os.ReadFile(b.file(step))
		if err != nil || json.Unmarshal(text, &doc) != nil || doc.Version != 1 {
			known = false
			continue
		}
		for _, m := range doc.Materials {
			if name != "" {
				m.Step = name
			}
			k := m.URL + " " + string(m.Digest)
			if old, ok := all[k]; !ok || m.Step < old.Step {
				all[k] = m
			}
		}
	}
	return sorted(all), known
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
		return out[i].Digest < out[j].Digest
	})
	return out
}
