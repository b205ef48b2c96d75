package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/debian"
	"drydock/modules/mirror/internal/clientconf"
	"drydock/modules/mirror/internal/fetch"
)

// archive is one configured source that may be Debian's.
type archive struct {
	upstream
	own        *url.URL // its own address, where a snapshot is asked in its place; else nil
	name       string   // last path element
	suites     []string
	components []string
	signedBy   string
	checkValid bool
	explicit   bool // from mirrors.yaml: it must verify
}

// checkedRelease is a Release document already verified, by its digest.
type checkedRelease struct {
	digest  artifact.Digest
	release *Release
	keyring string
}

// poolFile is what a verified index says about a file.
type poolFile struct {
	sha256, name, version, arch string
	size                        int64
}

// findArchives reads which Debian archives are configured.
func (s *Set) findArchives() error {
	for _, raw := range s.cfg.Debian.URLs {
		up, err := s.newUpstream(Debian, raw, s.place(Debian))
		if err != nil {
			return err
		}
		a := archive{upstream: up, name: path.Base(up.base.Path), components: []string{"main"}, checkValid: true, explicit: true}
		root := s.cfg.Suite
		if root == "" {
			root = "stable"
		}
		a.suites = []string{root, root + "-updates"}
		if strings.Contains(a.name, "security") {
			a.suites = []string{root + "-security"}
		}
		s.addArchive(a)
	}
	if len(s.cfg.Debian.URLs) > 0 {
		return nil
	}
	sources, notes := clientconf.AptSources(s.etc)
	for _, n := range notes {
		s.note("%s", n)
	}
	for _, src := range sources {
		s.addAptSource(src)
	}
	return nil
}

func (s *Set) addAptSource(src clientconf.AptSource) {
	up, err := s.newUpstream(Debian, src.URI, src.Place)
	if err != nil {
		s.note("%v", err)
		return
	}
	a := archive{
		upstream: up, name: path.Base(up.base.Path), components: src.Components,
		signedBy: src.SignedBy, checkValid: src.CheckValidUntil,
	}
	for _, suite := range src.Suites {
		root, kind := splitSuite(suite)
		if kind == "other" {
			s.note("%s: suite %s left out: a release, its -updates and -security are used", src.Place, suite)
			continue
		}
		if s.cfg.Suite != "" {
			suite = s.cfg.Suite + strings.TrimPrefix(suite, root)
		}
		a.suites = append(a.suites, suite)
	}
	if len(a.suites) > 0 {
		s.addArchive(a)
	}
}

// splitSuite is a suite's release and what of it this is: "", updates,
// security, or other.
func splitSuite(suite string) (root, kind string) {
	for suffix, kind := range map[string]string{"-updates": "updates", "-security": "security", "/updates": "security"} {
		if r, ok := strings.CutSuffix(suite, suffix); ok {
			return r, kind
		}
	}
	if strings.ContainsAny(suite, "-/") || suite == "experimental" {
		return suite, "other"
	}
	return suite, ""
}

