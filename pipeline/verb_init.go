package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/pipeline/changed"
	"drydock/pipeline/line"
	"drydock/pipeline/onboard"
	"drydock/pipeline/results"
)

func (p *program) initVerb() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "look at a repository and propose its drydock.yaml, and what the catalog lacks for it",
		ArgsUsage: "[DIR]",
		Description: `Finds Dockerfile*, *.Dockerfile and Containerfile* in DIR (default: here),
guesses name and context of each image and writes drydock.yaml there. Vendored
code, tests and their data, folders for tools, templates and what git ignores are left out
and listed. Prints which bases of the catalog stand for what FROM names, which
to add, which package managers in RUN have no mirror, and files fetched by ADD.
No Dockerfile is changed. A drydock.yaml that is there is not overwritten without
--force; with --dry-run nothing is written. --add-bases writes the bases proposed
into the catalog's directory, new files and more for standsFor: in those that are
there, except upstream images whose digest somebody has to look up. For golang and
node those are Debian with the toolchain and what RUN calls, for python, nginx and
openjdk what Debian has. Context, target and arguments are taken from compose and
bake files and a Makefile where these name them. Nothing else is written.`,
		Flags: append(commonFlags(), boolean("dry-run", "print the proposal and write nothing"), boolean("force", "overwrite a drydock.yaml"),
			boolean("add-bases", "write the bases proposed into the catalog, a directory, for review")),
		Action: func(c *cli.Context) error {
			s, err := readSettings(c, p.args, p.environ)
			if err == nil {
				err = s.chooseCatalog(c.String("catalog"))
			}
			if err != nil {
				return err
			}
			if c.Bool("print-config") {
				return printJSON(p.out, s)
			}
			return p.initProject(c, s)
		},
	}
}

func (p *program) initProject(c *cli.Context, s settings) error {
	dir := "."
	switch c.NArg() {
	case 0:
	case 1:
		dir = c.Args().First()
	default:
		return usageError(c, errors.New("more than one directory"), false)
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return &artifact.Error{Kind: artifact.KindUsage, Op: "looking for Dockerfiles", Place: dir, Message: "no such directory", Remedy: "give the folder of a repository: drydock init DIR"}
	}
	file := filepath.Join(dir, catalog.ProjectFile)
	if _, err := os.Lstat(file); err == nil && !c.Bool("force") && !c.Bool("dry-run") {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "writing project", Place: file, Message: "it is there already",
			Remedy: "see the proposal with --dry-run, or overwrite the file with --force",
		}
	}
	proposal, err := p.proposeAll(c, s, dir)
	if err != nil {
		return err
	}
	if !c.Bool("dry-run") {
		if err := results.WriteFile(file, []byte(proposal.Project)); err != nil {
			return &artifact.Error{Kind: artifact.KindUsage, Op: "writing project", Place: file, Err: err, Remedy: "give a directory that can be written"}
		}
	}
	if s.JSON {
		return printJSON(p.out, proposal)
	}
	if err := proposal.WriteText(p.out); err != nil {
		return err
	}
	if c.Bool("dry-run") {
		_, err = fmt.Fprintf(p.out, "\n%s would be:\n%s", file, proposal.Project)
	} else {
		_, err = fmt.Fprintf(p.out, "\nwrote %s; next: drydock plan, then drydock run once it is committed\n", file)
	}
	return err
}

// proposeAll proposes, and takes the bases proposed where that is asked for.
func (p *program) proposeAll(c *cli.Context, s settings, dir string) (*onboard.Proposal, error) {
	proposal, err := p.propose(c, s, dir)
	if err == nil && c.Bool("add-bases") {
		return p.addBases(c, s, dir, proposal)
	}
	return proposal, err
}

