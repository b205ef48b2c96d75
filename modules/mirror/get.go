package mirror

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/store"
)

// How long a copy is served without asking the mirror again.
const (
	mutableFor   = 30 * time.Second // InRelease, @v/list, npm metadata
	immutableFor = 24 * time.Hour   // files that do not change but whose digest nobody told us
)

// documentLimit bounds what is read into memory: indexes and metadata.
const documentLimit = 512 << 20

// want is one file wanted from one upstream.
type want struct {
	up     upstream
	rel    string          // path below the mirror, not escaped
	asked  string          // the path as locks name it; "" when nobody will lock it
	url    *url.URL        // nil: the upstream's base and rel
	sha256 artifact.Digest // "" when not known
	size   int64           // 0 when not known
	fresh  time.Duration   // how long a copy needs no asking; 0: always asked
	stale  bool            // a copy may stand in when the mirror cannot be asked
	header http.Header     // what to accept
	body   []byte          // it is asked for by POST of this; nil: by GET
	also   []*url.URL      // where else the same file is, for when the transfer breaks off
	accept string          // part of the key where the answer depends on header
	purl   string
	limit  int64                                                        // never more bytes than this; 0 is no limit
	token  func(ctx context.Context, err error) (context.Context, bool) // answers a 401
	verify func(ctx context.Context, path string) error
	// rewrite makes what the client of a request is given of a document; nil: the document.
	rewrite func(doc []byte, r *http.Request) (out []byte, contentType string, err error)
	derive  func(ctx context.Context) ([]byte, error) // the answer is made here, of other answers
}

func (w want) target() *url.URL {
	if w.url != nil {
		return w.url
	}
	return w.up.at(w.rel)
}

// at is the address of a path below the mirror.
func (u upstream) at(rel string) *url.URL {
	r := *u.base
	r.Path += "/" + strings.TrimPrefix(rel, "/")
	return &r
}