// addArchive keeps an archive; the suites of one known already join it.
func (s *Set) addArchive(a archive) {
	if a.name == "." || a.name == "/" || a.name == "" {
		a.name = "debian" // an archive at the root of its host
	}
	for i := range s.archives {
		old := &s.archives[i]
		if old.base.String() == a.base.String() && strings.Join(old.components, " ") == strings.Join(a.components, " ") {
			for _, suite := range a.suites {
				if !contains(old.suites, suite) {
					old.suites = append(old.suites, suite)
				}
			}
			return
		}
	}
	s.archives = append(s.archives, a)
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

// likelyArchives are the archives that may be Debian's as far as can be told
// without asking them: verified ones if any are, else those not signed by
// somebody else, the ones called debian first.
func (s *Set) likelyArchives() []upstream {
	s.mu.Lock()
	verified := s.verified
	s.mu.Unlock()
	var named, others []upstream
	for _, a := range s.archives {
		switch {
		case len(verified) > 0 && !isVerified(verified, a), len(verified) == 0 && s.isForeign(a):
		case strings.HasPrefix(a.name, "debian"):
			named = append(named, a.upstream)
		default:
			others = append(others, a.upstream)
		}
	}
	return append(named, others...)
}

// isForeign says whether a source is signed with keys that are not Debian's.
func (s *Set) isForeign(a archive) bool {
	if a.signedBy == "" || a.explicit || strings.HasPrefix(path.Base(a.signedBy), "debian-archive-") {
		return false
	}
	keys, err := s.loadKeyring()
	return err == nil && !keys.sharesKey(a.signedBy)
}

// isVerified says whether an archive is one of those verified, or another
// mirror of one.
func isVerified(verified []DebianSource, a archive) bool {
	for _, v := range verified {
		if v.Archive == a.name {
			return true
		}
	}
	return false
}

// Debian lists the archives whose InRelease verifies with the Debian archive
// keyring. Other people's archives in apt's configuration are left out with a
// note; one that is named in mirrors.yaml, that is signed by Debian but
// expired or damaged, or that looks like Debian and cannot be reached is an
// error: without it security updates would be missing in silence.
func (s *Set) Debian(ctx context.Context) ([]DebianSource, error) {
	s.mu.Lock()
	known := s.verified
	s.mu.Unlock()
	if known != nil {
		return append([]DebianSource(nil), known...), nil
	}
	if len(s.archives) == 0 {
		return nil, s.notConfigured(Debian)
	}
	if _, err := s.loadKeyring(); err != nil {
		return nil, err
	}
	v := verification{set: s, taken: map[string]bool{}, roots: map[string]bool{}}
	for _, a := range s.archives {
		if err := v.check(ctx, a); err != nil {
			return nil, err
		}
	}
	if err := v.verdict(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified = v.sources
	return append([]DebianSource(nil), v.sources...), nil
}

// verification goes through the configured archives.
type verification struct {
	set     *Set
	sources []DebianSource
	taken   map[string]bool // archive and suite
	roots   map[string]bool // releases seen
	missing []unreachedArchive
}

type unreachedArchive struct {
	archive archive
	err     error
}

func (v *verification) check(ctx context.Context, a archive) error {
	shown := fetch.Redact(a.base)
	if v.set.isForeign(a) {
		v.set.note("%s: %s left out: signed by other keys than Debian's (%s)", a.source, shown, a.signedBy)
		return nil
	}
	src := DebianSource{Archive: a.name, URI: shown, Components: a.components}
	for _, suite := range a.suites {
		if v.taken[a.name+" "+suite] {
			continue // a second mirror of the same archive stands by
		}
		rel, err := v.set.release(ctx, a, suite)
		if err != nil {
			if err = v.excuse(ctx, a, suite, err); err != nil {
				return err
			}
			continue
		}
		root, _ := splitSuite(suite)
		v.taken[a.name+" "+suite], v.roots[root] = true, true
		src.Suites, src.Keyring = append(src.Suites, suite), rel.keyring
	}
	if len(src.Suites) > 0 {
		src.Public = v.set.netNames.remembered(ctx, a.base)
		v.sources = append(v.sources, src)
	}
	return nil
}

// excuse says whether a suite that does not verify can be left out.
func (v *verification) excuse(ctx context.Context, a archive, suite string, err error) error {
	var said *fetch.StatusError
	shown := fetch.Redact(a.base)
	switch {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, ErrNotFound):
		v.set.note("%s: %s has no suite %s", a.source, shown, suite)
	case errors.As(err, &said), fetch.Unreachable(err), errors.Is(err, errUnsigned) && !a.explicit:
		v.missing = append(v.missing, unreachedArchive{a, err})
	case errors.Is(err, errStranger) && !a.explicit:
		v.set.note("%s: %s %s left out: %v", a.source, shown, suite, errStranger)
	default:
		return err
	}
	return nil
}

// verdict decides whether what could not be reached had to be.
func (v *verification) verdict() error {
	for _, m := range v.missing {
		needed := m.archive.explicit || len(v.sources) == 0
		for _, suite := range m.archive.suites {
			root, _ := splitSuite(suite)
			needed = needed || v.roots[root] && !v.taken[m.archive.name+" "+suite]
		}
		if needed {
			return m.err
		}
		v.set.note("%s: %s left out: %v", m.archive.source, fetch.Redact(m.archive.base), m.err)
	}
	if len(v.sources) > 0 {
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "finding the debian mirror", Place: v.set.cfg.Place,
		Message: "no archive configured is signed by Debian: " + strings.Join(v.set.Notes(), "; "),
		Remedy:  "set debian: in mirrors.yaml or " + overrideName(Debian) + " to a Debian mirror's URL, or add one to apt's sources",
	}
}

// Release fetches and verifies the Release document of one suite.
func (s *Set) Release(ctx context.Context, src DebianSource, suite string) (*Release, error) {
	a, err := s.archiveOf(src)
	if err != nil {
		return nil, err
	}
	c, err := s.release(ctx, a, suite)
	if err != nil {
		return nil, err
	}
	return c.release, nil
}

func (s *Set) archiveOf(src DebianSource) (archive, error) {
	for _, a := range s.archives {
		if fetch.Redact(a.base) == src.URI {
			return a, nil
		}
	}
	return archive{}, &artifact.Error{
		Kind: artifact.KindUsage, Op: "finding the debian mirror", Place: src.URI, Message: "it is not configured on this machine",
	}
}

// release gets InRelease, or Release and its signature where there is none.
func (s *Set) release(ctx context.Context, a archive, suite string) (checkedRelease, error) {
	keys, err := s.loadKeyring()
	if err != nil {
		return checkedRelease{}, err
	}
	doc, blob, err := s.read(ctx, s.debianWant(a.upstream, "dists/"+suite+"/InRelease"))
	var sig []byte
	if errors.Is(err, ErrNotFound) {
		doc, blob, err = s.read(ctx, s.debianWant(a.upstream, "dists/"+suite+"/Release"))
		if err == nil {
			sig, _, err = s.read(ctx, s.debianWant(a.upstream, "dists/"+suite+"/Release.gpg"))
		}
	}
	if err != nil {
		return checkedRelease{}, err
	}
	memo := a.base.String() + " " + suite
	s.mu.Lock()
	c, ok := s.checked[memo]
	s.mu.Unlock()
	if !ok || c.digest != blob.Material.Digest {
		if c, err = verifyRelease(keys, doc, sig, blob.Material); err != nil {
			return checkedRelease{}, err
		}
		s.mu.Lock()
		s.checked[memo] = c
		s.mu.Unlock()
	}
	return c, s.judgeRelease(a, suite, c, blob)
}

// verifyRelease checks the signature and reads what was signed.
func verifyRelease(keys *keyring, doc, sig []byte, m artifact.Material) (c checkedRelease, err error) {
	c.digest = m.Digest
	text := doc
	if sig == nil {
		text, c.keyring, err = keys.verifyInline(doc)
	} else {
		c.keyring, err = keys.verifyDetached(doc, sig)
	}
	if err == nil {
		c.release, err = debian.ParseRelease(bytes.NewReader(text))
	}
	if err != nil {
		return c, releaseError(m.URL, err)
	}
	return c, nil
}

func releaseError(place string, err error) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "verifying", Place: place, Err: err,
		Remedy: "use a mirror of the Debian archive that passes on Debian's own signatures, and keep debian-archive-keyring up to date",
	}
}

