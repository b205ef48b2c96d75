package mirror

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // npm's shasum, where a registry has nothing better
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
)

// The two forms of npm metadata; a client that can read the short one gets it.
const (
	npmShort = "application/vnd.npm.install-v1+json"
	npmFull  = "application/json"
)

// npmUpstreams is the registries of a package: its scope's or the default ones.
func (s *Set) npmUpstreams(ctx context.Context, rel string) ([]upstream, error) {
	if scope, _, ok := strings.Cut(rel, "/"); ok && len(s.cfg.Npm.URLs) == 0 {
		if registry := s.npm.Scopes[scope]; registry != "" {
			up, err := s.newUpstream(Npm, registry, scope+":registry")
			return []upstream{up}, err
		}
	}
	return s.upstreams(ctx, Npm)
}

// npmName splits "<name>/<rest>", where a scoped name has a slash of its own.
func npmName(rel string) (name, rest string) {
	parts := strings.SplitN(rel, "/", 3)
	if strings.HasPrefix(rel, "@") && len(parts) > 1 {
		return parts[0] + "/" + parts[1], strings.Join(parts[2:], "/")
	}
	return parts[0], strings.Join(parts[1:], "/")
}

// npmMeta is how a package's metadata is fetched.
func (s *Set) npmMeta(up upstream, rel, form string) want {
	return s.npmAt(npmMetaNow(up, rel, form), s.cfg.At, nil)
}

func npmMetaNow(up upstream, rel, form string) want {
	u := up.at(rel)
	if scope, rest, ok := strings.Cut(rel, "/"); ok && strings.HasPrefix(scope, "@") {
		u.RawPath = up.base.EscapedPath() + "/" + scope + "%2f" + rest // as npm asks
	}
	accept := form
	if form == npmShort {
		accept = npmShort + "; q=1.0, " + npmFull + "; q=0.8, */*"
	}
	return want{
		up: up, rel: rel, url: u, fresh: mutableFor, stale: true, accept: form, limit: documentLimit,
		header: http.Header{"Accept": {accept}, "Accept-Encoding": {"gzip"}},
		rewrite: func(doc []byte, r *http.Request) ([]byte, string, error) {
			name, _ := npmName(rel)
			out, err := rewriteTarballs(doc, npmBase(r, rel), name)
			return out, form, err
		},
	}
}

// npmBase is the registry a step asked for a path below it: tarballs are there,
// too. Yarn takes no other scheme than the registry's, and a lockfile made in a
// step names places that are some outside of it.
func npmBase(r *http.Request, rel string) string {
	u := requested(r)
	root, ok := strings.CutSuffix(strings.Trim(u.Path, "/"), rel)
	if !ok {
		return gatewayURL + "/npm/"
	}
	u.Path, u.RawPath = "/"+root, ""
	return u.String()
}

func (g *Gateway) serveNpm(w http.ResponseWriter, r *http.Request, rel string) {
	ups, err := g.set.npmUpstreams(r.Context(), rel)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	name, rest := npmName(rel)
	g.firstOf(w, r, ups, func(up upstream) error {
		switch {
		case strings.HasPrefix(rest, "-/") && strings.HasSuffix(rest, ".tgz"):
			return g.serveTarball(w, r, up, name, strings.TrimPrefix(rest, "-/"))
		case !isNpmMeta(rel):
			return g.serveWant(w, r, want{up: up, rel: rel, asked: rel, fresh: mutableFor, stale: true})
		}
		return g.serveMetadata(w, r, up, rel)
	})
}

// isNpmMeta says whether a path is a package's metadata, whole or of one
// version: no tarball, and no other service of the registry.
func isNpmMeta(rel string) bool {
	name, rest := npmName(rel)
	return name != "-" && !strings.HasPrefix(rest, "-/") && !strings.Contains(rest, "/")
}

// npmForm is the form of metadata a client is answered with.
func npmForm(h http.Header) string {
	if strings.Contains(h.Get("Accept"), npmShort) {
		return npmShort
	}
	return npmFull
}

// serveMetadata passes metadata on with every tarball's address made ours.
func (g *Gateway) serveMetadata(w http.ResponseWriter, r *http.Request, up upstream, rel string) error {
	return g.serveWant(w, r, g.set.npmMeta(up, rel, npmForm(r.Header)).as(askedPath(Npm, rel, r.Header)))
}

// npmAsked is what a lock calls a path: with the form of metadata where it is
// not the usual short one.
func npmAsked(rel string, h http.Header) string {
	if isNpmMeta(rel) && npmForm(h) == npmFull {
		return rel + "?full"
	}
	return rel
}

// npmPinned is where a locked file may be had: a tarball also where the metadata
// kept says.
func (s *Set) npmPinned(ctx context.Context, up upstream, rel string, h http.Header) []want {
	if isNpmMeta(rel) {
		return []want{npmMetaNow(up, rel, npmForm(h))}
	}
	wants := []want{s.wantOf(up, rel)}
	name, rest := npmName(rel)
	if d, ok := s.dist(ctx, up, name, strings.TrimPrefix(rest, "-/"), false); ok {
		wants = append(wants, wants[0].at(d))
	}
	return wants
}

