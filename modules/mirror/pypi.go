package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"sort"
	"strings"
	"time"

	xhtml "golang.org/x/net/html"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/clientconf"
	"drydock/modules/mirror/internal/fetch"
)

// PyPI: the simple index of PEP 503 (HTML) and PEP 691 (JSON), and the files it
// names. Its setting is the address of the simple index, as pip's index-url.
// Below the gateway's /pypi/ it is simple/<project>/ and files/<project>/<file>.

// The two forms of an index page.
const (
	pypiJSON = "application/vnd.pypi.simple.v1+json"
	pypiHTML = "text/html"
)

func pypiEcosystem() ecosystem {
	return ecosystem{
		name: PyPI, setting: func(c *Config) *Setting { return &c.PyPI }, client: "index-url in pip.conf (pip config set global.index-url …)",
		auto:    (*Set).autoPyPI,
		mutable: func(rel string) bool { return !strings.HasPrefix(rel, "files/") },
		purl:    pypiPURL, serve: (*Gateway).servePyPI, pinned: (*Set).pypiPinned,
		asked: func(rel string, _ http.Header) string { return pypiAsked(rel) },
	}
}

func (s *Set) autoPyPI(context.Context) ([]upstream, error) {
	index, source := clientconf.PipIndex(s.env, s.home)
	if index == "" {
		return nil, nil
	}
	up, err := s.newUpstream(PyPI, index, source)
	if err != nil {
		return nil, err
	}
	return []upstream{up}, nil
}

var pypiRuns = regexp.MustCompile(`[-_.]+`)

// pypiName is a project's name as PEP 503 normalizes it.
func pypiName(name string) string { return strings.ToLower(pypiRuns.ReplaceAllString(name, "-")) }

// pypiPath is a path with the project's name normalized; "" when it is none of
// the index.
func pypiPath(rel string) string {
	parts := strings.Split(rel, "/")
	switch {
	case parts[0] == "simple" && len(parts) == 2:
		return "simple/" + pypiName(parts[1])
	case parts[0] == "files" && len(parts) == 3:
		return "files/" + pypiName(parts[1]) + "/" + parts[2]
	case parts[0] == "json" && len(parts) == 4 && parts[3] == "json":
		return "json/" + pypiName(parts[1]) + "/" + parts[2] + "/json"
	}
	return rel
}

// pypiAsked is what a lock calls a path: what is said of a release is made of its
// project's page.
func pypiAsked(rel string) string {
	rel = pypiPath(rel)
	if project, _, ok := pypiRelease(rel); ok {
		return "simple/" + project
	}
	return rel
}

// pypiRelease splits json/<project>/<version>/json.
func pypiRelease(rel string) (project, version string, ok bool) {
	parts := strings.Split(rel, "/")
	if len(parts) != 4 || parts[0] != "json" || parts[3] != "json" {
		return "", "", false
	}
	return parts[1], parts[2], true
}

func (g *Gateway) servePyPI(w http.ResponseWriter, r *http.Request, rel string) {
	ups, err := g.set.upstreams(r.Context(), PyPI)
	if err != nil {
		g.fail(w, r, err)
		return
	}
	rel = pypiPath(rel)
	g.firstOf(w, r, ups, func(up upstream) error {
		wanted, err := g.set.pypiWant(r.Context(), up, rel, true)
		if err != nil {
			return err
		}
		return g.serveWant(w, r, wanted.as(pypiAsked(rel)))
	})
}

