// Package changed says which images of a catalog a change touches, and whether
// what they are built from is a clean commit. It reads git and nothing else.
package changed

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
)

// Request is what to look at.
type Request struct {
	Base       string // Select: what to compare with, a branch, tag or commit; "" is the remote's default branch
	CatalogDir string // the catalog's directory, in the work tree of its repository
	ProjectDir string // folder of the project file, whose repository is the one asked about; "" without one
	Pinned     bool   // the catalog is a commit or digest the project names: it has no state of its own
	Catalog    *catalog.Catalog
	Environ    []string // environment of git; nil is this process's own
}

// Selection is the outcome of a comparison.
type Selection struct {
	MergeBase string            // the commit compared with
	Files     []string          // what changed, relative to the repository, sorted
	Images    []string          // images touched, in the catalog's order; never nil
	Why       map[string]string // for each image the file, or the image it builds on, that touched it
}

// State is what git says of a catalog.
type State struct {
	Revision string            // HEAD commit; "" outside git or before the first commit
	Ref      string            // full name of the ref HEAD is on, "" when detached
	Remote   string            // URI of the remote origin, without credentials; "" without one
	Folder   string            // of the catalog, or of the project, in the repository, "." at its top; "" outside git
	Dirty    map[string]string // images whose sources are not a clean commit, and why; never nil

	Absent map[string]Absence // images whose sources are not all checked out
}

// Select compares the work tree, with what is not yet committed or added, with
// the merge base of HEAD and the base. A history that does not reach back to
// it is refused: an empty answer would be a wrong one.
func Select(ctx context.Context, req Request) (*Selection, error) {
	g, err := open(ctx, req.top(), req.Environ)
	if err != nil {
		return nil, err
	}
	base, err := g.mergeBase(ctx, req.Base)
	if err != nil {
		return nil, err
	}
	files, err := g.changedSince(ctx, base)
	if err != nil {
		return nil, err
	}
	t := touching{catalog: req.Catalog, settings: true}
	t.add(g.dir, files, req.ProjectDir != "")
	if dir, ok := g.catalogIn(ctx, req); ok {
		t.add(dir, files, false)
	}
	touched := t.spread()
	sel := &Selection{MergeBase: base, Files: files, Images: []string{}, Why: touched}
	for i := range req.Catalog.Images {
		if _, ok := touched[req.Catalog.Images[i].Name]; ok {
			sel.Images = append(sel.Images, req.Catalog.Images[i].Name)
		}
	}
	return sel, nil
}

// Describe reads the state of the catalog's sources. A catalog that is in no
// repository has no clean commit: every image of it is dirty.
func Describe(ctx context.Context, req Request) (*State, error) {
	st := &State{Dirty: map[string]string{}}
	all := func(why string) (*State, error) {
		for i := range req.Catalog.Images {
			st.Dirty[req.Catalog.Images[i].Name] = why
		}
		return st, nil
	}
	g, err := open(ctx, req.top(), req.Environ)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return all(reason(err))
	}
	if st.Revision, err = g.line(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil {
		return all("nothing is committed yet")
	}
	st.Folder = g.dir
	st.Ref, _ = g.line(ctx, "symbolic-ref", "--quiet", "HEAD")
	remote, _ := g.line(ctx, "config", "--get", "remote.origin.url")
	st.Remote = Redact(remote)
	files, err := g.dirtyFiles(ctx)
	if err != nil {
		return nil, err
	}
	t := touching{catalog: req.Catalog}
	t.add(g.dir, files, req.ProjectDir != "")
	st.Absent = map[string]Absence{}
	if err := g.absent(ctx, req.Catalog, req.ProjectDir != "", st.Absent); err != nil {
		return nil, err
	}
	if req.ProjectDir != "" && !req.Pinned {
		c, err := open(ctx, req.CatalogDir, req.Environ)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return all("its catalog: " + reason(err))
		}
		if files, err = c.dirtyFiles(ctx); err != nil {
			return nil, err
		}
		t.add(c.dir, files, false)
		if err := c.absent(ctx, req.Catalog, false, st.Absent); err != nil {
			return nil, err
		}
	}
	st.Dirty = t.spread()
	return st, nil
}

// top is the directory whose repository is asked about.
func (r Request) top() string {
	if r.ProjectDir != "" {
		return r.ProjectDir
	}
	return r.CatalogDir
}

// reason is the message of an error without what was being done.
func reason(err error) string {
	var e *artifact.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}

