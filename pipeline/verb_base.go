package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/pipeline/line"
)

func (p *program) baseVerb() *cli.Command {
	return &cli.Command{
		Name:  "base",
		Usage: "list the bases and move their locks forward",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "show every base of the catalog with what its lock pins",
				Flags: commonFlags(), Action: p.verb(p.listBases),
			},
			{
				Name: "update", Usage: "resolve bases to the newest packages, build them, show what changed and write their locks",
				ArgsUsage: "[NAME...]",
				Description: `Resolves the named bases (none: all) to what the mirrors serve today, builds
them and writes their locks into the catalog for review: all of them, or none.
Prints each package from its old version to its new one and the vulnerabilities
that are fixed or brought, as far as the vulnerability database can tell.

--propose leaves the catalog as it is and puts the new locks into out/locks;
--accept moves those into the catalog, as they were reviewed and without asking
a mirror, unless a lock has moved meanwhile.

With --emulators it is the emulators of emulators.yaml, which run foreign
architectures, whose lock is moved forward, and the bases named.`,
				Flags: append(commonFlags(), str("engine", "auto", "what executes the steps: auto, embedded or dagger"),
					boolean("propose", "write the new locks into out/locks for review, not into the catalog"),
					boolean("accept", "take the reviewed locks of out/locks into the catalog"),
					boolean("emulators", "move the emulators' lock forward")),
				Action: p.verb(p.updateBases),
			},
		},
	}
}

func (p *program) listBases(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	defer ses.close() //nolint:errcheck // nothing was opened
	bases, err := ses.line.Bases()
	if err != nil {
		return err
	}
	if s.JSON {
		return printJSON(p.out, map[string]any{"version": 1, "bases": bases})
	}
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BASE\tSTATE\tKIND\tPLATFORMS\tPACKAGES\tDIGEST")
	for _, b := range bases {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", b.Name, b.State, b.Kind, b.Platforms, b.Packages, b.Digest)
	}
	return w.Flush()
}

// update moves the locks forward that the command line asks for.
func (p *program) update(c *cli.Context, ses *session) ([]line.UpdatedBase, error) {
	var updates []line.UpdatedBase
	if c.Bool("accept") {
		return ses.line.AcceptBases(c.Args().Slice())
	}
	if c.Bool("emulators") {
		u, err := ses.line.UpdateEmulators(c.Context)
		if err != nil {
			return nil, err
		}
		updates = append(updates, line.UpdatedBase{BaseUpdate: u, Packages: []line.Change{}, CVEs: line.CVEs{Fixed: []line.CVE{}, Introduced: []line.CVE{}}})
		if !c.Args().Present() {
			return updates, nil
		}
	}
	bases, err := ses.line.UpdateBases(c.Context, c.Args().Slice(), c.Bool("propose"))
	return append(updates, bases...), err
}

func (p *program) updateBases(c *cli.Context, s settings) error {
	if s.catalogRef.Pinned() {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "updating bases", Place: s.catalogRef.String(), Message: "a catalog that is named by commit or digest cannot be written",
			Remedy: "update it where it is kept, then name the new commit or digest",
		}
	}
	if c.Bool("accept") && (c.Bool("propose") || c.Bool("emulators")) {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--accept", Message: "it goes with neither --propose nor --emulators",
			Remedy: "propose first, review, then accept",
		}
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	updates, err := p.update(c, ses)
	if cerr := ses.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if s.JSON {
		return printJSON(p.out, map[string]any{"version": 1, "bases": updates})
	}
	for _, u := range updates {
		state := "unchanged"
		switch {
		case u.Written && c.Bool("propose"):
			state = "proposed"
		case u.Written:
			state = "updated"
		}
		fmt.Fprintf(p.out, "%s %s %s\n", u.Name, state, u.Digest)
		for _, line := range u.Changed {
			fmt.Fprintf(p.out, "  %s\n", line)
		}
		printChanges(p.out, nil, u.CVEs)
	}
	return nil
}