// judgeRelease checks that the document is the one asked for and in force.
func (s *Set) judgeRelease(a archive, suite string, c checkedRelease, blob Blob) error {
	r := c.release
	if suite != r.Suite && suite != r.Codename && !strings.Contains(suite, "/") {
		return releaseError(blob.Material.URL, fmt.Errorf("it is of suite %s (%s), not %s", r.Suite, r.Codename, suite))
	}
	if !s.cfg.At.IsZero() && r.Date.After(s.cfg.At) {
		return tooNew(blob.Material.URL, r.Date, s.cfg.At)
	}
	if r.ValidUntil.IsZero() || s.now().Before(r.ValidUntil) {
		return nil
	}
	if s.cfg.Offline {
		s.note("%s: expired on %s; nothing newer can be asked for offline", blob.Material.URL, r.ValidUntil.Format(time.RFC3339))
		return nil
	}
	if v := s.aptConf["acquire::check-valid-until"]; !a.checkValid || v != "" && !isTrue(v) {
		s.note("%s: expired on %s; apt is configured not to mind", blob.Material.URL, r.ValidUntil.Format(time.RFC3339))
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "verifying", Place: blob.Material.URL,
		Message: "it expired on " + r.ValidUntil.Format(time.RFC3339) + ": the mirror is out of date, and security updates may be missing",
		Remedy:  "use a mirror that is up to date; for a frozen one set Acquire::Check-Valid-Until \"false\" in apt.conf or Check-Valid-Until: no on the source",
	}
}

func isTrue(v string) bool {
	switch strings.ToLower(v) {
	case "no", "false", "0", "off", "without", "disable":
		return false
	}
	return true
}

// debianWant is how a file of an archive is fetched: by hash where an index or
// its own name tells it.
func (s *Set) debianWant(up upstream, rel string) want {
	w := want{up: up, rel: rel, fresh: mutableFor, stale: true, purl: purl(Debian, rel)}
	switch {
	case strings.HasPrefix(rel, "pool/"):
		w.fresh = immutableFor
		s.mu.Lock()
		f, ok := s.pool[up.base.String()+" "+rel]
		s.mu.Unlock()
		if ok {
			w.sha256, w.size = artifact.Digest("sha256:"+f.sha256), f.size
			w.purl = "pkg:deb/debian/" + escape(f.name) + "@" + escape(f.version) + "?arch=" + url.QueryEscape(f.arch)
		}
	case strings.Contains(rel, "/by-hash/SHA256/"):
		if d, err := artifact.ParseDigest("sha256:" + path.Base(rel)); err == nil {
			w.sha256 = d
		}
	case path.Base(rel) == "InRelease":
		w.verify = func(_ context.Context, file string) error {
			keys, err := s.loadKeyring()
			if err != nil {
				return err
			}
			doc, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if _, _, err = keys.verifyInline(doc); err != nil {
				return releaseError(fetch.Redact(up.at(rel)), err)
			}
			return nil
		}
	}
	return w
}
