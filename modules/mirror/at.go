package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
)

// Mirrors as they were at Config.At: Debian's come from snapshots; of Go and npm
// the lists of versions are cut to those that were there then, by the times the
// proxies themselves state. Files of versions that are named do not move.

// At is the time mirrors are taken as of; zero is now.
func (s *Set) At() time.Time { return s.cfg.At }

// now is the time documents of mirrors are judged at.
func (s *Set) now() time.Time {
	if s.cfg.At.IsZero() {
		return time.Now()
	}
	return s.cfg.At
}

// Parts of a snapshot's address.
const (
	snapshotArchive = "{archive}"
	snapshotTime    = "{timestamp}"
	snapshotDay     = "{date}"
)

// asOf moves the archives to their snapshots.
func (s *Set) asOf() error {
	if s.cfg.At.IsZero() || len(s.archives) == 0 {
		return nil
	}
	if s.cfg.Snapshot == "" {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "taking the debian mirror as of " + s.cfg.At.Format(time.RFC3339), Place: s.cfg.Place,
			Message: "it serves what it has today and nothing older",
			Remedy:  "set snapshot: in mirrors.yaml to the address of a mirror that keeps snapshots, as http://snapshot.example/archive/{archive}/{timestamp}",
		}
	}
	for i := range s.archives {
		a := &s.archives[i]
		up, err := s.snapshot(a.name, s.cfg.At)
		if err != nil {
			return err
		}
		a.own, a.upstream = a.base, up
	}
	return nil
}

// snapshot is an archive as it was at a time.
func (s *Set) snapshot(archive string, at time.Time) (upstream, error) {
	raw := strings.NewReplacer(
		snapshotArchive, archive, snapshotTime, at.UTC().Format("20060102T150405Z"), snapshotDay, at.UTC().Format("20060102"),
	).Replace(s.cfg.Snapshot)
	return s.newUpstream(Debian, raw, s.place(Debian))
}

// tooNew is an answer that is younger than the time asked for.
func tooNew(place string, t, at time.Time) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "taking it as of " + at.Format(time.RFC3339), Place: place,
		Message: "what is served is of " + t.UTC().Format(time.RFC3339), Remedy: "give a later date, or a mirror that keeps what was there then",
	}
}

// goInfo is the proxy protocol's description of a version.
type goInfo struct {
	Version string
	Time    time.Time
}

// goAt makes a want of the Go mirror one of a time, where the answer would be
// another today. The answer follows from the versions there were and nothing
// else, so that whoever asks again, of whichever mirror, gets the same bytes.
func (s *Set) goAt(w want, at time.Time) want {
	emod, file, ok := goTimed(w.rel)
	if at.IsZero() || !ok {
		return w
	}
	switch {
	case file == "v/list":
		w = derived(w, at, func(ctx context.Context) ([]byte, error) {
			versions, err := s.goVersions(ctx, w.up, emod, at)
			return []byte(strings.Join(append(versions, ""), "\n")), err
		})
	case file == "latest":
		w = derived(w, at, func(ctx context.Context) ([]byte, error) { return s.goLatest(ctx, w.up, emod, at) })
	case strings.HasSuffix(file, ".info"): // of a branch
		plain := w
		w = derived(w, at, func(ctx context.Context) ([]byte, error) {
			b, _, err := s.read(ctx, plain)
			if err != nil {
				return nil, err
			}
			return goInTime(b, fetch.Redact(plain.target()), at)
		})
	}
	return w
}

// goTimed splits the path of an answer that changes with time.
func goTimed(rel string) (emod, file string, ok bool) {
	emod, file, ok = strings.Cut(rel, "/@")
	mod, err := module.UnescapePath(emod)
	_, _, kind := splitGo(rel)
	return emod, file, ok && err == nil && kind == "" && mod != "golang.org/toolchain"
}

