package line

import (
	"context"
	"fmt"
	"strings"

	"drydock/catalog"
	"drydock/modules/base"
	"drydock/modules/dockerfile"
	"drydock/modules/mirror"
)

// On an engine of others RUN has that engine's own network and no gateway: the
// clients in it are told where the mirrors are by mounts, which are part of no
// layer. Credentials are not handed out; a mirror that wants them needs the
// embedded engine.

// The secrets that carry it.
const (
	secretApt = "drydock-apt-sources" //nolint:gosec // a name
	secretGo  = "drydock-goproxy"
	secretSum = "drydock-gosumdb"
	secretNpm = "drydock-npm-registry"
)

// withMirrors gives every RUN of a rewritten Dockerfile the mirrors' addresses, or
// in their place, for a sealed build, a mount with all that is locked.
func (l *Line) withMirrors(ctx context.Context, o *order, refs map[string]string) ([]byte, map[string]string, error) {
	img, v := o.img, o.variant
	u, err := l.sealable(o)
	if err != nil {
		return nil, nil, err
	}
	set, err := l.mirrors.get()
	if err != nil {
		return nil, nil, err
	}
	addresses, err := l.addresses(ctx, o, u, set)
	if err != nil {
		return nil, nil, err
	}
	text := o.text
	secrets := map[string]string{}
	add := func(on map[string]bool, id, where, value string) error {
		f, err := dockerfile.Parse(img.DockerfilePath, text)
		if err != nil {
			return err
		}
		secrets[id] = value
		text, err = f.MountInRuns(on, "type=secret,id="+id+","+where)
		return err
	}
	if on := l.debianRefs(refs, v); len(on) > 0 {
		sources, err := set.Debian(ctx)
		if err != nil {
			return nil, nil, err
		}
		if u != nil {
			sources = sealedSources(sources)
		}
		if err := add(on, secretApt, "mode=0444,target=/etc/apt/sources.list.d/debian.sources", aptSources(sources)); err != nil {
			return nil, nil, err
		}
	}
	for _, e := range []struct{ id, variable string }{
		{secretGo, "GOPROXY"}, {secretSum, "GOSUMDB"}, {secretNpm, "npm_config_registry"},
	} {
		if addresses[e.variable] == "" {
			continue // the images that need it will say so
		}
		if err := add(nil, e.id, "env="+e.variable, addresses[e.variable]); err != nil {
			return nil, nil, err
		}
	}
	return text, secrets, nil
}

// addresses are those of the mirrors, or of what is in the mount, by the variables
// that clients read them from.
func (l *Line) addresses(ctx context.Context, o *order, u *underLock, set *mirror.Set) (map[string]string, error) {
	if u != nil {
		return l.seal(ctx, o, u)
	}
	if _, err := l.egress.get(); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for ecosystem, variable := range map[string]string{mirror.Go: "GOPROXY", mirror.Npm: "npm_config_registry"} {
		if at, err := set.Endpoint(ecosystem); err == nil {
			out[variable] = at.URL
		}
	}
	return out, nil
}

// debianRefs are the engine's spellings of the configured Debian bases.
func (l *Line) debianRefs(refs map[string]string, v *catalog.Variant) map[string]bool {
	on := map[string]bool{}
	for _, r := range v.Refs {
		if b, ok := l.cfg.Catalog.Base(r.Base); ok && b.Kind == base.KindDebian && b.Variant == base.VariantFull {
			on[refs[r.Spelling]] = true
		}
	}
	return on
}

// aptSources is the mirrors' own addresses as apt reads them (sources.list(5),
// deb822).
func aptSources(sources []mirror.DebianSource) string {
	var out strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&out, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n",
			s.URI, strings.Join(s.Suites, " "), strings.Join(s.Components, " "))
	}
	return out.String()
}
