package mirror

import (
	"context"
	"net/http"
	"strings"
	"time"

	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/lockfile"
)

// A lock made as of a time (mirror update --to) pins answers that no mirror gives
// as they are: lists cut to what was there then, and indexes of snapshots. So
// that whoever has the lock needs no more than it and the mirrors, such answers
// are made again, and count if they are what the lock pins.

// moment is a time mirrors are taken as of, with what its lock has kept of it.
type moment struct {
	at       time.Time
	tags     map[string]string          // npm: what the tags of the package asked for named
	versions func(emod string) []string // Go: those a lock names of a module, both escaped
}

// moment is the time a lock was made as of, for one of its files.
func (b *lockBook) moment(s *lockSet, pin lockfile.Material) moment {
	return moment{at: s.to, tags: pin.Tags, versions: func(emod string) []string {
		b.mu.Lock()
		defer b.mu.Unlock()
		seen := map[string]bool{}
		for key := range s.pins {
			file, ok := strings.CutPrefix(key, Go+" "+emod+"/@v/")
			for _, ext := range []string{".info", ".mod", ".zip"} {
				if v, is := strings.CutSuffix(file, ext); ok && is {
					seen[v] = true
				}
			}
		}
		var out []string
		for v := range seen {
			out = append(out, v)
		}
		return out
	}}
}

// asLocked is where a file of a lock that was made as of a time may be had
// besides the mirrors' own paths. first says that it is better asked before them.
func (s *Set) asLocked(up upstream, pin lockfile.Material, rel string, h http.Header, m moment) (wants []want, first bool) {
	if m.at.IsZero() {
		return nil, false
	}
	switch pin.Ecosystem {
	case Debian:
		name, below, _ := strings.Cut(pin.Path, "/")
		if s.cfg.Snapshot == "" {
			return nil, false
		}
		if up, err := s.snapshot(name, m.at); err == nil {
			wants = append(wants, want{up: up, rel: below, purl: pin.PURL})
		}
		return wants, strings.HasPrefix(below, "dists/")
	case Go:
		return s.goAsLocked(up, rel, m), true
	case Npm:
		if isNpmMeta(rel) {
			wants = append(wants, s.npmAt(npmMetaNow(up, rel, npmForm(h)), m.at, m.tags))
		}
	case PyPI:
		if project, ok := strings.CutPrefix(pypiPath(rel), "simple/"); ok {
			wants = append(wants, s.pypiAt(s.pypiIndex(up, project), m.at))
		}
	}
	return wants, true
}

// goAsLocked is where an answer of a lock made as of a time may be had: it is
// made again, or, where a branch has moved on, from a version the lock names.
func (s *Set) goAsLocked(up upstream, rel string, m moment) []want {
	emod, file, ok := goTimed(rel)
	if !ok {
		return nil
	}
	plain := want{up: up, rel: rel, fresh: mutableFor}
	wants := []want{s.goAt(plain, m.at)}
	if file == "v/list" {
		return wants
	}
	for _, version := range m.versions(emod) {
		of := want{up: up, rel: emod + "/@v/" + version + ".info", fresh: immutableFor}
		w := derived(plain, m.at, func(ctx context.Context) ([]byte, error) {
			b, _, err := s.read(ctx, of)
			if err != nil {
				return nil, err
			}
			return goInTime(b, fetch.Redact(of.target()), m.at)
		})
		w.accept += " of " + version
		wants = append(wants, w)
	}
	return wants
}