// derived makes a want one that is answered with what is made of other answers.
func derived(w want, at time.Time, make func(context.Context) ([]byte, error)) want {
	w.derive, w.accept = make, strings.TrimSpace(w.accept+" as of "+at.Format(time.RFC3339))
	return w
}

// goInTime is a version's description, if it is old enough, with what every
// proxy states of it and no more.
func goInTime(info []byte, place string, at time.Time) ([]byte, error) {
	var i goInfo
	if err := json.Unmarshal(info, &i); err != nil || i.Time.IsZero() {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "reading", Place: place, Message: "the Go mirror does not say of when it is", Err: err}
	}
	if i.Time.After(at) {
		return nil, tooNew(place, i.Time, at)
	}
	i.Time = i.Time.UTC()
	return json.Marshal(i)
}

// GoTime is when a version of a module was made, as its proxy states.
func (s *Set) GoTime(ctx context.Context, mod, version string) (time.Time, error) {
	emod, err := module.EscapePath(mod)
	if err != nil {
		return time.Time{}, err
	}
	blob, err := s.Fetch(ctx, Request{Ecosystem: Go, Path: emod + "/@v/" + version + ".info"})
	if err != nil {
		return time.Time{}, err
	}
	b, err := os.ReadFile(blob.Path)
	if err != nil {
		return time.Time{}, err
	}
	var i goInfo
	err = json.Unmarshal(b, &i)
	return i.Time, err
}

// goVersions is a module's versions that were there at a time, the oldest first.
func (s *Set) goVersions(ctx context.Context, up upstream, emod string, at time.Time) ([]string, error) {
	plain := want{up: up, rel: emod + "/@v/list", fresh: mutableFor}
	b, _, err := s.read(ctx, plain)
	if err != nil {
		return nil, err
	}
	all := strings.Fields(string(b))
	keep := make([]bool, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, v := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ev, err := module.EscapeVersion(v)
			if err != nil {
				return
			}
			rel := emod + "/@v/" + ev + ".info"
			info, _, err := s.read(ctx, want{up: up, rel: rel, fresh: immutableFor})
			if err != nil {
				if !errors.Is(err, ErrNotFound) {
					errs[i] = err
				}
				return
			}
			var of goInfo
			keep[i] = json.Unmarshal(info, &of) == nil && !of.Time.IsZero() && !of.Time.After(at)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	versions := []string{}
	for i, v := range all {
		if keep[i] {
			versions = append(versions, v)
		}
	}
	semver.Sort(versions)
	return slices.Compact(versions), nil
}

// goLatest is what @latest would have been: the newest release, else the newest
// of all.
func (s *Set) goLatest(ctx context.Context, up upstream, emod string, at time.Time) ([]byte, error) {
	versions, err := s.goVersions(ctx, up, emod, at)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	w := want{up: up, rel: emod + "/@latest", fresh: mutableFor} // of a module without versions: its newest commit, if that is old enough
	if best := newestVersion(versions); best != "" {
		ev, err := module.EscapeVersion(best)
		if err != nil {
			return nil, err
		}
		w = want{up: up, rel: emod + "/@v/" + ev + ".info", fresh: immutableFor}
	}
	b, _, err := s.read(ctx, w)
	if err != nil {
		return nil, err
	}
	return goInTime(b, fetch.Redact(w.target()), at)
}

// newestVersion is the newest release, else the newest of all; "" of none.
func newestVersion(versions []string) string {
	best := ""
	for _, v := range versions {
		release, had := semver.Prerelease(v) == "", best != "" && semver.Prerelease(best) == ""
		if best == "" || release && !had || release == had && semver.Compare(v, best) > 0 {
			best = v
		}
	}
	return best
}

// made is the body of a derived answer.
func made(b []byte) *readCloser { return &readCloser{bytes.NewReader(b)} }

type readCloser struct{ *bytes.Reader }

// Close implements io.Closer.
func (readCloser) Close() error { return nil }