// pypiWant is how an index page or a file is fetched. Where a file is and what
// it must be is asked of its index page; ask is whether a mirror may be asked
// for that, too.
func (s *Set) pypiWant(ctx context.Context, up upstream, rel string, ask bool) (want, error) {
	kind, rest, _ := strings.Cut(rel, "/")
	project, file, isFile := strings.Cut(rest, "/")
	_, _, isRelease := pypiRelease(rel)
	switch {
	case kind == "simple" && !isFile && project != "", isRelease:
		return s.pypiAt(s.pypiIndex(up, rel), s.cfg.At), nil
	case kind != "files" || !isFile || strings.Contains(file, "/"):
		return want{}, notFoundError(gatewayURL + "/pypi/" + rel)
	}
	page, err := s.pypiPage(ctx, up, project, ask)
	if err != nil {
		return want{}, err
	}
	u, sum, size, err := page.find(file)
	if err != nil {
		return want{}, err
	}
	return want{up: up, rel: rel, url: u, sha256: sum, size: size, fresh: immutableFor, purl: purl(PyPI, rel)}, nil
}

// pypiPinned is where a locked page or file may be had.
func (s *Set) pypiPinned(ctx context.Context, up upstream, rel string, _ http.Header) []want {
	rel = pypiPath(rel)
	if strings.HasPrefix(pypiAsked(rel), "simple/") {
		return []want{s.pypiIndex(up, rel)}
	}
	w, err := s.pypiWant(ctx, up, rel, true)
	if err != nil {
		w = want{up: up, rel: rel} // the content store may have it by its digest
	}
	return []want{w}
}

// pypiIndex is how a project's page is fetched, for that or for what is said of a
// release.
func (s *Set) pypiIndex(up upstream, rel string) want {
	project := strings.TrimPrefix(pypiAsked(rel), "simple/")
	u := up.at(project + "/")
	return want{
		up: up, rel: "simple/" + project, url: u, fresh: mutableFor, stale: true, limit: documentLimit,
		header: http.Header{"Accept": {pypiJSON + ", " + pypiHTML + ";q=0.5"}, "Accept-Encoding": {"gzip"}},
		rewrite: func(doc []byte, r *http.Request) ([]byte, string, error) {
			page, err := parsePyPI(doc, u)
			if err != nil {
				return nil, "", err
			}
			return page.render(rel, r.Header)
		},
	}
}

// pypiPage is a project's page: the copy kept if there is one, for what a step
// was told of is there.
func (s *Set) pypiPage(ctx context.Context, up upstream, project string, ask bool) (*pypiPage, error) {
	w := s.pypiIndex(up, "simple/"+project)
	w.fresh = immutableFor
	if !ask {
		if _, _, ok := s.store.Entry(w.key()); !ok {
			return nil, notFoundError(fetch.Redact(w.target()))
		}
	}
	doc, blob, err := s.read(ctx, w)
	if err != nil {
		return nil, err
	}
	page, err := parsePyPI(doc, w.target())
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "reading", Place: blob.Material.URL, Message: "not a page of a simple index", Err: err}
	}
	return page, nil
}

// pypiPage is one project's page, whatever form it came in.
type pypiPage struct {
	Meta  map[string]any `json:"meta"`
	Name  string         `json:"name"`
	Files []pypiFile     `json:"files"`
}

// pypiFile is one file, as PEP 691 has it. Metadata is true, or its hashes.
type pypiFile struct {
	Filename       string            `json:"filename"`
	URL            string            `json:"url"`
	Hashes         map[string]string `json:"hashes"`
	RequiresPython string            `json:"requires-python,omitempty"`
	Yanked         any               `json:"yanked,omitempty"` // true, or the reason
	Metadata       any               `json:"core-metadata,omitempty"`
	OldMetadata    any               `json:"dist-info-metadata,omitempty"` // its former name
	Size           int64             `json:"size,omitempty"`
	Uploaded       *time.Time        `json:"upload-time,omitempty"`

	at *url.URL // where the mirror has it
}