// safeRel says whether a path stays below its mirror.
func safeRel(rel string) bool {
	if rel == "" || strings.ContainsAny(rel, "\\\x00\r\n") {
		return false
	}
	for _, part := range strings.Split(strings.Trim(rel, "/"), "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// pending is a file that is here or on its way.
type pending struct {
	set    *Set
	want   want
	entry  store.Entry
	path   string // "" while it is on its way
	stale  bool
	prior  *store.Entry
	flight *store.Flight
}

// start finds a file in the store or starts to fetch it. The caller must
// release it.
func (s *Set) start(ctx context.Context, w want) *pending {
	p := &pending{set: s, want: w}
	var here bool
	if p.entry, p.path, here = s.have(w); here {
		return p
	}
	p.path = ""
	if e, _, ok := s.store.Entry(w.key()); ok && w.sha256 == "" {
		p.prior = &e
	}
	p.flight = s.store.Start(ctx, store.Want{
		Place: fetch.Redact(w.target()), Key: w.key(), SHA256: w.sha256.Hex(), Size: w.size, Limit: w.limit,
		Previous: p.prior, Broken: fetch.Interrupted, Verify: w.verify,
		Have:     func() (store.Entry, string, bool) { return s.have(w) },
		Attempts: len(w.also) + 2,
		Open: func(ctx context.Context, a store.Attempt) (io.ReadCloser, store.Meta, error) {
			return s.open(ctx, w, p.prior, a)
		},
	})
	return p
}

// have finds a file in the store that needs no asking: one of the digest
// wanted, or one asked for a short while ago.
func (s *Set) have(w want) (store.Entry, string, bool) {
	e, path, ok := s.store.Entry(w.key())
	if w.sha256 == "" {
		return e, path, ok && w.fresh > 0 && time.Since(e.Fetched) < w.fresh
	}
	if ok && e.Digest == w.sha256 {
		return e, path, true
	}
	path, n, ok := s.store.Blob(w.sha256, w.size)
	return store.Entry{Digest: w.sha256, Size: n}, path, ok
}

// key is what a file is remembered by: its address, without secrets.
func (w want) key() string {
	k := fetch.Redact(w.target())
	if q := w.target().RawQuery; q != "" {
		k += "?" + q // stays in the name's hash and in a private file
	}
	if w.accept != "" {
		k += " " + w.accept
	}
	return k
}

func (p *pending) release() {
	if p.flight != nil {
		p.flight.Release()
	}
}

// open asks the mirror: conditionally when there is a copy, from the middle when
// a transfer broke off there. What broke off may go on at another mirror.
func (s *Set) open(ctx context.Context, w want, prior *store.Entry, a store.Attempt) (io.ReadCloser, store.Meta, error) {
	if w.derive != nil {
		b, err := w.derive(ctx)
		if err != nil {
			return nil, store.Meta{}, err
		}
		return made(b), store.Meta{Size: int64(len(b))}, nil
	}
	u := w.target()
	if i := a.N % (len(w.also) + 1); i > 0 {
		u = w.also[i-1]
		if w.sha256 == "" {
			a.From, prior = 0, nil // whose validators these are is another
		}
	}
	h := conditions(w.header, prior, a)
	resp, err := s.client.Do(ctx, u, h, w.body)
	if err != nil && w.token != nil {
		if again, ok := w.token(ctx, err); ok {
			resp, err = s.client.Get(again, u, h)
		}
	}
	if noRest(err) && a.From > 0 { // it is shorter now, or all of it was here
		resp, err = s.client.Do(ctx, u, conditions(w.header, prior, store.Attempt{}), w.body)
	}
	if err != nil {
		return nil, store.Meta{}, err
	}
	s.netNames.resolve(ctx, u)
	meta := store.Meta{
		Source: fetch.Redact(u),
		Size:   resp.ContentLength, ETag: resp.Header.Get("ETag"), LastModified: resp.Header.Get("Last-Modified"),
		ContentType: resp.Header.Get("Content-Type"), NotModified: resp.StatusCode == http.StatusNotModified,
	}
	body := resp.Body
	if resp.StatusCode == http.StatusPartialContent {
		if meta.From, meta.Size = contentRange(resp.Header.Get("Content-Range")); meta.From != a.From {
			_ = body.Close()
			return nil, store.Meta{}, s.client.Explain(ctx, u, store.ErrOtherRange)
		}
	}
	if strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		body, meta.Size = &gunzip{body: body}, -1
		meta.NoRange = true // what ranges count is other bytes
	}
	return &explained{ReadCloser: body, set: s, ctx: ctx, url: u}, meta, nil
}

// noRest says whether the mirror answered that there is nothing from that byte
// on.
func noRest(err error) bool {
	var se *fetch.StatusError
	return errors.As(err, &se) && se.Code == http.StatusRequestedRangeNotSatisfiable
}

// conditions are the headers of a request.
func conditions(wanted http.Header, prior *store.Entry, a store.Attempt) http.Header {
	h := wanted.Clone()
	if h == nil {
		h = http.Header{}
	}
	if a.From > 0 {
		h.Set("Range", "bytes="+strconv.FormatInt(a.From, 10)+"-")
		h.Del("Accept-Encoding")
		if a.IfRange != "" {
			h.Set("If-Range", a.IfRange)
		}
		return h
	}
	if prior != nil {
		if prior.ETag != "" {
			h.Set("If-None-Match", prior.ETag)
		}
		if prior.LastModified != "" {
			h.Set("If-Modified-Since", prior.LastModified)
		}
	}
	return h
}

// contentRange reads "bytes 5-9/10"; size is -1 when it is not said.
func contentRange(v string) (from, size int64) {
	v, ok := strings.CutPrefix(v, "bytes ")
	span, total, ok2 := strings.Cut(v, "/")
	first, _, ok3 := strings.Cut(span, "-")
	from, err := strconv.ParseInt(first, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil {
		return -1, -1
	}
	if size, err = strconv.ParseInt(total, 10, 64); err != nil {
		size = -1
	}
	return from, size
}

// explained gives read errors their URL.
type explained struct {
	io.ReadCloser
	set *Set
	ctx context.Context
	url *url.URL
}

// Read implements io.Reader.
func (e *explained) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = e.set.client.Explain(e.ctx, e.url, err)
	}
	return n, err
}

