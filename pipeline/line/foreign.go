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
	secretNpm = "drydock-npm-registry"
)

// withMirrors gives every RUN of a rewritten Dockerfile the mirrors' addresses.
func (l *Line) withMirrors(ctx context.Context, img *catalog.Image, text []byte, refs map[string]string, v *catalog.Variant) ([]byte, map[string]string, error) {
	set, err := l.mirrors.get()
	if err != nil {
		return nil, nil, err
	}
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
		sources, err := aptSources(ctx, set)
		if err != nil {
			return nil, nil, err
		}
		if err := add(on, secretApt, "mode=0444,target=/etc/apt/sources.list.d/debian.sources", sources); err != nil {
			return nil, nil, err
		}
	}
	for _, e := range []struct{ ecosystem, id, variable string }{
		{mirror.Go, secretGo, "GOPROXY"}, {mirror.Npm, secretNpm, "npm_config_registry"},
	} {
		at, err := set.Endpoint(e.ecosystem)
		if err != nil {
			continue // the images that need it will say so
		}
		if err := add(nil, e.id, "env="+e.variable, at.URL); err != nil {
			return nil, nil, err
		}
	}
	return text, secrets, nil
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
func aptSources(ctx context.Context, set *mirror.Set) (string, error) {
	sources, err := set.Debian(ctx)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, s := range sources {
		fmt.Fprintf(&out, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n",
			s.URI, strings.Join(s.Suites, " "), strings.Join(s.Components, " "))
	}
	return out.String(), nil
}
