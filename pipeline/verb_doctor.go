package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

func (p *program) doctorVerb() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "probe what this machine can do and name what is missing",
		Description: `Probes, in child processes, what the embedded engine needs here and names the
tier that will be used. For each better tier it names what is missing and how to
turn it on in GitLab's docker and Kubernetes executors, Azure's container jobs,
docker and podman. Looks for the mirrors in the ordinary client configuration.
Exits 3 when no image could be built here.`,
		Flags:  commonFlags(),
		Action: p.verb(p.doctor),
	}
}

// checkup is doctor's result.
type checkup struct {
	Version int           `json:"version"`
	Engine  engine.Report `json:"engine"`
	Mirrors []checkMirror `json:"mirrors"`
	OK      bool          `json:"ok"`
}

type checkMirror struct {
	Ecosystem string `json:"ecosystem"`
	URL       string `json:"url"`
	Public    bool   `json:"public"`
	Source    string `json:"source"`
	Problem   string `json:"problem,omitempty"`
	Remedy    string `json:"remedy,omitempty"`
}

func (p *program) doctor(c *cli.Context, s settings) error {
	if err := noArguments(c); err != nil {
		return err
	}
	out := checkup{Version: 1}
	var err error
	if out.Engine, err = engine.Probe(c.Context, s.Cache, p.environ); err != nil {
		return err
	}
	out.OK = out.Engine.Tier != ""
	// what the engine can do is told also where the catalog cannot be read
	mirrors, unread := p.checkMirrors(c, s)
	out.Mirrors = append([]checkMirror{}, mirrors...)
	if s.JSON {
		err = printJSON(p.out, out)
	} else {
		err = p.printCheckup(out)
	}
	if err == nil {
		err = unread
	}
	if err == nil && !out.OK {
		err = exitWith(artifact.ExitFault)
	}
	return err
}

func (p *program) checkMirrors(c *cli.Context, s settings) ([]checkMirror, error) {
	ses, err := p.open(c.Context, s)
	if err != nil {
		return nil, err
	}
	defer ses.close() //nolint:errcheck // nothing was opened
	set, err := ses.line.MirrorSet()
	if err != nil {
		return nil, err
	}
	out := []checkMirror{}
	for _, eco := range []string{"debian", "go", "npm", "oci"} {
		m := checkMirror{Ecosystem: eco}
		e, err := set.Endpoint(eco)
		var why *artifact.Error
		switch {
		case errors.As(err, &why):
			m.Problem, m.Remedy = why.Error(), why.Remedy
		case err != nil:
			m.Problem = err.Error()
		default:
			m.URL, m.Public, m.Source = e.URL, e.Public, e.Source
		}
		out = append(out, m)
	}
	return out, nil
}

func (p *program) printCheckup(k checkup) error {
	p.printEngine(k.Engine)
	fmt.Fprintln(p.out, "mirrors:")
	for _, m := range k.Mirrors {
		switch {
		case m.Problem != "":
			fmt.Fprintf(p.out, "  missing %s: %s\n", m.Ecosystem, m.Problem)
			if m.Remedy != "" {
				fmt.Fprintf(p.out, "          %s\n", m.Remedy)
			}
		default:
			public := ""
			if m.Public {
				public = ", public"
			}
			fmt.Fprintf(p.out, "  ok      %s: %s (%s%s)\n", m.Ecosystem, m.URL, m.Source, public)
		}
	}
	return nil
}

func (p *program) printEngine(r engine.Report) {
	if r.Tier == "" {
		fmt.Fprintln(p.out, "embedded engine: no tier works here")
	} else {
		fmt.Fprintf(p.out, "embedded engine: tier %s, %s mode\n", r.Tier, r.Mode)
	}
	for _, f := range r.Findings {
		mark := "ok     "
		switch {
		case !f.OK && f.Optional:
			mark = "without"
		case !f.OK:
			mark = "missing"
		}
		fmt.Fprintf(p.out, "  %s %s: %s\n", mark, f.Name, f.Detail)
		if !f.OK && f.Remedy != "" && r.Tier != "" {
			fmt.Fprintf(p.out, "          %s\n", f.Remedy)
		}
	}
	if r.Advice == "" {
		return
	}
	if r.Tier != "" {
		fmt.Fprintln(p.out, "better tiers, and what they miss:")
	}
	fmt.Fprint(p.out, r.Advice)
}
