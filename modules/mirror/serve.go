package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/store"
	"drydock/modules/mirror/lockfile"
)

// serveHTTP answers one request of a step: from a mirror, or with a refusal.
func (g *Gateway) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if sc, ok := r.Context().Value(stepKey{}).(*stepConn); ok {
		sc.asked.Store(true)
	}
	if r.Method == http.MethodConnect {
		g.tunnel(w, r)
		return
	}
	target := requested(r)
	route, ok := g.route(r.Context(), target)
	switch {
	case !ok && g.observes(r.Context(), stepOf(r.Context())):
		g.pass(w, r, target)
	case !ok:
		g.refuse(w, r, fetch.Redact(target), "it is none of the mirrors")
	case isAudit(route):
		// npm asks for advisories with every install and does without them.
		answer(w, http.StatusNotFound, "advisories come from drydock's own scan")
	case r.Method != http.MethodGet && r.Method != http.MethodHead && !(r.Method == http.MethodPost && posts(route)):
		g.refuse(w, r, fetch.Redact(target), "mirrors are read, never written to ("+r.Method+")")
	default:
		g.dispatch(w, r, route)
	}
}

// requested is the address a request is for.
func requested(r *http.Request) *url.URL {
	u := &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if r.URL.IsAbs() {
		u.Scheme, u.Host = r.URL.Scheme, r.URL.Host
	}
	if strings.HasSuffix(u.Host, ":443") {
		u.Scheme = "https" // npm asks a proxy so for what is to be had by TLS
	}
	if u.Scheme == "https" {
		u.Host = strings.TrimSuffix(u.Host, ":443")
	}
	return u
}

// refuse answers 403 with the URL, the rule and the remedy, in words and in
// headers, and tells the executor.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, url, reason string) {
	g.refuseBy(w, r, refusal{URL: url, Rule: RuleMirrorOnly, Reason: reason, Remedy: remedyFor(r)})
}

func (g *Gateway) refuseBy(w http.ResponseWriter, r *http.Request, ref refusal) {
	g.refused(stepOf(r.Context()), ref)
	h := w.Header()
	h.Set("X-Drydock-Refused", ref.URL)
	h.Set("X-Drydock-Rule", ref.Rule)
	h.Set("X-Drydock-Remedy", ref.Remedy)
	h.Set("Connection", "close")
	answer(w, http.StatusForbidden, fmt.Sprintf("drydock refused %s\nrule: %s\nreason: %s\nremedy: %s", ref.URL, ref.Rule, ref.Reason, ref.Remedy))
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n")
}

// route is what a step asked for: a path of an ecosystem's mirror.
type route struct {
	ecosystem string
	rel       string // Debian: "<archive>/…"
}

// posts says whether clients of a route's ecosystem read by POST, too.
func posts(r route) bool {
	e, _ := ecosystemOf(r.ecosystem)
	return e.posts
}

// isAudit recognises npm's advisory requests.
func isAudit(r route) bool {
	return r.ecosystem == Npm && strings.HasPrefix(r.rel, "-/npm/v1/security/")
}

// route finds out which mirror a URL means: the gateway's own paths, or a
// mirror's own address, as a Dockerfile's sources may name it. An https address
// arrives here by TLS that ended at the gateway, or when it is asked for as of a
// proxy that fetches for its client.
func (g *Gateway) route(ctx context.Context, u *url.URL) (route, bool) {
	host := strings.ToLower(u.Hostname())
	port := u.Port()
	if (host == GatewayHost || host == gatewayAddress) && (port == "" || port == "80") {
		eco, rel, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if _, ok := ecosystemOf(eco); ok {
			return route{eco, rel}, true
		}
		if eco == "v2" { // where clients of OCI registries look
			return route{OCI, strings.TrimPrefix(u.Path, "/")}, true
		}
		return route{}, true
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return route{}, false
	}
	if to, ok := g.archiveRoute(ctx, u); ok {
		return to, true
	}
	for _, eco := range ecosystems() {
		if rel, ok := g.ecosystemRoute(ctx, eco, u); ok {
			return route{eco.name, rel}, true
		}
	}
	return g.standInRoute(ctx, u)
}