// wait waits until the file is here.
func (p *pending) wait(ctx context.Context) (Blob, error) {
	if p.path == "" {
		e, path, err := p.flight.Wait(ctx)
		if err != nil && p.useStale(err) {
			return p.wait(ctx)
		}
		if err != nil {
			return Blob{}, err
		}
		p.entry, p.path = e, path
	}
	return Blob{Path: p.path, Material: p.set.material(ctx, p.want, p.entry.Digest, p.entry.Size), Stale: p.stale}, nil
}

// useStale falls back to the last copy when the mirror could not be asked and
// the want allows it.
func (p *pending) useStale(err error) bool {
	if !p.want.stale || p.set.cfg.NoStale || p.prior == nil || !fetch.Unreachable(err) || errors.Is(err, context.Canceled) {
		return false
	}
	path, _, ok := p.set.store.Blob(p.prior.Digest, 0)
	if !ok {
		return false
	}
	p.set.note("%s: the mirror could not be asked, the copy of %s was used", fetch.Redact(p.want.target()), p.prior.Fetched.Format(time.RFC3339))
	p.path, p.entry, p.stale = path, *p.prior, true
	return true
}

func (s *Set) material(ctx context.Context, w want, d artifact.Digest, size int64) artifact.Material {
	u := w.target()
	return artifact.Material{
		Ecosystem: w.up.ecosystem, URL: fetch.Redact(u), Path: w.asked, Digest: d, Size: size, PURL: w.purl,
		Public: s.netNames.remembered(ctx, u),
	}
}

// get fetches one file and waits for it.
func (s *Set) get(ctx context.Context, w want) (Blob, error) {
	p := s.start(ctx, w)
	defer p.release()
	return p.wait(ctx)
}

// read is a small document's text.
func (s *Set) read(ctx context.Context, w want) ([]byte, Blob, error) {
	blob, err := s.get(ctx, w)
	if err != nil {
		return nil, Blob{}, err
	}
	if blob.Material.Size > documentLimit {
		return nil, Blob{}, &artifact.Error{
			Kind: artifact.KindFault, Op: "reading", Place: blob.Material.URL, Message: "too large for a document of its kind",
		}
	}
	b, err := os.ReadFile(blob.Path)
	return b, blob, err
}

// tryEach asks upstreams in order: the next one when the former does not have
// it, or cannot be asked.
func (s *Set) tryEach(ctx context.Context, ups []upstream, one func(upstream) (Blob, error)) (Blob, error) {
	var first error
	for _, up := range ups {
		b, err := one(up)
		if err == nil {
			return b, nil
		}
		if first == nil || errors.Is(first, ErrNotFound) && !errors.Is(err, ErrNotFound) {
			first = err
		}
		next := errors.Is(err, ErrNotFound) || up.anyError || up.ecosystem == Debian
		if !next || ctx.Err() != nil {
			break
		}
	}
	return Blob{}, first
}

// withOthers is how a file is fetched from one of several mirrors, the others
// standing by.
func withOthers(up upstream, ups []upstream, of func(upstream) want) want {
	w := of(up)
	if w.derive != nil {
		return w
	}
	for _, other := range ups {
		if other.base.String() != up.base.String() {
			w.also = append(w.also, of(other).target())
		}
	}
	return w
}

