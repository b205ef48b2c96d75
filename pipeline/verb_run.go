package main

import (
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/pipeline/line"
	"drydock/pipeline/report"
)

func (p *program) runVerb() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "the main job: build, inspect, sign, push to quarantine and promote what passes",
		Description: `Reads the catalog, plans, and for every image resolves its bases, builds it,
makes its SBOM, scans it, runs its black-box tests, pushes it by digest to the
first stage (quarantine), signs it and its evidence, and promotes it to the
next stage when every gate passes. A change request never goes past
quarantine, and neither does a context that is not a clean commit.

Writes summary.json, SBOMs, scans and JUnit files to --out; prints a table, or
the summary with --json. Exits 1 when a gate said no.`,
		Flags:  buildFlags(),
		Action: p.verb(p.run),
	}
}

func (p *program) run(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	summary, err := ses.runLine(c, line.Options{})
	if err != nil {
		return err
	}
	if err := summary.WriteFile(filepath.Join(s.Out, "summary.json")); err != nil {
		return err
	}
	return p.printSummary(summary, s.JSON)
}

// runLine plans, runs and closes the line.
func (s *session) runLine(c *cli.Context, o line.Options) (summary report.Summary, err error) {
	defer func() {
		if cerr := s.close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	pl, err := s.plan(c.Context, nil)
	if err != nil {
		return summary, err
	}
	if err := writable(s.Out); err != nil {
		return summary, err
	}
	summary, err = s.line.Run(c.Context, pl, o)
	if oerr := s.line.WriteObserved(c.Context, failedImages(summary)); err == nil {
		err = oerr
	}
	s.line.ExportCaches()
	return summary, err
}

// failedImages names the images that could not be built.
func failedImages(s report.Summary) []string {
	var out []string
	for _, img := range s.Images {
		if img.Error != nil && !slices.Contains(out, img.Image) {
			out = append(out, img.Image)
		}
	}
	return out
}

func (p *program) printSummary(s report.Summary, asJSON bool) error {
	if asJSON {
		raw, err := s.Marshal()
		if err != nil {
			return err
		}
		if _, err := p.out.Write(raw); err != nil {
			return err
		}
	} else if err := report.PrintTable(p.out, s, width(p.out)); err != nil {
		return err
	}
	if s.Exit == artifact.ExitInterrupted {
		return artifact.ErrInterrupted
	}
	return exitWith(s.Exit)
}
