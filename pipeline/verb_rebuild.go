package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/pipeline/line"
)

// rebuild builds subjects again and prints what came of each.
func (p *program) rebuild(c *cli.Context, s settings) error {
	if c.String("stage") != "" {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--stage",
			Message: "no gate is asked with --rebuild", Remedy: "leave one of the two out",
		}
	}
	sub, err := subjects(c)
	if err != nil {
		return err
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	done, err := ses.line.Rebuild(c.Context, sub, line.RebuildOptions{TrustKey: c.String("trust-key"), Attest: c.Bool("attest"), Load: p.sourcesAt(c, s)})
	if cerr := ses.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	exit := rebuildExit(done)
	if s.JSON {
		if err := printJSON(p.out, map[string]any{"version": 1, "subjects": done, "exit": exit}); err != nil {
			return err
		}
		return exitWith(exit)
	}
	for _, d := range done {
		printRebuilt(p.out, d)
	}
	return exitWith(exit)
}

// sourcesAt reads the catalog of a checkout as it is read now: with the project
// of then, and the catalog that named, where there is a project now.
func (p *program) sourcesAt(c *cli.Context, s settings) func(context.Context, string) (line.Sources, error) {
	return func(ctx context.Context, dir string) (line.Sources, error) {
		if s.Project == "" {
			if err := ofProject(dir); err != nil {
				return line.Sources{}, err
			}
			cat, err := catalog.Load(os.DirFS(dir), filepath.Base(dir))
			return line.Sources{Catalog: cat, CatalogDir: dir}, err
		}
		then := s
		then.Project = filepath.Join(dir, filepath.Base(s.Project))
		raw, err := os.ReadFile(then.Project)
		if err != nil {
			return line.Sources{}, &artifact.Error{Kind: artifact.KindUsage, Op: "reading project", Place: filepath.Base(s.Project), Err: err}
		}
		if then.project, err = catalog.ReadProject(filepath.Base(s.Project), raw); err != nil {
			return line.Sources{}, err
		}
		then.From = maps.Clone(s.From)
		if s.project.Catalog != "" && s.From["catalog"] == s.project.At("catalog") {
			then.From["catalog"] = fromDefault
		}
		if err := then.chooseCatalog(c.String("catalog")); err != nil {
			return line.Sources{}, err
		}
		if _, err := os.Stat(then.Catalog); err != nil && !then.catalogRef.Pinned() {
			then.Catalog = s.Catalog // outside of the repository: as it is now
		}
		cat, catalogDir, err := p.openCatalog(ctx, then)
		return line.Sources{Catalog: cat, CatalogDir: catalogDir, ProjectDir: dir}, err
	}
}

// ofProject refuses a checkout that is a project's, and no catalog.
func ofProject(dir string) error {
	_, err := os.Stat(filepath.Join(dir, catalog.ProjectFile))
	if _, none := os.Stat(filepath.Join(dir, "stages.yaml")); err != nil || none == nil {
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "building again", Place: catalog.ProjectFile, Message: "the image is of a project, and no project is given",
		Remedy: "run in the folder of its repository that has " + catalog.ProjectFile + ", or name that with --project",
	}
}

// rebuildExit is the worst of all: a usage error, a difference, a fault.
func rebuildExit(done []line.Rebuilt) int {
	seen := map[int]bool{}
	for _, d := range done {
		seen[d.Exit] = true
	}
	for _, exit := range []int{artifact.ExitUsage, artifact.ExitGate, artifact.ExitFault} {
		if seen[exit] {
			return exit
		}
	}
	return artifact.ExitOK
}

func printRebuilt(w io.Writer, d line.Rebuilt) {
	if d.Report == nil {
		fmt.Fprintf(w, "%s cannot be told: %s\n", d.Subject, d.Reason)
		for _, r := range d.Remedies {
			fmt.Fprintf(w, "  %s\n", r)
		}
		return
	}
	r := d.Report
	how := strings.Trim(r.Builder.Engine+" engine, "+r.Builder.Tier+" "+r.Builder.Mode, ", ")
	fmt.Fprintf(w, "%s %s: built again from commit %s (%s)\n", d.Subject, r.Outcome, r.Revision, how)
	if r.Outcome == artifact.RebuildDiffers {
		fmt.Fprintf(w, "  now it is %s\n", r.Rebuilt)
	}
	for _, one := range r.Platforms {
		printPlatform(w, one)
	}
	for _, f := range r.Index {
		fmt.Fprintf(w, "  %s: %s -> %s\n", f.Field, f.Was, f.Now)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
	if d.Attested {
		fmt.Fprintf(w, "  attested as %s\n", artifact.PredicateRebuild)
	}
}

func printPlatform(w io.Writer, one artifact.RebuiltOne) {
	switch {
	case one.Was == "":
		fmt.Fprintf(w, "  %s: added, %s\n", one.Platform, one.Now)
		return
	case one.Now == "":
		fmt.Fprintf(w, "  %s: removed, %s\n", one.Platform, one.Was)
		return
	case one.Diff == nil:
		fmt.Fprintf(w, "  %s: identical, %s\n", one.Platform, one.Was)
		return
	}
	fmt.Fprintf(w, "  %s: %s -> %s\n", one.Platform, one.Was, one.Now)
	for _, f := range one.Diff.Config {
		fmt.Fprintf(w, "    config %s: %s -> %s\n", f.Field, orNone(f.Was), orNone(f.Now))
	}
	for _, l := range one.Diff.Layers {
		fmt.Fprintf(w, "    layer %d (%s)\n", l.Index, l.Instruction)
		if l.Note != "" {
			fmt.Fprintf(w, "      %s\n", l.Note)
		}
		for _, f := range l.Files {
			fmt.Fprintf(w, "      %s %s: %s\n", strings.Join(f.Changes, ", "), f.Path, change(f))
			if f.Hint != "" {
				fmt.Fprintf(w, "        %s\n", f.Hint)
			}
		}
		if l.More > 0 {
			fmt.Fprintf(w, "      and %d more\n", l.More)
		}
	}
}

func change(f artifact.FileDiff) string {
	switch {
	case f.Was == "":
		return f.Now
	case f.Now == "":
		return f.Was
	}
	return f.Was + " -> " + f.Now
}