// rewriteTarballs points dist.tarball of every version below base, at the
// place where tarballs usually are; where they really are is looked up when
// one is asked for.
func rewriteTarballs(doc []byte, base, name string) ([]byte, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(doc, &top); err != nil {
		return nil, err
	}
	if top == nil {
		return nil, errors.New("it is null")
	}
	if err := rewriteDist(top, base, name); err != nil { // one version's document
		return nil, err
	}
	var versions map[string]map[string]json.RawMessage
	if raw, ok := top["versions"]; ok {
		if err := json.Unmarshal(raw, &versions); err != nil {
			return nil, err
		}
		for _, v := range versions {
			if err := rewriteDist(v, base, name); err != nil {
				return nil, err
			}
		}
		raw, err := json.Marshal(versions)
		if err != nil {
			return nil, err
		}
		top["versions"] = raw
	}
	return json.Marshal(top)
}

func rewriteDist(v map[string]json.RawMessage, base, name string) error {
	raw, ok := v["dist"]
	if !ok {
		return nil
	}
	var dist map[string]json.RawMessage
	var version, tarball string
	if err := json.Unmarshal(raw, &dist); err != nil {
		return err
	}
	if json.Unmarshal(v["version"], &version) != nil || json.Unmarshal(dist["tarball"], &tarball) != nil {
		return nil // nothing to download, or nothing to name it by
	}
	ours, err := json.Marshal(base + npmTarballRel(name, version))
	if err != nil {
		return err
	}
	dist["tarball"] = ours
	v["dist"], err = json.Marshal(dist)
	return err
}

// npmTarballRel is where a tarball usually is, below the registry.
func npmTarballRel(name, version string) string {
	return name + "/-/" + path.Base(name) + "-" + version + ".tgz"
}

// npmTarball is where steps are told that a tarball is.
func npmTarball(name, version string) string {
	return gatewayURL + "/npm/" + npmTarballRel(name, version)
}

// npmDist is what metadata says about one version's tarball.
type npmDist struct {
	Tarball   string `json:"tarball"`
	Integrity string `json:"integrity"`
	Shasum    string `json:"shasum"`
}

// dist looks a tarball up in metadata: in a copy kept if there is one, else,
// when ask is set, at the registry.
func (s *Set) dist(ctx context.Context, up upstream, name, file string, ask bool) (npmDist, bool) {
	version, ok := strings.CutPrefix(strings.TrimSuffix(file, ".tgz"), path.Base(name)+"-")
	if !ok {
		return npmDist{}, false
	}
	for _, form := range []string{npmShort, npmFull} {
		w := npmMetaNow(up, name, form)
		_, file, have := s.store.Entry(w.key())
		var doc []byte
		var err error
		switch {
		case have:
			doc, err = os.ReadFile(file)
		case ask && form == npmShort:
			doc, _, err = s.read(ctx, w)
		default:
			continue
		}
		var meta struct {
			Versions map[string]struct {
				Dist npmDist `json:"dist"`
			} `json:"versions"`
		}
		if err != nil || json.Unmarshal(doc, &meta) != nil {
			continue
		}
		if v, ok := meta.Versions[version]; ok {
			return v.Dist, true
		}
	}
	return npmDist{}, false
}

// serveTarball answers with a package, checked against its metadata where
// that is at hand. A lockfile's client asks for tarballs alone and checks them
// itself; metadata is then only asked for when the usual place has nothing.
func (g *Gateway) serveTarball(w http.ResponseWriter, r *http.Request, up upstream, name, file string) error {
	rel := name + "/-/" + file
	wanted := want{up: up, rel: rel, asked: rel, fresh: immutableFor, stale: true, purl: purl(Npm, rel)}
	d, known := g.set.dist(r.Context(), up, name, file, false)
	if known {
		wanted = wanted.at(d)
	}
	err := g.serveWant(w, r, wanted)
	if err == nil || known || !errors.Is(err, ErrNotFound) {
		return err
	}
	if d, known = g.set.dist(r.Context(), up, name, file, true); !known {
		return err
	}
	return g.serveWant(w, r, wanted.at(d))
}

// at makes a tarball come from where its metadata says, and be what it says.
func (w want) at(d npmDist) want {
	u, err := url.Parse(d.Tarball)
	if err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http") {
		u.User, u.Fragment = nil, ""
		if strings.EqualFold(u.Hostname(), w.up.base.Hostname()) {
			u.Scheme, u.Host = w.up.base.Scheme, w.up.base.Host // metadata often forgets TLS and ports
		}
		if u.Scheme == w.up.base.Scheme || u.Scheme == "https" {
			w.url = u
		}
	}
	place := fetch.Redact(w.target())
	w.verify = func(_ context.Context, file string) error { return d.check(place, file) }
	return w
}

// check compares a tarball with its integrity, or its shasum.
func (d npmDist) check(place, file string) error {
	var sum hash.Hash
	var wanted string
	for _, one := range strings.Fields(d.Integrity) {
		if b64, ok := strings.CutPrefix(one, "sha512-"); ok {
			raw, err := base64.StdEncoding.DecodeString(strings.SplitN(b64, "?", 2)[0])
			if err == nil {
				sum, wanted = sha512.New(), hex.EncodeToString(raw)
			}
		}
	}
	if sum == nil && d.Shasum != "" {
		sum, wanted = sha1.New(), d.Shasum //nolint:gosec // as above
	}
	if sum == nil {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); !bytes.Equal([]byte(got), []byte(strings.ToLower(wanted))) {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "fetching", Place: place,
			Message: fmt.Sprintf("wrong checksum: the registry's metadata says %s, %s was served", wanted, got),
			Remedy:  "the mirror is broken or has been tampered with: nothing of it was kept; try again or use another mirror",
		}
	}
	return nil
}