// ecosystemRoute recognises an ecosystem's own addresses.
func (g *Gateway) ecosystemRoute(ctx context.Context, eco ecosystem, u *url.URL) (rel string, ok bool) {
	if eco.setting != nil && eco.name != Debian {
		if rel, ok = g.ownAddress(ctx, eco.name, u); ok {
			return rel, true
		}
	}
	if eco.route == nil {
		return "", false
	}
	return eco.route(g.set, strings.ToLower(u.Host)+u.EscapedPath())
}

// archiveRoute recognises a Debian archive's own address.
func (g *Gateway) archiveRoute(ctx context.Context, u *url.URL) (route, bool) {
	for _, a := range g.set.archives {
		own := a.base
		if a.own != nil {
			own = a.own
		}
		rel, ok := below(own, u)
		if !ok {
			continue
		}
		if sources, err := g.set.Debian(ctx); err == nil && !isVerified(sources, a) {
			continue // in apt's configuration, but not Debian's: no mirror of ours
		}
		return route{Debian, a.name + "/" + rel}, true
	}
	return route{}, false
}

// ownAddress says whether a URL is one of an ecosystem's mirrors' own.
func (g *Gateway) ownAddress(ctx context.Context, ecosystem string, u *url.URL) (rel string, ok bool) {
	ups, err := g.set.upstreams(ctx, ecosystem)
	if err != nil {
		return "", false // not configured: nothing of it can be ours
	}
	for _, up := range ups {
		base := *up.base
		if ecosystem == OCI {
			base.Path = "/v2" + strings.TrimPrefix(base.Path, "/v2")
		}
		rel, ok = below(&base, u)
		switch {
		case ok && ecosystem == OCI:
			rel = "v2/" + rel
		case ok && ecosystem == PyPI:
			rel = "simple/" + rel
		}
		if ok {
			return rel, true
		}
	}
	return "", false
}

// below says whether a URL is a mirror's own, whatever the scheme, and which
// path of it.
func below(base, u *url.URL) (rel string, ok bool) {
	if base.Host == "" || !strings.EqualFold(base.Hostname(), u.Hostname()) || portOf(base) != portOf(u) {
		return "", false
	}
	rel, ok = strings.CutPrefix(u.Path, base.Path+"/")
	return rel, ok && rel != ""
}

// portOf is a URL's port, "" for its scheme's own.
func portOf(u *url.URL) string {
	switch p := u.Port(); {
	case p == "80" && u.Scheme == "http", p == "443" && u.Scheme == "https":
		return ""
	default:
		return p
	}
}

func (g *Gateway) dispatch(w http.ResponseWriter, r *http.Request, to route) {
	ctx := r.Context()
	if to.ecosystem == "" {
		answer(w, http.StatusNotFound, "drydock's mirrors are at /debian/<archive>/ /go/ /npm/ /oci/v2/ /pypi/simple/ /git/<host>/")
		return
	}
	if to.ecosystem == OCI && (to.rel == "v2" || to.rel == "v2/") {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		answer(w, http.StatusOK, "{}")
		return
	}
	rel := strings.Trim(to.rel, "/")
	if !safeRel(rel) {
		answer(w, http.StatusNotFound, "no file of a mirror")
		return
	}
	asked := askedPath(to.ecosystem, rel, r.Header)
	r = r.WithContext(context.WithValue(ctx, askedKey{}, lockfile.Absent{Ecosystem: to.ecosystem, Path: asked}))
	ctx = r.Context()
	eco, _ := ecosystemOf(to.ecosystem)
	if !eco.ownLock {
		lock := g.locks.of(ctx, g.steps, stepOf(ctx))
		ctx = under(ctx, lock)
		if r = r.WithContext(ctx); g.serveLocked(w, r, lock, to.ecosystem, rel, asked) {
			return
		}
	}
	if eco.serve != nil {
		eco.serve(g, w, r, rel)
		return
	}
	ups, err := g.set.upstreams(ctx, to.ecosystem)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	g.serveFirst(w, r, ups, func(up upstream) want { return g.set.wantOf(up, rel).as(asked) })
}

