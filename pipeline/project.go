package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/pipeline/catalogref"
)

// readProject finds the project file, the one named or the one of the working
// directory, and the catalog: the command line's, else the environment's, else
// the project's.
func (s *settings) readProject(c *cli.Context) error {
	file, named := c.String("project"), c.String("project") != ""
	if !named {
		file = catalog.ProjectFile
	} else if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, catalog.ProjectFile)
	}
	raw, err := os.ReadFile(file)
	switch {
	case err == nil:
		if s.project, err = catalog.ReadProject(filepath.ToSlash(file), raw); err != nil {
			return err
		}
		if s.Project, err = filepath.Abs(file); err != nil {
			return err
		}
	case named || !errors.Is(err, fs.ErrNotExist):
		var inPath *fs.PathError
		if errors.As(err, &inPath) {
			err = inPath.Err
		}
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading project", Place: file, Err: err,
			Remedy: "give a file that can be read with --project FILE, or make one with drydock init",
		}
	}
	return s.chooseCatalog(c.String("catalog"))
}

// chooseCatalog takes what flag or variable say, else the project.
func (s *settings) chooseCatalog(spec string) error {
	place, base, err := s.From["catalog"], "", error(nil)
	if place == fromDefault && s.project != nil {
		base = filepath.Dir(s.Project)
		if s.project.Catalog != "" {
			spec, place = s.project.Catalog, s.project.At("catalog")
			s.From["catalog"] = place
		}
	}
	if spec == "" { // an empty variable is none
		spec = defaultCatalog
	}
	if s.catalogRef, err = catalogref.Parse(spec, place); err != nil {
		return err
	}
	s.Catalog = spec
	if dir := s.catalogRef.Dir; dir != "" {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(base, dir)
		}
		s.Catalog, err = filepath.Abs(dir)
	}
	return err
}

// excludeOwn keeps what drydock writes below the project out of its contexts.
func (s *settings) excludeOwn() {
	if s.project == nil {
		return
	}
	for _, dir := range []string{s.Out, s.Cache, s.Data, s.Keys} {
		rel, err := filepath.Rel(filepath.Dir(s.Project), dir)
		if err == nil && rel != "." && filepath.IsLocal(rel) {
			s.project.Exclude = append(s.project.Exclude, filepath.ToSlash(rel))
		}
	}
}

// projectDir is the folder of the project file, "" without one.
func (s *settings) projectDir() string {
	if s.Project == "" {
		return ""
	}
	return filepath.Dir(s.Project)
}

// openCatalog fetches the catalog where it is named by commit or digest, and
// reads it, with the project's images if there is a project.
func (p *program) openCatalog(ctx context.Context, s settings) (cat *catalog.Catalog, dir string, err error) {
	ref := s.catalogRef
	name := ref.String()
	if ref.Pinned() {
		if err := private(s.Cache); err != nil {
			return nil, "", err
		}
		if dir, err = catalogref.Open(ctx, ref, catalogref.Options{Cache: s.Cache, Environ: p.environ, Offline: s.Offline}); err != nil {
			return nil, "", err
		}
	} else {
		dir = s.Catalog
		if s.noCatalog && s.project == nil && s.From["catalog"] == fromDefault && nothingAt(dir) {
			return catalog.MirrorsOnly("no catalog"), "", nil
		}
		if name, err = shownCatalog(dir, ref); err != nil {
			return nil, "", err
		}
	}
	if s.project == nil {
		cat, err = catalog.Load(os.DirFS(dir), name)
	} else {
		cat, err = catalog.LoadProject(os.DirFS(dir), name, s.project, os.DirFS(s.projectDir()))
	}
	return cat, dir, err
}

func nothingAt(dir string) bool {
	_, err := os.Stat(dir)
	return errors.Is(err, fs.ErrNotExist)
}

// shownCatalog is what errors call a catalog's directory, which must be there.
func shownCatalog(dir string, ref catalogref.Ref) (string, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		e := &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading catalog", Place: dir, Message: "no such directory",
			Remedy: "give the catalog's directory with --catalog DIR, or catalog: in " + catalog.ProjectFile,
		}
		if ref.LooksRemote() {
			e.Place, e.Remedy = ref.Dir, "a catalog from a registry is named by digest: REPOSITORY@sha256:…; crane digest "+ref.Dir+" says which it is now"
		}
		return "", e
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, dir); err == nil && len(rel) < len(dir) {
			return rel, nil
		}
	}
	return dir, nil
}

// effective is what --print-config shows.
type effective struct {
	settings
	Tightened []catalog.Tightened `json:"tightened,omitempty"` // what the project makes stricter
}

func (p *program) printConfig(ctx context.Context, s settings) error {
	out := effective{settings: s}
	if s.project != nil {
		cat, _, err := p.openCatalog(ctx, s)
		if err != nil {
			return err
		}
		out.Tightened = cat.Tightened
		if len(s.Images) == 0 {
			out.Images = cat.ProjectImages()
			out.From["images"] = s.project.At("images")
		}
	}
	return printJSON(p.out, out)
}

const (
	fromDefault    = "default"
	defaultCatalog = "catalog"
	defaultOut     = "out"
)

// sources says where each setting comes from: a flag, a variable, or nowhere.
func sources(c *cli.Context, args []string, environ []string) map[string]string {
	out := map[string]string{}
	given := func(flag string) string {
		for _, a := range args {
			name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
			if a == "--" {
				break
			}
			if strings.HasPrefix(a, "-") && name == flag {
				return "--" + flag
			}
		}
		if v := env(flag)[0]; lookup(environ, v) != "" {
			return v
		}
		return ""
	}
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		if name == "print-config" || name == "help" {
			continue
		}
		key := settingNamed(name)
		if out[key] = given(name); out[key] != "" {
			continue
		}
		out[key] = fromDefault
		if state := given("state"); state != "" && (name == "cache" || name == "data" || name == "keys") {
			out[key] = state
		}
	}
	return out
}

// settingNamed is a flag's name as --print-config spells it.
func settingNamed(flag string) string {
	if flag == "image" {
		return "images"
	}
	words := strings.Split(flag, "-")
	for i := 1; i < len(words); i++ {
		words[i] = strings.ToUpper(words[i][:1]) + words[i][1:]
	}
	return strings.Join(words, "")
}
