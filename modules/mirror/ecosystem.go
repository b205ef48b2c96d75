package mirror

import (
	"context"
	"net/http"
)

// ecosystem is all this package has to know of one kind of mirror. A new one is
// a file like pypi.go with such a value, its line in ecosystems, its setting in
// Config and, if its client has to be told of the gateway, a variable in the
// executor's environment of steps.
type ecosystem struct {
	name string
	// setting is where Config has it; nil: it has settings of another form.
	setting func(*Config) *Setting
	// client is where else its mirror may be configured, for errors.
	client string
	// auto is what the client's own configuration says; nil: nothing does.
	auto func(*Set, context.Context) ([]upstream, error)
	// mutable says whether a file may change under its path.
	mutable func(rel string) bool
	// purl names the package a file is; "" for files that are none. nil: all.
	purl func(rel string) string
	// want is how a file is fetched; nil: from its path below the mirror.
	want func(*Set, want) want
	// asked is what a lock calls a path; nil: the path.
	asked func(rel string, h http.Header) string
	// serve answers a step; nil: the first mirror that has the file does.
	serve func(g *Gateway, w http.ResponseWriter, r *http.Request, rel string)
	// pinned is where a file a lock names may be had from one mirror, in order;
	// nil: where want says.
	pinned  func(s *Set, ctx context.Context, up upstream, rel string, h http.Header) []want
	posts   bool // its clients also send POST requests to read
	ownLock bool // serve sees to locks itself
	// upstreams is where one file may be had, and its path there; nil: at every
	// mirror of the setting.
	upstreams func(s *Set, rel string) (ups []upstream, below string, ok bool)
	// route finds addresses of its own other than its mirrors'; nil: none.
	route func(s *Set, hostPath string) (rel string, ok bool)
	// hosts is whose those addresses may be, with their ports; nil: nobody's.
	hosts func(s *Set) []string
}

// kind is an ecosystem by name, made when it is asked for: that is cheap, and
// requests ask often.
type kind struct {
	name string
	of   func() ecosystem
}

// kinds lists them in the order they are shown and asked in.
func kinds() [7]kind {
	return [...]kind{
		{Debian, debianEcosystem}, {Go, goEcosystem}, {Npm, npmEcosystem}, {OCI, ociEcosystem}, {PyPI, pypiEcosystem},
		{Git, gitEcosystem}, {Files, filesEcosystem},
	}
}

// ecosystems is all of them.
func ecosystems() []ecosystem {
	var out []ecosystem
	for _, k := range kinds() {
		out = append(out, k.of())
	}
	return out
}

// Ecosystems is the names of all of them, in the order to show them in.
func Ecosystems() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.name)
	}
	return out
}

func ecosystemOf(name string) (ecosystem, bool) {
	for _, k := range kinds() {
		if k.name == name {
			return k.of(), true
		}
	}
	return ecosystem{}, false
}

func debianEcosystem() ecosystem {
	return ecosystem{
		name: Debian, setting: func(c *Config) *Setting { return &c.Debian }, client: "apt's sources (/etc/apt/sources.list.d)",
		mutable: debianMutable, purl: debianPURL,
		want: func(s *Set, w want) want { return s.debianWant(w.up, w.rel) },
		serve: func(g *Gateway, w http.ResponseWriter, r *http.Request, rel string) {
			ups, below, err := g.archive(r.Context(), rel)
			if err != nil {
				g.fail(w, r, err)
				return
			}
			g.serveFirst(w, r, ups, func(up upstream) want { return g.set.wantOf(up, below).as(rel) })
		},
	}
}

func goEcosystem() ecosystem {
	return ecosystem{
		name: Go, setting: func(c *Config) *Setting { return &c.Go }, client: "GOPROXY (go env -w GOPROXY=…)",
		auto:    func(s *Set, ctx context.Context) ([]upstream, error) { return s.autoGo(ctx), nil },
		mutable: goMutable, purl: goPURL,
		want:  func(s *Set, w want) want { return s.goWant(w.up, w.rel) },
		asked: func(rel string, _ http.Header) string { return goAsked(rel) },
	}
}

func npmEcosystem() ecosystem {
	return ecosystem{
		name: Npm, setting: func(c *Config) *Setting { return &c.Npm }, client: "registry= in ~/.npmrc",
		auto:    (*Set).autoNpm,
		mutable: npmMutable, purl: npmPURL,
		asked: npmAsked, serve: (*Gateway).serveNpm, pinned: (*Set).npmPinned,
	}
}

func ociEcosystem() ecosystem {
	return ecosystem{
		name: OCI, setting: func(c *Config) *Setting { return &c.OCI }, client: "nothing else: no client's configuration names an OCI mirror",
		mutable: ociMutable, purl: ociPURL, want: (*Set).ociWant,
	}
}