// Fetch gets one file through the content store: with a digest it is verified,
// without one it is as trustworthy as the mirror and the way to it. A path of
// an archive this machine does not know under that name is looked for in all
// of them, if its digest is given: locks outlive mirrors' names.
func (s *Set) Fetch(ctx context.Context, req Request) (Blob, error) {
	if !safeRel(req.Path) {
		return Blob{}, &artifact.Error{Kind: artifact.KindUsage, Op: "fetching", Place: req.Path, Message: "not a path below a mirror"}
	}
	if req.SHA256 != "" {
		if _, err := artifact.ParseDigest(string(req.SHA256)); err != nil {
			return Blob{}, err
		}
	}
	ups, rel, err := s.candidates(ctx, req)
	if err != nil {
		if path, n, ok := s.store.Blob(req.SHA256, req.Size); ok {
			m := artifact.Material{Ecosystem: req.Ecosystem, Digest: req.SHA256, Size: n, PURL: purl(req.Ecosystem, rel)}
			return Blob{Path: path, Material: m}, nil
		}
		return Blob{}, err
	}
	return s.tryEach(ctx, ups, func(up upstream) (Blob, error) {
		w := withOthers(up, ups, func(up upstream) want { return s.wantOf(up, rel) })
		if req.SHA256 != "" {
			w.sha256, w.size = req.SHA256, req.Size
		}
		if req.Anew {
			w.fresh = 0
		}
		return s.get(ctx, w)
	})
}

// wantOf is how a file of a mirror is fetched when nothing else is known of it.
func (s *Set) wantOf(up upstream, rel string) want {
	w := want{up: up, rel: rel, fresh: immutableFor, stale: true, purl: purl(up.ecosystem, rel)}
	if mutable(up.ecosystem, rel) {
		w.fresh = mutableFor
	}
	if e, ok := ecosystemOf(up.ecosystem); ok && e.want != nil {
		w = e.want(s, w)
	}
	return w
}

// candidates is where a request can be answered, and its path there.
func (s *Set) candidates(ctx context.Context, req Request) ([]upstream, string, error) {
	rel := strings.Trim(req.Path, "/")
	if req.Ecosystem != Debian {
		ups, err := s.upstreams(ctx, req.Ecosystem)
		return ups, rel, err
	}
	name, below, _ := strings.Cut(rel, "/")
	var ups, others []upstream
	for _, a := range s.archives {
		if a.name == name {
			ups = append(ups, a.upstream)
		} else {
			others = append(others, a.upstream)
		}
	}
	if req.SHA256 != "" {
		ups = append(ups, others...)
	}
	if req.SHA256 != "" && !req.At.IsZero() && s.cfg.Snapshot != "" {
		up, err := s.snapshot(name, req.At)
		if err != nil {
			return nil, below, err
		}
		ups = append(ups, up)
	}
	if len(s.archives) == 0 {
		return nil, below, s.notConfigured(Debian)
	}
	if len(ups) == 0 {
		return nil, below, &artifact.Error{
			Kind: artifact.KindUsage, Op: "fetching", Place: req.Path, Message: "no Debian archive is called " + name + " here",
			Remedy: "add it to apt's sources or to debian: in mirrors.yaml",
		}
	}
	return dedupe(ups), below, nil
}

func dedupe(ups []upstream) []upstream {
	seen := map[string]bool{}
	var out []upstream
	for _, u := range ups {
		if k := u.base.String(); !seen[k] {
			seen[k] = true
			out = append(out, u)
		}
	}
	return out
}

// FetchURL gets any URL with the mirrors' client (credentials, proxies,
// certificates). With a digest it is verified and kept; without one the server
// is asked each time, and a copy never stands in for it.
func (s *Set) FetchURL(ctx context.Context, rawURL string, digest artifact.Digest) (Blob, error) {
	up, err := s.newUpstream("", rawURL, "the URL given")
	if err != nil {
		return Blob{}, err
	}
	u, err := url.Parse(strings.TrimSpace(rawURL))
	if err != nil {
		return Blob{}, err
	}
	if digest != "" {
		if _, err := artifact.ParseDigest(string(digest)); err != nil {
			return Blob{}, err
		}
	}
	u.User = nil
	return s.get(ctx, want{up: up, url: u, sha256: digest, stale: s.cfg.Offline})
}