// parsePyPI reads a page in either form; base is its address.
func parsePyPI(doc []byte, base *url.URL) (*pypiPage, error) {
	page := &pypiPage{}
	var err error
	if b := bytes.TrimLeft(doc, " \t\r\n"); len(b) > 0 && b[0] == '{' {
		err = json.Unmarshal(doc, page)
	} else {
		err = page.readHTML(doc)
	}
	if err != nil {
		return nil, err
	}
	kept := page.Files[:0]
	for _, f := range page.Files {
		ref, err := url.Parse(f.URL)
		if err != nil || f.Filename == "" || f.Filename != path.Base(f.Filename) {
			continue // pip, too, leaves out what it cannot read
		}
		f.at = base.ResolveReference(ref)
		if f.at.Scheme != "https" && f.at.Scheme != base.Scheme {
			continue
		}
		if name, sum, ok := strings.Cut(f.at.Fragment, "="); ok && f.Hashes[name] == "" {
			if f.Hashes == nil {
				f.Hashes = map[string]string{}
			}
			f.Hashes[name] = sum
		}
		f.at.Fragment, f.at.User = "", nil
		if f.Metadata == nil {
			f.Metadata = f.OldMetadata
		}
		kept = append(kept, f)
	}
	page.Files = kept
	return page, nil
}

// readHTML reads the anchors of a PEP 503 page.
func (p *pypiPage) readHTML(doc []byte) error {
	z := xhtml.NewTokenizer(bytes.NewReader(doc))
	var open *pypiFile
	for {
		switch z.Next() {
		case xhtml.ErrorToken:
			if err := z.Err(); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		case xhtml.StartTagToken:
			if t := z.Token(); t.Data == "a" {
				open = anchor(t)
			}
		case xhtml.TextToken:
			if open != nil {
				open.Filename += strings.TrimSpace(z.Token().Data)
			}
		case xhtml.EndTagToken:
			if z.Token().Data == "a" && open != nil {
				p.Files = append(p.Files, *open)
				open = nil
			}
		}
	}
}

func anchor(t xhtml.Token) *pypiFile {
	f := &pypiFile{Hashes: map[string]string{}}
	for _, a := range t.Attr {
		switch a.Key {
		case "href":
			f.URL = a.Val
		case "data-requires-python":
			f.RequiresPython = a.Val
		case "data-yanked":
			f.Yanked = true
			if a.Val != "" {
				f.Yanked = a.Val
			}
		case "data-core-metadata", "data-dist-info-metadata":
			f.Metadata = true
			if name, sum, ok := strings.Cut(a.Val, "="); ok {
				f.Metadata = map[string]any{name: sum}
			}
		}
	}
	return f
}

// find is where a file of the page, or its metadata (PEP 658), is and what it
// must be.
func (p *pypiPage) find(file string) (*url.URL, artifact.Digest, int64, error) {
	for _, f := range p.Files {
		sum, u, size := f.Hashes["sha256"], f.at, f.Size
		if file != f.Filename {
			of, isMetadata := strings.CutSuffix(file, ".metadata")
			if !isMetadata || of != f.Filename || f.Metadata == nil {
				continue
			}
			hashes, _ := f.Metadata.(map[string]any)
			sum, _ = hashes["sha256"].(string)
			beside := *f.at
			beside.Path, beside.RawPath = beside.Path+".metadata", ""
			u, size = &beside, 0
		}
		d, err := artifact.ParseDigest("sha256:" + strings.ToLower(sum))
		if err != nil {
			return nil, "", 0, &artifact.Error{
				Kind: artifact.KindFault, Op: "fetching", Place: fetch.Redact(u),
				Message: "the index states no sha256 of it", Remedy: "use an index that states one for every file (PEP 503)",
			}
		}
		return u, d, size, nil
	}
	return nil, "", 0, notFoundError(gatewayURL + "/pypi/files/…/" + file)
}

