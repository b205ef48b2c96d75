package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
)

// npmAt makes metadata that of a time: versions published later are not in it,
// and tags that named one name the newest that is left, unless it is known what
// they named.
func (s *Set) npmAt(w want, at time.Time, tags map[string]string) want {
	if at.IsZero() {
		return w
	}
	name, version := npmName(w.rel)
	full := npmMetaNow(w.up, name, npmFull)
	return derived(w, at, func(ctx context.Context) ([]byte, error) {
		doc, blob, err := s.read(ctx, full)
		if err != nil {
			return nil, err
		}
		out, err := npmCut(doc, at, tags)
		if err != nil {
			return nil, &artifact.Error{
				Kind: artifact.KindFault, Op: "taking it as of " + at.Format(time.RFC3339), Place: blob.Material.URL, Err: err,
				Remedy: "use a registry that states times, or leave --to out",
			}
		}
		if version == "" {
			return json.Marshal(out)
		}
		one, ok := out.version(version)
		if !ok {
			return nil, notFoundError(fetch.Redact(w.target()))
		}
		return json.Marshal(one)
	})
}

// npmDoc is a package's metadata as of a time: of each version what was
// published and clients install by, so that it stays the same whatever is said
// later (deprecations, signatures), and whichever registry says it.
type npmDoc struct {
	Name     string                    `json:"name"`
	Tags     map[string]string         `json:"dist-tags"`
	Time     map[string]time.Time      `json:"time"`
	Versions map[string]map[string]any `json:"versions"`
}

// npmPublished are those fields of a version (the registry's documentation,
// "package metadata", and scripts, which the full form has).
var npmPublished = []string{
	"name", "version", "dependencies", "optionalDependencies", "devDependencies", "peerDependencies", "peerDependenciesMeta",
	"bundleDependencies", "bundledDependencies", "acceptDependencies", "bin", "directories", "engines", "os", "cpu", "libc",
	"hasInstallScript", "_hasShrinkwrap", "scripts",
}

// version is one version's metadata, by number or tag.
func (d npmDoc) version(name string) (map[string]any, bool) {
	if v, ok := d.Tags[name]; ok {
		name = v
	}
	one, ok := d.Versions[name]
	return one, ok
}

// npmCut leaves out of metadata what was published after a time, and all that
// may change. tags, if they are known, are what tags named then.
func npmCut(doc []byte, at time.Time, tags map[string]string) (npmDoc, error) {
	var in struct {
		Name     string                    `json:"name"`
		Tags     map[string]string         `json:"dist-tags"`
		Time     map[string]any            `json:"time"`
		Versions map[string]map[string]any `json:"versions"`
	}
	if err := json.Unmarshal(doc, &in); err != nil {
		return npmDoc{}, err
	}
	if len(in.Time) == 0 {
		return npmDoc{}, errors.New("the registry does not state when versions were published")
	}
	out := npmDoc{Name: in.Name, Tags: map[string]string{}, Time: map[string]time.Time{}, Versions: map[string]map[string]any{}}
	for v, all := range in.Versions {
		said, _ := in.Time[v].(string)
		if t, err := time.Parse(time.RFC3339, said); err == nil && !t.After(at) {
			out.Time[v], out.Versions[v] = t.UTC(), npmVersion(in.Name, v, all)
		}
	}
	if tags != nil {
		out.Tags = tags
		return out, nil
	}
	maps.Copy(out.Tags, in.Tags)
	retag(out.Tags, out.Versions)
	return out, nil
}

// npmVersion is a version as it was published. Where its tarball is, a client is
// told by us, and we find it in the registry's own metadata.
func npmVersion(name, version string, all map[string]any) map[string]any {
	out := map[string]any{}
	for _, field := range npmPublished {
		if v, ok := all[field]; ok {
			out[field] = v
		}
	}
	dist := map[string]any{}
	said, _ := all["dist"].(map[string]any)
	for _, field := range []string{"integrity", "shasum"} {
		if v, ok := said[field]; ok {
			dist[field] = v
		}
	}
	if said != nil {
		dist["tarball"] = npmTarball(name, version)
		out["dist"] = dist
	}
	return out
}

// NpmTags is what tags name in metadata made as of a time, which a lock has to
// keep, for tags move and say of no time.
func (s *Set) NpmTags(m artifact.Material) (map[string]string, error) {
	file, _, _ := strings.Cut(m.Path, "?")
	if m.Ecosystem != Npm || !isNpmMeta(file) {
		return nil, nil
	}
	blob, _, ok := s.store.Blob(m.Digest, m.Size)
	if !ok {
		return nil, nil
	}
	b, err := os.ReadFile(blob)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Tags    map[string]string `json:"dist-tags"`
		Version string            `json:"version"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("reading the metadata of %s: %w", m.Path, err)
	}
	if _, tag := npmName(file); tag != "" && doc.Version != "" && tag != doc.Version {
		return map[string]string{tag: doc.Version}, nil
	}
	return doc.Tags, nil
}

// retag takes away the tags of versions that are not there; latest becomes the
// newest that is.
func retag(tags map[string]string, versions map[string]map[string]any) {
	var all []string
	for v := range versions {
		all = append(all, "v"+v)
	}
	newest := strings.TrimPrefix(newestVersion(all), "v")
	for tag, v := range tags {
		if _, there := versions[v]; there {
			continue
		}
		delete(tags, tag)
		if tag == "latest" && newest != "" {
			tags[tag] = newest
		}
	}
}
