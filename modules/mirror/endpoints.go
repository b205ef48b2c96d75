package mirror

import (
	"context"
	"strings"
	"time"

	"drydock/modules/mirror/internal/fetch"
)

// Endpoints are the mirrors there are, in the order to show them in: one of each
// of the ecosystems asked for (none: all) that is configured, and of git and files
// one for each prefix. Like Endpoint it touches no network for hosts it knows.
func (s *Set) Endpoints(of ...string) []Endpoint {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out []Endpoint
	for _, eco := range Ecosystems() {
		switch {
		case len(of) > 0 && !contains(of, eco):
		case eco == Git:
			for _, m := range s.cfg.Git {
				ups, _, _ := s.gitUpstreams(strings.Trim(m.Prefix, "/"))
				out = append(out, s.endpointsOf(ctx, m.Prefix, ups)...)
			}
		case eco == Files:
			for _, m := range s.cfg.Files {
				ups, _, _ := s.fileUpstreams(fileKey(m.Prefix) + "x") // any file below it
				out = append(out, s.endpointsOf(ctx, m.Prefix, ups)...)
			}
		default:
			if e, err := s.Endpoint(eco); err == nil { // else only the images that need it fail, when they ask
				out = append(out, e)
			}
		}
	}
	return out
}

// endpointsOf is what stands for a prefix: of several the first.
func (s *Set) endpointsOf(ctx context.Context, prefix string, ups []upstream) []Endpoint {
	if len(ups) == 0 {
		return nil
	}
	e := Endpoint{Ecosystem: ups[0].ecosystem, Prefix: prefix, URL: fetch.Redact(ups[0].base), Source: ups[0].source}
	for _, up := range ups {
		e.Public = e.Public || s.netNames.remembered(ctx, up.base)
	}
	return []Endpoint{e}
}

// Prefix is the prefix of git or files that a material's path is below, as the
// setting has it; "" of other ecosystems, and of what no prefix covers any more.
func (s *Set) Prefix(ecosystem, path string) string {
	switch ecosystem {
	case Git:
		return s.gitMirror(path).Prefix
	case Files:
		if m, _ := s.fileMirror(path); m != nil {
			return m.Prefix
		}
	}
	return ""
}
