package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"drydock/modules/artifact"
)

// JSON is the plan as a versioned document.
func (p *Plan) JSON() ([]byte, error) {
	out, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing plan: %w", err)
	}
	return append(out, '\n'), nil
}

// Parse reads what JSON wrote; a plan of a newer version is refused.
func Parse(data []byte) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "reading plan", Remedy: "make it again with drydock plan --json", Err: err}
	}
	if p.Version != Version {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading plan", Message: fmt.Sprintf("it has version %d, this program reads %d", p.Version, Version),
			Remedy: "make it again with this program, or use the one that made it",
		}
	}
	return &p, nil
}

// WriteText writes the plan for people.
func (p *Plan) WriteText(w io.Writer) error {
	var buf bytes.Buffer
	tw := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "trigger %s, target %s\n", p.Trigger, p.Target)
	if len(p.Mirrors) > 0 {
		fmt.Fprintln(tw, "\nmirrors")
	}
	for _, m := range p.Mirrors {
		public := ""
		if m.Public {
			public = "public"
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", Use{Ecosystem: m.Ecosystem, Prefix: m.Prefix}, m.URL, m.Source, public)
	}
	fmt.Fprintf(tw, "\nimages (%d)\n", len(p.Images))
	for _, i := range p.Images {
		fmt.Fprintf(tw, "  %s\t%s\ton %s\t%s\n", i.ID(), platforms(i.Platforms), orNothing(i.Needs), i.destination())
	}
	if len(p.Mirrors) > 0 {
		fmt.Fprintln(tw, "\nmirrors used, by the images' locks (files of each)")
	}
	for _, i := range p.Images {
		if len(p.Mirrors) > 0 {
			fmt.Fprintf(tw, "  %s\t%s\n", i.ID(), i.uses())
		}
	}
	fmt.Fprintf(tw, "\nsteps (%d)\n", len(p.Nodes))
	for _, n := range p.Nodes {
		after := ""
		if len(n.Needs) > 0 {
			after = "after " + strings.Join(n.Needs, ", ")
		}
		fmt.Fprintf(tw, "  %s\t%s\n", n.ID, after)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("writing plan: %w", err)
	}
	for line := range strings.Lines(buf.String()) {
		if _, err := io.WriteString(w, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return fmt.Errorf("writing plan: %w", err)
		}
	}
	return nil
}

func platforms(ps []artifact.Platform) string {
	s := make([]string, len(ps))
	for i, p := range ps {
		s[i] = p.String()
	}
	return strings.Join(s, " ")
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// uses is the mirrors an image's steps use.
func (i Image) uses() string {
	if i.Mirrors == nil {
		return "not known: it has no lock (drydock mirror lock --image " + i.Image + ")"
	}
	var all []string
	for _, u := range i.Mirrors {
		all = append(all, fmt.Sprintf("%s (%d)", u, u.Files))
	}
	return orNothing(all)
}

// destination is where an image goes and what holds it.
func (i Image) destination() string {
	to := strings.Join(i.Stages, " -> ")
	if len(i.Tags) > 0 {
		to += " as " + strings.Join(i.Tags, ", ")
	}
	if i.Implied {
		to += " (built for others only)"
	}
	if i.Held != "" {
		to += " (held: " + i.Held + ")"
	}
	return to
}
