package line

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/mirror"
	"drydock/modules/mirror/lockfile"
	"drydock/pipeline/plan"
	"drydock/pipeline/report"
	"drydock/pipeline/results"
)

// facts is what earlier runs found out about this machine, so that a run in
// which nothing changed can say it without asking again.
type facts struct {
	Version int           `json:"version"`
	Engine  report.Engine `json:"engine"`
}

func (l *Line) factsFile() string { return filepath.Join(l.cfg.Cache, "facts.json") }

// readFacts gives the zero facts when there are none that can be read.
func (l *Line) readFacts() facts {
	f := facts{}
	raw, err := os.ReadFile(l.factsFile())
	if err != nil || json.Unmarshal(raw, &f) != nil || f.Version != 1 {
		f = facts{Version: 1}
	}
	return f
}

func (l *Line) writeFacts(change func(*facts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.readFacts()
	change(&f)
	if raw, err := json.MarshalIndent(f, "", "  "); err == nil {
		_ = results.WriteFile(l.factsFile(), raw) // a cache: the next run asks again
	}
}

func (l *Line) rememberEngine(e report.Engine) {
	if l.readFacts().Engine != e {
		l.writeFacts(func(f *facts) { f.Engine = e })
	}
}

func (l *Line) recalledEngine() report.Engine { return l.readFacts().Engine }

// MirrorSet is the mirrors of this machine; no network is touched by asking.
func (l *Line) MirrorSet() (*mirror.Set, error) { return l.mirrors.get() }

// Mirrors lists the mirrors found, for display.
func (l *Line) Mirrors() ([]plan.Mirror, error) {
	set, err := l.mirrors.get()
	if err != nil {
		return nil, err
	}
	out := []plan.Mirror{}
	for _, e := range set.Endpoints() {
		out = append(out, plan.Mirror{Ecosystem: e.Ecosystem, Prefix: e.Prefix, URL: e.URL, Public: e.Public, Source: e.Source})
	}
	return out, nil
}

// AddUses notes in a plan which mirrors its images' steps use, as their locks
// say.
func (l *Line) AddUses(p *plan.Plan) error {
	set, err := l.mirrors.get()
	if err != nil {
		return err
	}
	for i := range p.Images {
		lock, err := l.readLock(p.Images[i].Image)
		if err != nil {
			return err
		}
		if lock != nil {
			p.Images[i].Mirrors = usesOf(set, lock)
		}
	}
	return nil
}

// usesOf counts a lock's files by mirror, in the order mirrors are shown in. A
// commit is in it by its name and by those of its refs, and counts once.
func usesOf(set *mirror.Set, lock *lockfile.Lock) []plan.Use {
	files := map[plan.Use]map[string]bool{}
	for _, m := range lock.Materials {
		u := plan.Use{Ecosystem: m.Ecosystem, Prefix: set.Prefix(m.Ecosystem, m.Path)}
		if files[u] == nil {
			files[u] = map[string]bool{}
		}
		one := m.Path
		if m.Ecosystem == mirror.Git {
			one = path.Base(m.Path)
		}
		files[u][one] = true
	}
	out := []plan.Use{}
	for _, u := range slices.SortedFunc(maps.Keys(files), func(a, b plan.Use) int {
		order := mirror.Ecosystems()
		return cmp.Or(slices.Index(order, a.Ecosystem)-slices.Index(order, b.Ecosystem), cmp.Compare(a.Prefix, b.Prefix))
	}) {
		u.Files = len(files[u])
		out = append(out, u)
	}
	return out
}

// usedMirrors are the mirrors materials came from.
func (l *Line) usedMirrors(materials []artifact.Material) []report.Mirror {
	set, err := l.mirrors.get()
	if err != nil {
		return nil
	}
	type key struct{ ecosystem, prefix string }
	used := map[key]bool{} // and whether any of it was public
	var ecosystems []string
	for _, m := range materials {
		ecosystems = append(ecosystems, m.Ecosystem)
		k := key{m.Ecosystem, set.Prefix(m.Ecosystem, m.Path)}
		used[k] = used[k] || m.Public
	}
	var out []report.Mirror
	if len(ecosystems) == 0 {
		return nil
	}
	for _, e := range set.Endpoints(ecosystems...) {
		if public, ok := used[key{e.Ecosystem, e.Prefix}]; ok {
			out = append(out, report.Mirror{Ecosystem: e.Ecosystem, URL: e.URL, Public: e.Public || public})
		}
	}
	return out
}

// driftsOf are the drifts of the bases an image stands on, by base.
func (l *Line) driftsOf(id string) map[string]drift {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]drift{}
	name, variant, _ := strings.Cut(id, ":")
	img, ok := l.cfg.Catalog.Image(name)
	if !ok {
		return out
	}
	for _, v := range img.Variants {
		if v.Name != variant {
			continue
		}
		if d := l.drifts[imageDrift+img.Name]; d != nil {
			out[imageDrift+img.Name] = *d
		}
		for _, r := range v.Refs {
			if d := l.drifts[r.Base]; d != nil {
				out[r.Base] = *d
			}
		}
	}
	return out
}

// BaseInfo is a base of the catalog and what its lock pins.
type BaseInfo struct {
	Name      string          `json:"name"`
	State     string          `json:"state"`
	Kind      string          `json:"kind"`
	Platforms string          `json:"platforms"`
	Packages  int             `json:"packages"` // of the first platform
	Digest    artifact.Digest `json:"digest"`   // "" when it has no lock yet
	Lock      string          `json:"lock"`
}

// Bases lists the bases of the catalog.
func (l *Line) Bases() ([]BaseInfo, error) {
	out := []BaseInfo{}
	for _, b := range l.cfg.Catalog.Bases {
		info := BaseInfo{Name: b.Name, State: b.State, Kind: b.Kind, Lock: b.LockPath}
		names := []string{}
		for _, p := range b.Platforms {
			names = append(names, p.String())
		}
		info.Platforms = strings.Join(names, ",")
		lock, err := l.lockOf(b)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			info.Digest = lock.Digest
			if len(lock.Platforms) > 0 {
				info.Packages = len(lock.Platforms[0].Packages)
			}
		}
		out = append(out, info)
	}
	return out, nil
}

// BaseUpdate is what moving one base forward did.
type BaseUpdate struct {
	Name    string          `json:"name"`
	Digest  artifact.Digest `json:"digest"`
	Changed []string        `json:"changed"`
	Lock    string          `json:"lock"`
	Written bool            `json:"written"`
}

func (l *Line) chosenBases(names []string) ([]catalog.Base, error) {
	if len(names) == 0 {
		return l.cfg.Catalog.Bases, nil
	}
	var out []catalog.Base
	all := []string{}
	for _, b := range l.cfg.Catalog.Bases {
		all = append(all, b.Name)
	}
	for _, n := range names {
		b, ok := l.cfg.Catalog.Base(n)
		if !ok {
			return nil, &artifact.Error{
				Kind: artifact.KindUsage, Op: "choosing base", Place: n, Message: "the catalog has no such base",
				Remedy: fmt.Sprintf("one of: %s", strings.Join(all, ", ")),
			}
		}
		if !slices.ContainsFunc(out, func(o catalog.Base) bool { return o.Name == n }) {
			out = append(out, *b)
		}
	}
	return out, nil
}
