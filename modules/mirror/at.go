package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
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
		raw := strings.NewReplacer(
			snapshotArchive, a.name, snapshotTime, s.cfg.At.UTC().Format("20060102T150405Z"), snapshotDay, s.cfg.At.UTC().Format("20060102"),
		).Replace(s.cfg.Snapshot)
		up, err := s.newUpstream(Debian, raw, s.place(Debian))
		if err != nil {
			return err
		}
		a.own, a.upstream = a.base, up
	}
	return nil
}

// tooNew is an answer that is younger than the time asked for.
func (s *Set) tooNew(place string, t time.Time) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "taking it as of " + s.cfg.At.Format(time.RFC3339), Place: place,
		Message: "what is served is of " + t.UTC().Format(time.RFC3339), Remedy: "give a later date, or a mirror that keeps what was there then",
	}
}

// goInfo is the proxy protocol's description of a version.
type goInfo struct {
	Version string
	Time    time.Time
}

// goAt makes a want of the Go mirror one of the time Config.At, where the answer
// would be another today.
func (s *Set) goAt(w want) want {
	if s.cfg.At.IsZero() {
		return w
	}
	emod, file, ok := strings.Cut(w.rel, "/@")
	mod, err := module.UnescapePath(emod)
	_, _, kind := splitGo(w.rel)
	if !ok || err != nil || kind != "" || mod == "golang.org/toolchain" {
		return w
	}
	switch {
	case file == "v/list":
		w = s.derived(w, func(ctx context.Context) ([]byte, error) {
			versions, err := s.goVersions(ctx, w.up, emod)
			return []byte(strings.Join(append(versions, ""), "\n")), err
		})
	case file == "latest":
		w = s.derived(w, func(ctx context.Context) ([]byte, error) { return s.goLatest(ctx, w.up, emod) })
	case strings.HasSuffix(file, ".info"): // of a branch
		plain := w
		w = s.derived(w, func(ctx context.Context) ([]byte, error) {
			b, _, err := s.read(ctx, plain)
			if err != nil {
				return nil, err
			}
			return b, s.goInTime(b, fetch.Redact(plain.target()))
		})
	}
	return w
}

// derived makes a want one that is answered with what is made of other answers.
func (s *Set) derived(w want, make func(context.Context) ([]byte, error)) want {
	w.derive, w.accept = make, strings.TrimSpace(w.accept+" as of "+s.cfg.At.Format(time.RFC3339))
	return w
}

func (s *Set) goInTime(info []byte, place string) error {
	var i goInfo
	if err := json.Unmarshal(info, &i); err != nil || i.Time.IsZero() {
		return &artifact.Error{Kind: artifact.KindFault, Op: "reading", Place: place, Message: "the Go mirror does not say of when it is", Err: err}
	}
	if i.Time.After(s.cfg.At) {
		return s.tooNew(place, i.Time)
	}
	return nil
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

// goVersions is a module's versions that were there at Config.At.
func (s *Set) goVersions(ctx context.Context, up upstream, emod string) ([]string, error) {
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
			keep[i] = json.Unmarshal(info, &of) == nil && !of.Time.IsZero() && !of.Time.After(s.cfg.At)
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
	return versions, nil
}

// goLatest is what @latest would have been: the newest release, else the newest
// of all.
func (s *Set) goLatest(ctx context.Context, up upstream, emod string) ([]byte, error) {
	versions, err := s.goVersions(ctx, up, emod)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	best := newestVersion(versions)
	if best == "" { // a module without versions: its newest commit, if that is old enough
		b, _, err := s.read(ctx, want{up: up, rel: emod + "/@latest", fresh: mutableFor})
		if err != nil {
			return nil, err
		}
		return b, s.goInTime(b, fetch.Redact(up.at(emod+"/@latest")))
	}
	ev, err := module.EscapeVersion(best)
	if err != nil {
		return nil, err
	}
	b, _, err := s.read(ctx, want{up: up, rel: emod + "/@v/" + ev + ".info", fresh: immutableFor})
	return b, err
}

// npmAt makes metadata that of the time Config.At: versions published later are
// not in it, and tags that named one name the newest that is left.
func (s *Set) npmAt(w want) want {
	if s.cfg.At.IsZero() {
		return w
	}
	name, version := npmName(w.rel)
	full := npmMetaNow(w.up, name, npmFull)
	return s.derived(w, func(ctx context.Context) ([]byte, error) {
		doc, blob, err := s.read(ctx, full)
		if err != nil {
			return nil, err
		}
		out, err := npmCut(doc, s.cfg.At)
		if err != nil {
			return nil, &artifact.Error{
				Kind: artifact.KindFault, Op: "taking it as of " + s.cfg.At.Format(time.RFC3339), Place: blob.Material.URL, Err: err,
				Remedy: "use a registry that states times, or leave --to out",
			}
		}
		if version == "" {
			return json.Marshal(out)
		}
		one, ok := out.version(version)
		if !ok {
			return nil, notFoundError(fetch.Redact(w.target()))
		}
		return one, nil
	})
}

// npmDoc is a package's metadata with all its fields.
type npmDoc map[string]json.RawMessage

// version is one version's metadata, by number or tag.
func (d npmDoc) version(name string) (json.RawMessage, bool) {
	var tags map[string]string
	var versions map[string]json.RawMessage
	_ = json.Unmarshal(d["dist-tags"], &tags) // npmCut wrote them
	_ = json.Unmarshal(d["versions"], &versions)
	if v, ok := tags[name]; ok {
		name = v
	}
	one, ok := versions[name]
	return one, ok
}

// npmCut leaves out of metadata what was published after a time.
func npmCut(doc []byte, at time.Time) (npmDoc, error) {
	var top npmDoc
	if err := json.Unmarshal(doc, &top); err != nil {
		return nil, err
	}
	var times map[string]time.Time
	var tags map[string]string
	var versions map[string]json.RawMessage
	if len(top["time"]) == 0 {
		return nil, errors.New("the registry does not state when versions were published")
	}
	for key, into := range map[string]any{"time": &times, "dist-tags": &tags, "versions": &versions} {
		if err := json.Unmarshal(top[key], into); err != nil {
			return nil, fmt.Errorf("reading %s: %w", key, err)
		}
	}
	maps.DeleteFunc(versions, func(v string, _ json.RawMessage) bool {
		t, ok := times[v]
		gone := !ok || t.After(at)
		if gone {
			delete(times, v)
		}
		return gone
	})
	retag(tags, versions)
	for key, from := range map[string]any{"time": times, "dist-tags": tags, "versions": versions} {
		raw, err := json.Marshal(from)
		if err != nil {
			return nil, err
		}
		top[key] = raw
	}
	delete(top, "readme")
	return top, nil
}

// retag takes away the tags of versions that are not there; latest becomes the
// newest that is.
func retag(tags map[string]string, versions map[string]json.RawMessage) {
	var all []string
	for v := range versions {
		all = append(all, "v"+v)
	}
	newest := strings.TrimPrefix(newestVersion(all), "v")
	for tag, v := range tags {
		if _, there := versions[v]; there {
			continue
		}
		delete(tags, tag)
		if tag == "latest" && newest != "" {
			tags[tag] = newest
		}
	}
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