// addBases writes what is proposed into the catalog and proposes again. What the
// catalog's loader refuses is taken back.
func (p *program) addBases(c *cli.Context, s settings, dir string, proposal *onboard.Proposal) (*onboard.Proposal, error) {
	if s.catalogRef.Pinned() || c.Bool("dry-run") {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--add-bases", Message: "the catalog is named by commit or digest, or --dry-run is given",
			Remedy: "give the catalog's directory with --catalog DIR, and leave --dry-run out",
		}
	}
	added, err := proposal.AddBases(os.DirFS(s.Catalog))
	if err != nil {
		return nil, err
	}
	var undo []func() error
	for _, name := range slices.Sorted(maps.Keys(added.Files)) {
		file := filepath.Join(s.Catalog, filepath.FromSlash(name))
		before, err := os.ReadFile(file)
		if err == nil {
			undo = append(undo, func() error { return results.WriteFile(file, before) })
		} else {
			undo = append(undo, func() error { return os.Remove(file) })
		}
		if err = results.WriteFile(file, added.Files[name]); err != nil {
			err = &artifact.Error{Kind: artifact.KindUsage, Op: "adding bases", Place: file, Err: err, Remedy: "give a catalog that can be written"}
			return nil, errors.Join(err, takeBack(undo[:len(undo)-1]))
		}
	}
	again, err := p.propose(c, s, dir)
	if err != nil {
		return nil, errors.Join(err, takeBack(undo))
	}
	again.Added = append(again.Added, slices.Sorted(maps.Keys(added.Files))...)
	return again, nil
}

func takeBack(undo []func() error) (err error) {
	for _, f := range undo {
		err = errors.Join(err, f())
	}
	return err
}

func (p *program) propose(c *cli.Context, s settings, dir string) (*onboard.Proposal, error) {
	cat, catalogDir, err := p.openCatalog(c.Context, s)
	if err != nil {
		return nil, err
	}
	l := line.New(c.Context, line.Config{Catalog: cat, CatalogDir: catalogDir, Cache: s.Cache, Environ: p.environ})
	defer l.Close() //nolint:errcheck // nothing was opened
	set, err := l.MirrorSet()
	if err != nil {
		return nil, err
	}
	full, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	spec := c.String("catalog")
	if !s.catalogRef.Pinned() {
		if spec, err = filepath.Rel(full, s.Catalog); err != nil {
			spec = s.Catalog
		}
		spec = filepath.ToSlash(spec)
	}
	name := filepath.Base(full)
	if remote, err := p.git(c, full, nil, "config", "--get", "remote.origin.url"); err == nil {
		if u := strings.TrimSuffix(changed.Redact(strings.TrimSpace(remote)), ".git"); u != "" {
			name = u[strings.LastIndex(u, "/")+1:]
		}
	}
	proposal, err := onboard.Propose(onboard.Input{
		Files: os.DirFS(full), Name: name, Catalog: cat, Spec: spec,
		Mirror: func(ecosystem string) string {
			e, err := set.Endpoint(ecosystem)
			if err != nil {
				return ""
			}
			return e.URL
		},
		Ignored: func(paths []string) []string {
			out, err := p.git(c, full, []byte(strings.Join(paths, "\x00")), "check-ignore", "-z", "--stdin")
			if err != nil {
				return nil // no repository, no git, or nothing is ignored
			}
			return slices.DeleteFunc(strings.Split(out, "\x00"), func(s string) bool { return s == "" })
		},
	})
	var e *artifact.Error
	if errors.As(err, &e) && e.Place == "" {
		e.Place = dir
	}
	var inPath *fs.PathError
	if errors.As(err, &inPath) && e == nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "looking for Dockerfiles", Place: dir, Err: err, Remedy: "make it readable"}
	}
	return proposal, err
}

// git asks git about a folder; an error is no answer.
func (p *program) git(c *cli.Context, dir string, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(c.Context, "git", append([]string{"-C", dir, "-c", "core.fsmonitor=false"}, args...)...)
	cmd.Env = append(slices.DeleteFunc(slices.Clone(p.environ), func(kv string) bool {
		return strings.HasPrefix(kv, "GIT_DIR=") || strings.HasPrefix(kv, "GIT_WORK_TREE=") || strings.HasPrefix(kv, "GIT_INDEX_FILE=")
	}), "GIT_OPTIONAL_LOCKS=0")
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	return string(out), err
}
