package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/pipeline/line"
	"drydock/pipeline/report"
)

const subjectHelp = "SUBJECT is repository@sha256:…, as the summary gives it; a tag is refused."

func (p *program) signVerb() *cli.Command {
	return &cli.Command{
		Name: "sign", Usage: "sign images in a registry by digest", ArgsUsage: "SUBJECT...",
		Description: `Signs each subject, and every platform of it, with the configured key, as cosign
does (.sig tags). What is signed with that key already is left alone.
` + subjectHelp,
		Flags:  shipFlags(),
		Action: p.verb(p.sign),
	}
}

func (p *program) verifyVerb() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "verify signatures and evidence and ask a stage's gates, without moving anything",
		ArgsUsage: "SUBJECT...",
		Description: `Reads signatures and attestations back from the registry, verifies them with the
trusted keys and evaluates the policy of --stage. Exits 1 when it says no.

With --rebuild no gate is asked. The image is built again from its signed
provenance: the sources of the commit it names, taken from the repository of
--catalog; the bases, and of the mirrors the very files, it names; no cached RUN
and empty cache mounts. Says whether the result is identical, or which file of
which layer differs and how. Exits 0 identical, 1 differs (or its provenance
cannot be followed: not signed, from a dirty tree, not hermetic), 2 the commit is
not here, 3 it cannot be built now, for example because what it is made of is
served no more.
` + subjectHelp,
		Flags: append(
			shipFlags(),
			str("stage", "", "the stage whose policy is asked (default: the one after the image's)"),
			boolean("rebuild", "build the image again from its provenance, and compare"),
			boolean("attest", "with --rebuild: sign the outcome as an attestation beside the image"),
			str("engine", "auto", "with --rebuild: what executes the steps: auto, embedded or dagger"),
			str("tier", "auto", "with --rebuild: how the embedded engine isolates steps: auto (the best this host gives), T1, T2 or T3"),
			boolean("offline", "with --rebuild: ask no mirror, only the content store"),
		),
		Action: p.verb(p.verify),
	}
}

func (p *program) promoteVerb() *cli.Command {
	return &cli.Command{
		Name: "promote", Usage: "copy images to a stage by digest when its gates pass", ArgsUsage: "SUBJECT...",
		Description: `Evaluates every gate of --stage anew from the evidence in the registry, whose
signers the policy must allow, and copies the subject with every referrer and
signature. Takes digests only. Doing it twice changes nothing.
` + subjectHelp,
		Flags: append(
			shipFlags(),
			str("stage", "", "the `STAGE` to promote to (required)"),
			str("summary", "", "take the subjects from the summary.json `FILE` of a run"),
		),
		Action: p.verb(p.promote),
	}
}

func shipFlags() []cli.Flag {
	return append(commonFlags(), str("trust-key", "", "PEM `FILE` of the public key to trust (default: cosign.pub of --keys)"))
}

// subjects reads the arguments, and the summary where one is given.
func subjects(c *cli.Context) ([]artifact.Subject, error) {
	var out []artifact.Subject
	if path := c.String("summary"); path != "" {
		s, err := report.ReadFile(path)
		if err != nil {
			return nil, err
		}
		out = s.Subjects()
	}
	for _, a := range c.Args().Slice() {
		s, err := artifact.ParseSubject(a)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(out) == 0 && c.String("summary") == "" {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: c.Command.Name,
			Message: "no subject given", Remedy: "for example: drydock " + c.Command.Name + " quarantine.drydock.internal/nginx@sha256:…",
		}
	}
	return out, nil
}

func (p *program) sign(c *cli.Context, s settings) error {
	return p.ship(c, s, func(l *line.Line, sub []artifact.Subject) ([]line.Shipped, error) {
		return l.Sign(c.Context, sub)
	})
}

func (p *program) verify(c *cli.Context, s settings) error {
	if c.Bool("rebuild") {
		return p.rebuild(c, s)
	}
	if c.Bool("attest") {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "--attest",
			Message: "there is no outcome to attest without --rebuild", Remedy: "give --rebuild too",
		}
	}
	return p.ship(c, s, func(l *line.Line, sub []artifact.Subject) ([]line.Shipped, error) {
		return l.Verify(c.Context, sub, c.String("stage"), c.String("trust-key"))
	})
}

func (p *program) promote(c *cli.Context, s settings) error {
	if c.String("stage") == "" {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading command line", Place: "promote",
			Message: "no stage given", Remedy: "say where to with --stage, for example --stage staging",
		}
	}
	return p.ship(c, s, func(l *line.Line, sub []artifact.Subject) ([]line.Shipped, error) {
		return l.Promote(c.Context, sub, c.String("stage"), c.String("trust-key"))
	})
}

// ship does something to subjects and prints what came of each.
func (p *program) ship(c *cli.Context, s settings, do func(*line.Line, []artifact.Subject) ([]line.Shipped, error)) error {
	sub, err := subjects(c)
	if err != nil {
		return err
	}
	ses, err := p.open(c.Context, s)
	if err != nil {
		return err
	}
	done, err := do(ses.line, sub)
	if cerr := ses.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	exit := 0
	for _, d := range done {
		if !d.OK {
			exit = artifact.ExitGate
		}
	}
	if s.JSON {
		if err := printJSON(p.out, map[string]any{"version": 1, "subjects": done, "exit": exit}); err != nil {
			return err
		}
		return exitWith(exit)
	}
	for _, d := range done {
		fmt.Fprintf(p.out, "%s %s: %s\n", d.Subject, d.Verdict, d.Did)
		for _, r := range d.Reasons {
			fmt.Fprintf(p.out, "  %s: %s: %s\n", r.Rule, r.Place, r.Reason)
			if r.Remedy != "" {
				fmt.Fprintf(p.out, "    %s\n", r.Remedy)
			}
		}
	}
	return exitWith(exit)
}