// render is the page in the form a client reads, with every file's address made
// ours.
func (p *pypiPage) render(rel string, h http.Header) ([]byte, string, error) {
	if project, version, ok := pypiRelease(rel); ok {
		b, err := p.release(project, version)
		return b, npmFull, err
	}
	project := strings.TrimPrefix(rel, "simple/")
	out := pypiPage{Meta: map[string]any{"api-version": "1.0"}, Name: project, Files: []pypiFile{}}
	for _, f := range p.Files {
		f.URL = pypiFileURL(project, f.Filename)
		hashes, _ := f.Metadata.(map[string]any)
		if sum, _ := hashes["sha256"].(string); sum == "" {
			f.Metadata = nil // it could not be verified: clients then read the file itself
		}
		f.OldMetadata, f.Uploaded = nil, nil // pip 22.3 to 23.0 ends with an error on the former name in JSON (PEP 714)
		if f.Hashes == nil {
			f.Hashes = map[string]string{}
		}
		out.Files = append(out.Files, f)
	}
	if strings.Contains(h.Get("Accept"), pypiJSON) {
		b, err := json.Marshal(out)
		return b, pypiJSON, err
	}
	return out.html(), pypiHTML, nil
}

func pypiFileURL(project, name string) string {
	return gatewayURL + "/pypi/files/" + project + "/" + url.PathEscape(name)
}

// release is what PyPI itself says of one version, in so far as its page does:
// poetry asks for it, and reads of the files what they depend on when they are not
// said to.
func (p *pypiPage) release(project, version string) ([]byte, error) {
	type file struct {
		Filename       string            `json:"filename"`
		URL            string            `json:"url"`
		Kind           string            `json:"packagetype"`
		Digests        map[string]string `json:"digests"`
		RequiresPython *string           `json:"requires_python"`
		Size           int64             `json:"size"`
		Yanked         bool              `json:"yanked"`
		Reason         *string           `json:"yanked_reason"`
	}
	var out struct {
		Info struct {
			Name           string   `json:"name"`
			Version        string   `json:"version"`
			Summary        string   `json:"summary"`
			RequiresDist   []string `json:"requires_dist"` // null: nobody says
			RequiresPython *string  `json:"requires_python"`
			Yanked         bool     `json:"yanked"`
			Reason         *string  `json:"yanked_reason"`
		} `json:"info"`
		Files []file `json:"urls"`
	}
	out.Info.Name, out.Info.Version = project, version
	for _, f := range p.Files {
		kind := "sdist"
		if strings.HasSuffix(f.Filename, ".whl") {
			kind = "bdist_wheel"
		}
		if pypiVersion(f.Filename) != version {
			continue
		}
		one := file{Filename: f.Filename, URL: pypiFileURL(project, f.Filename), Kind: kind, Digests: f.Hashes, Size: f.Size}
		if f.RequiresPython != "" {
			one.RequiresPython = &f.RequiresPython
		}
		if reason, ok := f.Yanked.(string); ok {
			one.Yanked, one.Reason = true, &reason
		} else if yanked, _ := f.Yanked.(bool); yanked {
			one.Yanked = true
		}
		out.Info.RequiresPython, out.Info.Yanked, out.Info.Reason = one.RequiresPython, one.Yanked, one.Reason
		out.Files = append(out.Files, one)
	}
	if len(out.Files) == 0 {
		return nil, notFoundError(gatewayURL + "/pypi/json/" + project + "/" + version)
	}
	return json.Marshal(out)
}

// html is the page as PEP 503 has it.
func (p *pypiPage) html() []byte {
	var b bytes.Buffer
	b.WriteString("<!DOCTYPE html>\n<html><head><meta name=\"pypi:repository-version\" content=\"1.0\"></head><body>\n")
	for _, f := range p.Files {
		names := make([]string, 0, len(f.Hashes))
		for name := range f.Hashes {
			names = append(names, name)
		}
		sort.Strings(names)
		href := f.URL
		if sum := f.Hashes["sha256"]; sum != "" {
			href += "#sha256=" + sum
		} else if len(names) > 0 {
			href += "#" + names[0] + "=" + f.Hashes[names[0]]
		}
		fmt.Fprintf(&b, "<a href=\"%s\"", html.EscapeString(href))
		if f.RequiresPython != "" {
			fmt.Fprintf(&b, " data-requires-python=\"%s\"", html.EscapeString(f.RequiresPython))
		}
		if f.Yanked != nil && f.Yanked != false {
			reason, _ := f.Yanked.(string)
			fmt.Fprintf(&b, " data-yanked=\"%s\"", html.EscapeString(reason))
		}
		if hashes, ok := f.Metadata.(map[string]any); ok {
			fmt.Fprintf(&b, " data-core-metadata=\"sha256=%s\"", html.EscapeString(fmt.Sprint(hashes["sha256"])))
		}
		fmt.Fprintf(&b, ">%s</a><br>\n", html.EscapeString(f.Filename))
	}
	b.WriteString("</body></html>\n")
	return b.Bytes()
}

