package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/pipeline/line"
	"drydock/pipeline/report"
)

func (p *program) mirrorUpdateVerb() *cli.Command {
	return &cli.Command{
		Name: "update", Usage: "move the locks of images and of their bases to what the mirrors have now, and show what changed",
		Description: `Resolves the bases of the chosen images (none: all) to the newest packages,
builds everything anew on them, and writes the locks into the catalog for review:
all of them, or none when anything fails. Shows each package from its old version
to its new one, the images that are touched, and the vulnerabilities fixed, as
far as the vulnerability database can tell; where it cannot, that is said. What a
project itself pins (go.sum, package-lock.json) does not move, and neither do
the bases of a catalog that is named by commit or digest.

--to takes the mirrors as they were on a day: Debian from the snapshots that
snapshot: in mirrors.yaml names, Go, npm and PyPI by the times their mirrors
state. The lock keeps that time: --locked elsewhere needs it and the mirrors,
makes the lists it pins again, and refuses where a mirror states otherwise now.`,
		Flags: append(engineFlags(),
			str("to", "", "the mirrors as they were at `DATE` (2006-01-02, all of that day, or 2006-01-02T15:04:05Z)"),
			boolean("dry-run", "show what would change and write nothing"),
			boolean("check", "likewise, and exit 1 when anything would change"),
		),
		Action: p.verb(p.updateLocks),
	}
}

func (p *program) updateLocks(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if s.Locked || s.Offline {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--locked, --offline",
			Message: "locks are made from what mirrors serve", Remedy: "leave it out",
		}
	}
	at, err := line.ParseTo(c.String("to"), time.Now())
	if err != nil {
		return err
	}
	s.at, s.noStale = at, true
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	check := c.Bool("check")
	updated, err := ses.update(c, check || c.Bool("dry-run"))
	if cerr := ses.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if len(updated.Failed) > 0 {
		return p.printSummary(report.Summary{Version: 1, Images: updated.Failed, Exit: exitOfFailed(updated.Failed)}, s.JSON)
	}
	if err := p.printUpdated(updated, s, check || c.Bool("dry-run")); err != nil {
		return err
	}
	if check && updated.Changed() {
		return exitWith(artifact.ExitGate)
	}
	return nil
}

func (s *session) update(c *cli.Context, dry bool) (*line.Updated, error) {
	pl, err := s.plan(c.Context, nil)
	if err != nil {
		return nil, err
	}
	return s.line.UpdateLocks(c.Context, pl, line.UpdateOptions{Dry: dry, Pinned: s.catalogRef.Pinned()})
}

// updateResult is what mirror update --json prints.
type updateResult struct {
	Version int        `json:"version"`
	To      *time.Time `json:"to,omitempty"`
	DryRun  bool       `json:"dryRun,omitempty"` // nothing was written
	*line.Updated
}

func (p *program) printUpdated(u *line.Updated, s settings, dry bool) error {
	if s.JSON {
		out := updateResult{Version: 1, DryRun: dry, Updated: u}
		if !s.at.IsZero() {
			out.To = &s.at
		}
		return printJSON(p.out, out)
	}
	state := map[bool]string{false: "unchanged", true: "updated"}
	if dry {
		state[true] = "would be updated"
	}
	for _, b := range u.Bases {
		fmt.Fprintf(p.out, "base %s %s\n", b.Name, state[b.Written])
		printChanges(p.out, b.Packages, b.CVEs)
		if b.Written && len(b.Packages) == 0 {
			for _, text := range b.BaseUpdate.Changed {
				fmt.Fprintf(p.out, "  %s\n", text)
			}
		}
	}
	for _, i := range u.Images {
		fmt.Fprintf(p.out, "%s %s: %d files in %s\n", i.Image, state[i.Written], i.Files, i.Lock)
		if len(i.Bases) > 0 {
			fmt.Fprintf(p.out, "  stands on %s\n", strings.Join(i.Bases, ", "))
		}
		printChanges(p.out, i.ImageLock.Changed, i.CVEs)
	}
	if len(u.Touched) == 0 {
		fmt.Fprintln(p.out, "no image is touched")
		return nil
	}
	fmt.Fprintf(p.out, "images touched: %s\n", strings.Join(u.Touched, ", "))
	return nil
}

func printChanges(w io.Writer, changes []line.Change, cves line.CVEs) {
	for _, c := range changes {
		fmt.Fprintf(w, "  %s\n", c)
	}
	for _, c := range cves.Fixed {
		fmt.Fprintf(w, "  fixes %s\n", c)
	}
	for _, c := range cves.Introduced {
		fmt.Fprintf(w, "  brings %s\n", c)
	}
	for _, text := range cves.Unknown {
		fmt.Fprintf(w, "  unknown: %s\n", text)
	}
}