// archive finds the verified Debian archive a path belongs to.
func (g *Gateway) archive(ctx context.Context, rel string) ([]upstream, string, error) {
	name, below, _ := strings.Cut(rel, "/")
	sources, err := g.set.Debian(ctx)
	if err != nil {
		return nil, "", err
	}
	var ups []upstream
	for _, a := range g.set.archives {
		if a.name == name && isVerified(sources, a) {
			ups = append(ups, a.upstream)
		}
	}
	if len(ups) == 0 || !safeRel(below) {
		return nil, "", notFoundError(gatewayURL + "/debian/" + rel)
	}
	return dedupe(ups), below, nil
}

// serveFirst answers from the first upstream that has the file.
func (g *Gateway) serveFirst(w http.ResponseWriter, r *http.Request, ups []upstream, of func(upstream) want) {
	g.firstOf(w, r, ups, func(up upstream) error { return g.serveWant(w, r, withOthers(up, ups, of)) })
}

// firstOf asks upstreams in order until one answers.
func (g *Gateway) firstOf(w http.ResponseWriter, r *http.Request, ups []upstream, one func(upstream) error) {
	var first error
	for _, up := range ups {
		err := one(up)
		if err == nil {
			return
		}
		if first == nil || errors.Is(first, ErrNotFound) && !errors.Is(err, ErrNotFound) {
			first = err
		}
		if r.Context().Err() != nil || !errors.Is(err, ErrNotFound) && !up.anyError && up.ecosystem != Debian {
			break
		}
	}
	g.fail(w, r, first)
}

// fail answers with a mirror's own refusal or trouble; it is no secret and no
// offence.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusBadGateway
	var e *artifact.Error
	switch {
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler)
	case errors.Is(err, ErrOffline):
		asked, _ := r.Context().Value(askedKey{}).(lockfile.Absent)
		g.refuseBy(w, r, refusal{
			URL: gatewayURL + "/" + asked.Ecosystem + "/" + asked.Path, Rule: RuleOffline,
			Reason: fetch.ErrOffline.Error(), Remedy: strings.Join(artifact.Remedies(err), "; "),
		})
		return
	case errors.Is(err, ErrNotFound):
		code = http.StatusNotFound
		if asked, ok := r.Context().Value(askedKey{}).(lockfile.Absent); ok {
			g.steps.absent(stepOf(r.Context()), asked)
		}
	case errors.As(err, &e) && e.Kind == artifact.KindUsage:
		code = http.StatusNotImplemented
	}
	text := "drydock: " + err.Error()
	for _, remedy := range artifact.Remedies(err) {
		text += "\n" + remedy
	}
	if code != http.StatusNotFound {
		g.logf("%v", err)
	}
	answer(w, code, text)
}

// small is what is not worth passing on while it arrives: waiting for the whole
// lets an error still be one in HTTP.
const small = 256 << 10

// serveWant answers with one file, while it still arrives if need be. An error
// means that nothing has been written yet.
func (g *Gateway) serveWant(w http.ResponseWriter, r *http.Request, wanted want) error {
	ctx := r.Context()
	if wanted.rewrite != nil {
		return g.serveRewritten(w, r, wanted)
	}
	p := g.set.start(ctx, wanted)
	defer p.release()
	if p.path == "" {
		record := func(e store.Entry) { g.record(ctx, wanted, e.Digest, e.Size) }
		if r.Method == http.MethodHead {
			record = nil
		}
		body, meta, err := p.flight.Follow(ctx, record)
		if err == nil && (meta.Size < 0 || meta.Size > small) {
			defer body.Close()
			g.stream(w, r, wanted, body, meta)
			return nil
		}
		if err == nil {
			_ = body.Close()
		} else if !errors.Is(err, store.ErrComplete) && !p.useStale(err) {
			return err
		}
	}
	blob, err := p.wait(ctx)
	if err != nil {
		return err
	}
	return g.serveBlob(w, r, wanted, p, blob)
}