// pypiAt makes a page that of a time, by the times the index states (PEP 700),
// with what was published and nothing that may change.
func (s *Set) pypiAt(w want, at time.Time) want {
	if at.IsZero() {
		return w
	}
	plain := w
	return derived(w, at, func(ctx context.Context) ([]byte, error) {
		doc, blob, err := s.read(ctx, plain)
		if err != nil {
			return nil, err
		}
		page, err := parsePyPI(doc, plain.target())
		if err != nil {
			return nil, err
		}
		out := pypiPage{Meta: map[string]any{"api-version": "1.1"}, Name: path.Base(plain.rel), Files: []pypiFile{}}
		for _, f := range page.Files {
			if f.Uploaded == nil {
				return nil, &artifact.Error{
					Kind: artifact.KindFault, Op: "taking it as of " + at.Format(time.RFC3339), Place: blob.Material.URL,
					Message: "the index does not state when files were published", Remedy: "use an index that does (PEP 700), or leave --to out",
				}
			}
			if !f.Uploaded.After(at) {
				out.Files = append(out.Files, f.published())
			}
		}
		sort.Slice(out.Files, func(i, j int) bool { return out.Files[i].Filename < out.Files[j].Filename })
		return json.Marshal(out)
	})
}

// published is a file as it was published: whether it was taken back since is
// said of no time, and where it is, we tell.
func (f pypiFile) published() pypiFile {
	t := f.Uploaded.UTC()
	out := pypiFile{
		Filename: f.Filename, URL: "files/" + url.PathEscape(f.Filename), Hashes: map[string]string{},
		RequiresPython: f.RequiresPython, Size: f.Size, Uploaded: &t,
	}
	if sum := f.Hashes["sha256"]; sum != "" {
		out.Hashes["sha256"] = sum
	}
	if hashes, ok := f.Metadata.(map[string]any); ok && hashes["sha256"] != nil {
		out.Metadata = map[string]any{"sha256": hashes["sha256"]}
	}
	return out
}

// pypiPURL reads files/<project>/<file>, where a file's name is as of a wheel
// (PEP 427) or an sdist (PEP 625).
func pypiPURL(rel string) string {
	rest, ok := strings.CutPrefix(rel, "files/")
	project, file, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || strings.HasSuffix(file, ".metadata") {
		return ""
	}
	version := pypiVersion(file)
	if version == "" {
		return ""
	}
	return "pkg:pypi/" + escape(pypiName(project)) + "@" + escape(version)
}

// pypiVersion is the version in the name of a wheel (PEP 427) or an sdist (PEP
// 625); "" when there is none.
func pypiVersion(file string) string {
	if wheel, isWheel := strings.CutSuffix(file, ".whl"); isWheel {
		if parts := strings.Split(wheel, "-"); len(parts) >= 5 {
			return parts[1]
		}
	} else {
		stem := file
		for _, ext := range []string{".tar.gz", ".zip", ".tar.bz2", ".tgz"} {
			stem = strings.TrimSuffix(stem, ext)
		}
		if i := strings.LastIndexByte(stem, '-'); i > 0 && stem != file {
			return stem[i+1:]
		}
	}
	return ""
}
