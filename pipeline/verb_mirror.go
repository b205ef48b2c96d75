package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/pipeline/line"
	"drydock/pipeline/report"
)

func (p *program) mirrorVerb() *cli.Command {
	return &cli.Command{
		Name:  "mirror",
		Usage: "lock what images fetch from the mirrors, and move the locks forward",
		Subcommands: []*cli.Command{
			{
				Name: "lock", Usage: "write what images' steps fetch into the catalog's locks, for review",
				Description: `Builds the chosen images (none: all) and writes every file their steps fetched to
<catalog>/locks/<image>.json: mirror-relative path, digest, size, package and
step, with bases, epoch and the versions that made it. run --locked then refuses
whatever is not in it, and serves apt, go and npm the very indexes and metadata
it pins. Steps that are cached are locked as they were built; where that is not
known, or does not fit together, they run again.`,
				Flags:  engineFlags(),
				Action: p.verb(func(c *cli.Context, s settings) error { return p.lockImages(c, s) }),
			},
			p.mirrorUpdateVerb(),
		},
	}
}

func (p *program) lockImages(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if s.Locked {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--locked",
			Message: "locks are made from what mirrors serve", Remedy: "leave it out",
		}
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	locked, err := ses.lock(c)
	if cerr := ses.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return p.printLocked(s, locked)
}

func (s *session) lock(c *cli.Context) (*line.Locked, error) {
	pl, err := s.plan(c.Context, nil)
	if err != nil {
		return nil, err
	}
	return s.line.LockImages(c.Context, pl, false)
}

func (p *program) printLocked(s settings, locked *line.Locked) error {
	if len(locked.Failed) > 0 {
		return p.printSummary(report.Summary{Version: 1, Images: locked.Failed, Exit: exitOfFailed(locked.Failed)}, s.JSON)
	}
	if s.JSON {
		return printJSON(p.out, map[string]any{"version": 1, "images": locked.Images})
	}
	for _, l := range locked.Images {
		state := "unchanged"
		if l.Written {
			state = "written"
		}
		fmt.Fprintf(p.out, "%s %s: %d files in %s\n", l.Image, state, l.Files, l.Lock)
		for _, c := range l.Changed {
			fmt.Fprintf(p.out, "  %s\n", c)
		}
	}
	return nil
}

// exitOfFailed is the exit code of images that could not be built.
func exitOfFailed(images []report.Image) int {
	exit := artifact.ExitFault
	for _, i := range images {
		if i.Error != nil && i.Error.Exit != artifact.ExitFault {
			exit = i.Error.Exit
		}
	}
	return exit
}
