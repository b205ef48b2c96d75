package main

import (
	"github.com/urfave/cli/v2"

	"drydock/pipeline/line"
	"drydock/pipeline/plan"
)

func (p *program) buildVerb() *cli.Command {
	return &cli.Command{
		Name:  "build",
		Usage: "build images and write them to --out as OCI layouts; nothing is pushed",
		Description: `Resolves bases and builds the chosen images, mirrors only. Each image variant is
written to <out>/<image>[/<variant>]/oci as an OCI image layout, its subject's
digest in the result.`,
		Flags:  buildFlags(),
		Action: p.verb(p.only(line.Options{Kinds: []plan.Kind{plan.KindBuild}, Layouts: true})),
	}
}

func (p *program) scanVerb() *cli.Command {
	return &cli.Command{
		Name:  "scan",
		Usage: "build images (cached), make their SBOMs and hold them against the vulnerability database",
		Description: `Writes SBOMs and scan reports to --out and judges them by the vulnerability rules
of the stage after quarantine. Exits 1 when those rules say no.`,
		Flags:  engineFlags(),
		Action: p.verb(p.only(line.Options{Kinds: []plan.Kind{plan.KindScan}})),
	}
}

func (p *program) testVerb() *cli.Command {
	return &cli.Command{
		Name:  "test",
		Usage: "build images (cached) and run their black-box tests",
		Description: `Runs container-structure-test files and service checks inside each image: no
network but loopback, no privileges, as the image's own user. Writes JUnit XML
to --out. Exits 1 when a test fails. Platforms the engine cannot execute get
static tests only, unless the catalog's emulators.yaml has them emulated.`,
		Flags:  engineFlags(),
		Action: p.verb(p.only(line.Options{Kinds: []plan.Kind{plan.KindTest}})),
	}
}

// only runs a part of the line.
func (p *program) only(o line.Options) func(*cli.Context, settings) error {
	return func(c *cli.Context, s settings) error {
		if err := noArguments(c); err != nil {
			return err
		}
		ses, err := p.open(c.Context, s)
		if err != nil {
			return err
		}
		summary, err := ses.runLine(c, o)
		if err != nil {
			return err
		}
		return p.printSummary(summary, s.JSON)
	}
}