// serveRewritten answers with what a client is to be given of a document.
func (g *Gateway) serveRewritten(w http.ResponseWriter, r *http.Request, wanted want) error {
	doc, blob, err := g.set.read(r.Context(), wanted)
	if err != nil {
		return err
	}
	out, contentType, err := wanted.rewrite(doc, r)
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "reading", Place: blob.Material.URL, Message: "not " + wanted.up.ecosystem + " metadata", Err: err,
		}
	}
	if r.Method == http.MethodGet {
		g.record(r.Context(), wanted, blob.Material.Digest, blob.Material.Size)
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Vary", "Accept")
	h.Set("ETag", `W/"`+blob.Material.Digest.Hex()+`"`)
	if blob.Stale {
		h.Set("Warning", `110 - "Response is Stale"`)
	}
	if strings.Contains(r.Header.Get("If-None-Match"), blob.Material.Digest.Hex()) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	_, _ = w.Write(out)
	return nil
}

// record notes a material, before the step has all of it. Indexes, metadata and
// the notes of the checksum database are materials too: what a client installs
// follows from them.
func (g *Gateway) record(ctx context.Context, w want, d artifact.Digest, size int64) {
	m := g.set.material(ctx, w, d, size)
	g.steps.fetched(stepOf(ctx), m)
	g.locks.learn(ctx, g.steps, stepOf(ctx), m)
}

func setHeaders(h http.Header, w want, contentType, etag, modified string, d artifact.Digest) {
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	h.Set("Content-Type", contentType)
	if etag != "" {
		h.Set("ETag", etag)
	}
	if modified != "" {
		h.Set("Last-Modified", modified)
	}
	if d != "" && w.up.ecosystem == OCI {
		h.Set("Docker-Content-Digest", string(d))
	}
}

// contentType is what the mirror said, or what an OCI manifest says of itself
// when it was last fetched from elsewhere.
func contentType(w want, e store.Entry, f *os.File) string {
	if e.ContentType != "" || w.up.ecosystem != OCI || !strings.Contains(w.rel, "/manifests/") || e.Size > 4<<20 {
		return e.ContentType
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if json.NewDecoder(io.NewSectionReader(f, 0, e.Size)).Decode(&doc) != nil || doc.MediaType == "" {
		return "application/vnd.oci.image.manifest.v1+json"
	}
	return doc.MediaType
}

func (g *Gateway) serveBlob(w http.ResponseWriter, r *http.Request, wanted want, p *pending, blob Blob) error {
	f, err := os.Open(blob.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if r.Method == http.MethodGet {
		g.record(r.Context(), wanted, blob.Material.Digest, blob.Material.Size)
	}
	setHeaders(w.Header(), wanted, contentType(wanted, p.entry, f), p.entry.ETag, "", p.entry.Digest)
	if blob.Stale {
		w.Header().Set("Warning", `110 - "Response is Stale"`)
	}
	if !blob.Stale {
		g.remember(r, wanted, p.entry, blob.Material, f, w.Header())
	}
	modified, err := http.ParseTime(p.entry.LastModified)
	if err != nil {
		modified = time.Time{}
	}
	http.ServeContent(w, r, path.Base(wanted.rel), modified, f)
	return nil
}

// stream passes a file on while it arrives. A transfer that fails, or whose
// last bytes turn out wrong, is cut off: it never looks complete.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, wanted want, body io.Reader, meta store.Meta) {
	setHeaders(w.Header(), wanted, meta.ContentType, meta.ETag, meta.LastModified, wanted.sha256)
	if meta.Size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(meta.Size, 10))
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	out := io.Writer(w)
	if f, ok := w.(http.Flusher); ok {
		out = flushing{w, f}
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, body, make([]byte, 64<<10)); err != nil {
		if r.Context().Err() == nil && !errors.Is(err, net.ErrClosed) {
			g.logf("%v", err)
		}
		panic(http.ErrAbortHandler)
	}
}

// flushing sends every piece at once: a slow mirror must not look like a dead
// one.
type flushing struct {
	w io.Writer
	f http.Flusher
}

// Write implements io.Writer.
func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.f.Flush()
	return n, err
}
