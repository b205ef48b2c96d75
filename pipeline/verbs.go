package main

import "github.com/urfave/cli/v2"

// verbs is the command line, in the order help shows it.
func (p *program) verbs() []*cli.Command {
	return []*cli.Command{
		p.runVerb(),
		p.planVerb(),
		p.initVerb(),
		p.buildVerb(),
		p.scanVerb(),
		p.testVerb(),
		p.signVerb(),
		p.verifyVerb(),
		p.promoteVerb(),
		p.baseVerb(),
		p.mirrorVerb(),
		p.registryVerb(),
		p.engineVerb(),
		p.doctorVerb(),
		p.docsVerb(),
	}
}
