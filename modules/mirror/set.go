package mirror

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/debian"
	"drydock/modules/mirror/internal/clientconf"
	"drydock/modules/mirror/internal/fetch"
	"drydock/modules/mirror/internal/store"
)

// Set is the mirrors of this machine and what was fetched from them. It is
// safe for concurrent use.
type Set struct {
	cfg     Config
	env     clientconf.Environ
	home    string
	etc     string // /etc/apt
	rings   string // /usr/share/keyrings
	goEnv   string
	aptConf map[string]string
	dir     string
	client  *fetch.Client
	store   *store.Store

	archives []archive // apt sources that may be Debian's, in order
	npm      clientconf.Npm
	netNames *publicNames
	tokens   tokenCache

	goOnce  sync.Once
	goUps   []upstream
	npmOnce sync.Once
	npmUp   upstream
	sumdb   sumdbState

	mu       sync.Mutex
	notes    []string
	verified []DebianSource // once known
	checked  map[string]checkedRelease
	indexes  map[string][]debian.Package // by digest of the index
	pool     map[string]poolFile         // "<archive>/pool/…" as seen in verified indexes
	keys     *keyring

	configured map[string]configured // by ecosystem
}

// configured is the mirrors a setting of URLs names.
type configured struct {
	urls []string
	ups  []upstream
}

// upstream is one mirror's address.
type upstream struct {
	ecosystem string
	base      *url.URL // no credentials, no slash at the end
	source    string   // file or variable it was read from
	anyError  bool     // after any error the next one is asked
}

// Discover reads where the mirrors are. It touches no network; an ecosystem
// not found is an error only when it is asked for.
func Discover(_ context.Context, cfg Config, host Host, cacheDir string) (*Set, error) {
	s := &Set{
		cfg: cfg, env: clientconf.NewEnviron(host.Environ), home: host.Home, etc: host.EtcApt,
		rings: host.Keyrings, goEnv: host.GoEnvFile, dir: filepath.Join(cacheDir, "mirror"),
		checked: map[string]checkedRelease{}, indexes: map[string][]debian.Package{}, pool: map[string]poolFile{},
		configured: map[string]configured{},
	}
	if s.home == "" {
		s.home, _ = s.env.First("HOME", "USERPROFILE")
	}
	if s.etc == "" {
		s.etc = "/etc/apt"
	}
	if s.rings == "" {
		s.rings = "/usr/share/keyrings"
	}
	s.overrides()
	s.npm = clientconf.ReadNpm(s.env, s.home)
	s.aptConf = clientconf.AptConf(s.etc)
	creds := clientconf.ReadNetrc(s.env, s.home)
	creds = append(creds, clientconf.ReadAptAuth(s.etc)...)
	creds = append(creds, s.npm.Credentials...)
	creds = append(creds, clientconf.ReadDockerAuths(s.env, s.home)...)
	client, err := fetch.New(fetch.Options{
		Environ: s.env, Credentials: creds, Trust: cfg.Trust, TrustPlace: cfg.Place, Proxy: s.aptProxy, Offline: cfg.Offline,
	})
	if err != nil {
		return nil, err
	}
	s.client, s.store = client, store.Open(s.dir)
	if err := s.findArchives(); err != nil {
		return nil, err
	}
	if err := s.asOf(); err != nil {
		return nil, err
	}
	s.netNames = newPublicNames(filepath.Join(s.dir, "hosts.json"))
	s.netNames.offline = cfg.Offline
	return s, nil
}

// overrides lets DRYDOCK_MIRROR_<ECOSYSTEM> stand in for a setting.
func (s *Set) overrides() {
	for eco, setting := range s.settings() {
		if v := s.env[overrideName(eco)]; v != "" {
			*setting = Setting{URLs: strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' })}
			if v == "auto" {
				*setting = Setting{Auto: true}
			}
		}
	}
}

func overrideName(ecosystem string) string { return "DRYDOCK_MIRROR_" + strings.ToUpper(ecosystem) }

func (s *Set) settings() map[string]*Setting {
	out := map[string]*Setting{}
	for _, e := range ecosystems() {
		if e.setting != nil {
			out[e.name] = e.setting(&s.cfg)
		}
	}
	return out
}

// place is where an explicit setting comes from.
func (s *Set) place(ecosystem string) string {
	if v := s.env[overrideName(ecosystem)]; v != "" {
		return overrideName(ecosystem)
	}
	if s.cfg.Place != "" {
		return s.cfg.Place
	}
	return "mirrors.yaml"
}

func (s *Set) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.notes {
		if old == n {
			return
		}
	}
	s.notes = append(s.notes, n)
}

// Notes says what was left out of the configuration read, which stale copies
// were used, and why.
func (s *Set) Notes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.notes...)
}

// userinfo is the credential in a URL, if any, for its host and path alone.
func userinfo(u *url.URL) clientconf.Credentials {
	if u.User == nil || u.Host == "" {
		return nil
	}
	pw, _ := u.User.Password()
	return clientconf.Credentials{{
		Host: u.Host, Path: u.Path, Scheme: u.Scheme, Exact: true, User: u.User.Username(), Password: pw,
	}}
}

