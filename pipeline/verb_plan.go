package main

import (
	"github.com/urfave/cli/v2"
)

func (p *program) planVerb() *cli.Command {
	return &cli.Command{
		Name:  "plan",
		Usage: "show what run would do, as text or JSON, and do nothing",
		Description: `Reads the catalog and, with --changed, git; prints the graph of steps in an
order that respects every dependency, the stages each image may reach and why
one is held back, the mirrors (those of git and files: too) with those on the
public internet marked, and which of them each image uses, as its lock says.`,
		Flags:  imageFlags(),
		Action: p.verb(p.showPlan),
	}
}

func (p *program) showPlan(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	defer ses.close() //nolint:errcheck // nothing was opened
	mirrors, err := ses.line.Mirrors()
	if err != nil {
		return err
	}
	pl, err := ses.plan(c.Context, mirrors)
	if err != nil {
		return err
	}
	if err := ses.line.AddUses(pl); err != nil {
		return err
	}
	if s.JSON {
		return printJSON(p.out, pl)
	}
	return pl.WriteText(p.out)
}
