package line

import (
	"path/filepath"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/modules/registry"
	"drydock/pipeline/plan"
)

// ParseCaches reads what --cache-from and --cache-to say: caches separated by
// spaces, each a directory, type=local,dest=DIR or type=registry,ref=REF.
// Relative directories are made absolute.
func ParseCaches(flag, text string) ([]engine.Cache, error) {
	var out []engine.Cache
	for _, word := range strings.Fields(text) {
		c, problem := parseCache(word)
		if problem != "" {
			return nil, &artifact.Error{
				Kind: artifact.KindUsage, Op: "reading command line", Place: "--" + flag + " " + word, Message: problem,
				Remedy: "write it as DIR, type=local,dest=DIR or type=registry,ref=registry.example/team/cache:tag",
			}
		}
		if c.Dir != "" {
			abs, err := filepath.Abs(c.Dir)
			if err != nil {
				return nil, err
			}
			c.Dir = abs
		}
		out = append(out, c)
	}
	return out, nil
}

func parseCache(word string) (c engine.Cache, problem string) {
	if !strings.HasPrefix(word, "type=") {
		if strings.Contains(word, "=") {
			return c, "does not say its type"
		}
		return engine.Cache{Dir: word}, ""
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(word, "type="), ",")
	if kind != "local" && kind != "registry" {
		return c, "has no type " + kind
	}
	for _, pair := range strings.FieldsFunc(rest, func(r rune) bool { return r == ',' }) {
		key, value, _ := strings.Cut(pair, "=")
		switch kind + " " + key {
		case "local dest", "local src":
			c.Dir = value
		case "registry ref":
			c.Registry = value
		default:
			if pair != "mode=max" { // there is no other
				return c, "has no " + pair
			}
		}
	}
	return c, incomplete(c, kind)
}

func incomplete(c engine.Cache, kind string) string {
	switch {
	case kind == "local" && c.Dir == "":
		return "names no directory"
	case kind == "registry" && !strings.Contains(c.Registry, "/"):
		return "names no repository"
	}
	return ""
}

// The two halves of every cache: what a change request wrote is never read by
// a run whose results are promoted.
const (
	trustedCache   = "trusted"
	untrustedCache = "untrusted"
)

// half is a cache's part for one kind of trust: a sub-directory, or a tag.
func half(c engine.Cache, which string) engine.Cache {
	if c.Dir != "" {
		c.Dir = filepath.Join(c.Dir, which)
		return c
	}
	if strings.LastIndex(c.Registry, ":") < strings.LastIndex(c.Registry, "/") {
		c.Registry += ":latest"
	}
	if which == untrustedCache {
		c.Registry += "-" + untrustedCache
	}
	return c
}

// trusted says whether a run was started by something that was reviewed.
func trusted(trigger string) bool {
	switch plan.Trigger(trigger) {
	case plan.Branch, plan.Tag, plan.Schedule:
		return true
	}
	return false
}

// readCaches are the halves this run may read, the trusted ones first.
func (l *Line) readCaches() []engine.Cache {
	var out []engine.Cache
	for _, c := range l.cfg.CacheFrom {
		out = append(out, half(c, trustedCache))
	}
	if !trusted(l.cfg.Trigger) {
		for _, c := range l.cfg.CacheFrom {
			out = append(out, half(c, untrustedCache))
		}
	}
	return out
}

// writeCaches are the halves this run may write.
func (l *Line) writeCaches() []engine.Cache {
	which := untrustedCache
	if trusted(l.cfg.Trigger) {
		which = trustedCache
	}
	var out []engine.Cache
	for _, c := range l.cfg.CacheTo {
		out = append(out, half(c, which))
	}
	return out
}

// cacheRegistries reaches the registries that caches are in; nil when none is.
func (l *Line) cacheRegistries() (*registry.Client, error) {
	for _, c := range append(l.readCaches(), l.writeCaches()...) {
		if c.Registry != "" {
			return registry.NewClient(registry.Options{Environ: l.cfg.Environ, Trust: l.trust()})
		}
	}
	return nil, nil
}

// ExportCaches writes what the run's engine has built to the caches it may
// write, if it had an engine. What comes of it is told, and fails no run.
func (l *Line) ExportCaches() {
	e, ok := l.engine.peek()
	if !ok || l.ctx.Err() != nil {
		return
	}
	if err := e.ExportCache(l.ctx); err != nil {
		l.note("the cache was not exported: %v", err)
	}
}