// touching maps files of repositories to the images they are part of, directly
// or along the FROM graph. Files of the catalog that decide over every image
// count for all of them when settings is set.
type touching struct {
	catalog    *catalog.Catalog
	settings   bool
	why, bases map[string]string
}

// add takes files of a repository in which dir is the catalog's folder, or the
// project's.
func (t *touching) add(dir string, files []string, project bool) {
	if t.why == nil {
		t.why, t.bases = map[string]string{}, map[string]string{}
	}
	c := t.catalog
	for _, file := range files {
		rel, ok := under(dir, file)
		if !ok {
			continue
		}
		for i := range c.Images {
			img := &c.Images[i]
			if !project && t.settings && isSetting(rel) || img.Project == project && partOf(img, rel) {
				note(t.why, img.Name, file)
			}
		}
		for _, b := range c.Bases {
			if !project && (rel == b.File || rel == b.LockPath) {
				note(t.bases, b.Name, file)
			}
		}
	}
}

func (t *touching) spread() map[string]string {
	spread(t.catalog, t.why, t.bases)
	return t.why
}

func note(m map[string]string, key, why string) {
	if _, ok := m[key]; !ok {
		m[key] = why
	}
}

// spread follows the FROM graph from what is touched until nothing is added.
func spread(c *catalog.Catalog, why, bases map[string]string) {
	for grew := true; grew; {
		grew = false
		for i := range c.Images {
			img := &c.Images[i]
			if _, ok := why[img.Name]; ok {
				continue
			}
			for _, v := range img.Variants {
				for _, r := range v.Refs {
					_, image := why[r.Image]
					file, base := bases[r.Base]
					switch {
					case r.Image != "" && image:
						note(why, img.Name, "image "+r.Image)
						grew = true
					case r.Base != "" && base:
						note(why, img.Name, file)
						grew = true
					}
				}
			}
		}
	}
}

// isSetting says whether a file of the catalog decides over every image.
func isSetting(rel string) bool {
	return rel == "mirrors.yaml" || rel == catalog.FrontendsFile || strings.HasPrefix(rel, "emulators.") || rel == "stages.yaml" || strings.HasPrefix(rel, "policies/")
}

// partOf says whether a file of the catalog is one an image is made of. Git
// names a submodule by its folder: it stands for all that is below.
func partOf(img *catalog.Image, rel string) bool {
	if wholly(img, rel) {
		return true
	}
	for _, c := range img.NamedContexts {
		if in, ok := under(c.Dir, rel); ok && (in == ".dockerignore" || !ignored(c.Ignore, in)) {
			return true
		}
	}
	in, ok := under(img.ContextDir, rel)
	if !ok {
		return false
	}
	if in == ".dockerignore" || rel == img.DockerfilePath+".dockerignore" {
		return true
	}
	if img.Parsed == nil {
		return true
	}
	return slices.ContainsFunc(img.Parsed.ContextPaths(), func(p string) bool { return covers(p, in) }) && !ignored(img.Ignore, in)
}

// wholly says whether all of a file or folder counts, without a look at what the
// Dockerfile copies and .dockerignore leaves out.
func wholly(img *catalog.Image, rel string) bool {
	locks := "locks"
	if img.Project {
		locks = catalog.ProjectLocks
	}
	parts := append([]string{img.File, img.DockerfilePath, img.ContextDir, path.Join(locks, img.Name+".json")}, img.StructurePaths...)
	for _, c := range img.NamedContexts {
		parts = append(parts, c.Dir)
	}
	return slices.ContainsFunc(parts, func(p string) bool {
		_, below := under(rel, p)
		return rel == p || below
	})
}

// covers says whether COPY of a path, or of what a wildcard matches, takes a
// file of the context along.
func covers(pattern, file string) bool {
	if _, below := under(file, pattern); below || pattern == "." {
		return true
	}
	for p := file; p != "."; p = path.Dir(p) {
		if p == pattern {
			return true
		}
		if ok, err := path.Match(pattern, p); ok || err != nil {
			return true // a pattern that cannot be judged is taken to match
		}
	}
	return false
}

// under gives a slash path relative to a directory that holds it.
func under(dir, file string) (string, bool) {
	if dir == "." || dir == "" {
		return file, true
	}
	return strings.CutPrefix(file, dir+"/")
}

func usage(place, message, remedy string) error {
	return &artifact.Error{Kind: artifact.KindUsage, Op: "finding what changed", Place: place, Message: message, Remedy: remedy}
}

func fault(place string, err error) error {
	return fmt.Errorf("finding what changed in %s: %w", place, err)
}