// aptProxy makes apt's own proxy settings hold for the archives' hosts, as apt
// would: the most particular first, DIRECT for none.
func (s *Set) aptProxy(u *url.URL) (*url.URL, bool) {
	ours := false
	for _, a := range s.archives {
		ours = ours || a.base.Host == u.Host
	}
	if !ours {
		return nil, false
	}
	for _, name := range []string{
		"acquire::" + u.Scheme + "::proxy::" + strings.ToLower(u.Hostname()), "acquire::" + u.Scheme + "::proxy",
	} {
		switch v := s.aptConf[name]; {
		case v == "":
		case strings.EqualFold(v, "direct"):
			return nil, true
		default:
			p, err := url.Parse(v)
			return p, err == nil && p.Host != ""
		}
	}
	return nil, false
}

// newUpstream checks a configured URL and takes the credentials out of it.
func (s *Set) newUpstream(ecosystem, raw, source string) (upstream, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" || err == nil && u.Scheme == "file" && u.Host == ""
	if !ok {
		shown := "it"
		if err == nil && u.Opaque == "" {
			shown = fetch.Redact(u)
		}
		return upstream{}, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading the " + ecosystem + " mirror", Place: source,
			Message: shown + " is not an http, https or file URL",
			Remedy:  "write the mirror's URL in " + source,
		}
	}
	creds := userinfo(u)
	if ecosystem == OCI && len(creds) > 0 {
		creds[0].Path = "/v2" // a path in the URL is a prefix of names below it
	}
	s.client.Learn(creds)
	base := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}
	return upstream{ecosystem: ecosystem, base: base, source: source}, nil
}

// upstreams is where an ecosystem other than Debian is fetched from, in order.
func (s *Set) upstreams(ctx context.Context, ecosystem string) ([]upstream, error) {
	eco, known := ecosystemOf(ecosystem)
	if !known {
		return nil, &artifact.Error{Kind: artifact.KindInternal, Op: "finding the mirror", Message: "unknown ecosystem " + ecosystem}
	}
	var ups []upstream
	var urls []string
	if eco.setting != nil {
		urls = eco.setting(&s.cfg).URLs
	}
	s.mu.Lock()
	kept := s.configured[ecosystem]
	s.mu.Unlock()
	if len(urls) > 0 && slices.Equal(kept.urls, urls) {
		return kept.ups, nil
	}
	for _, raw := range urls {
		if ecosystem == Go && (raw == "direct" || raw == "off") {
			break
		}
		up, err := s.newUpstream(ecosystem, raw, s.place(ecosystem))
		if err != nil {
			return nil, err
		}
		up.anyError = true // several are there to stand in for one another
		ups = append(ups, up)
	}
	if len(urls) == 0 && eco.auto != nil {
		var err error
		if ups, err = eco.auto(s, ctx); err != nil {
			return nil, err
		}
	}
	if len(ups) == 0 {
		return nil, s.notConfigured(ecosystem)
	}
	if len(urls) > 0 {
		s.mu.Lock()
		s.configured[ecosystem] = configured{slices.Clone(urls), slices.Clip(ups)}
		s.mu.Unlock()
	}
	return ups, nil
}

func (s *Set) autoGo(ctx context.Context) []upstream {
	s.goOnce.Do(func() {
		list, source := clientconf.GoSetting(context.WithoutCancel(ctx), s.env, s.home, s.goEnv, "GOPROXY")
		proxies, _ := clientconf.ParseGoProxy(list)
		for _, p := range proxies {
			up, err := s.newUpstream(Go, p.URL, source)
			if err != nil {
				s.note("%v", err)
				continue
			}
			up.anyError = p.AnyError
			s.goUps = append(s.goUps, up)
		}
	})
	return s.goUps
}

func (s *Set) autoNpm(ctx context.Context) ([]upstream, error) {
	var err error
	s.npmOnce.Do(func() {
		registry, source := s.npm.Registry, s.npm.Source
		if registry == "" {
			registry, source = s.askNpm(context.WithoutCancel(ctx)), "npm config get registry"
		}
		if registry != "" {
			s.npmUp, err = s.newUpstream(Npm, registry, source)
		}
	})
	if s.npmUp.base == nil {
		return nil, err
	}
	return []upstream{s.npmUp}, nil
}

// notConfigured names the setting and the client's own file.
func (s *Set) notConfigured(ecosystem string) error {
	eco, _ := ecosystemOf(ecosystem)
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "finding the " + ecosystem + " mirror", Place: s.cfg.Place,
		Message: "none is configured",
		Remedy:  fmt.Sprintf("set %s: in mirrors.yaml or %s to the mirror's URL, or configure %s", ecosystem, overrideName(ecosystem), eco.client),
	}
}

// Endpoint is where an ecosystem is fetched from; of several the first. An
// ecosystem that is not configured gives an error that names the setting. A
// host once resolved is remembered, so that asking again touches no network.
func (s *Set) Endpoint(ecosystem string) (Endpoint, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var ups []upstream
	var err error
	if ecosystem == Debian {
		if ups = s.likelyArchives(); len(ups) == 0 {
			err = s.notConfigured(Debian)
		}
	} else {
		ups, err = s.upstreams(ctx, ecosystem)
	}
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Ecosystem: ecosystem, URL: fetch.Redact(ups[0].base), Source: ups[0].source}
	for _, up := range ups {
		e.Public = e.Public || s.netNames.remembered(ctx, up.base)
	}
	return e, nil
}
