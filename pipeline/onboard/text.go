package onboard

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var plain = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// scalar writes a text as YAML.
func scalar(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return strconv.Quote(s)
}

// text is the project file. Images the catalog lacks a base for, and those that
// copy what something has to make first, stand in it as comments, unless there
// are no others: then whoever plans or builds is told what is missing.
func (p *Proposal) text(spec string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What is built here, and with which catalog. drydock plan shows what follows.\nversion: 1\ncatalog: %s\nimages:\n", scalar(spec))
	some := slices.ContainsFunc(p.Images, func(i Image) bool { return i.notYet() == "" })
	for _, img := range p.Images {
		entry := img.entry()
		if why := img.notYet(); some && why != "" {
			entry = "  # Not yet: " + why + ".\n" + comment(entry)
		}
		b.WriteString(entry)
	}
	return b.String()
}

// notYet says why an image cannot be built as things are; "" when it can.
func (i Image) notYet() string {
	switch {
	case i.foreign() && !i.Ready:
		return "it is for " + i.only.String() + ", and its stages run there or build on what the catalog has not for it"
	case !i.Ready:
		return "the catalog lacks what it builds on"
	case len(i.Missing) > 0:
		return "it copies what is not in the repository, " + strings.Join(i.Missing, ", ")
	}
	return ""
}

// argsWhy says where its arguments come from.
func (i Image) argsWhy() string {
	if i.ArgsWhy != "" {
		return i.ArgsWhy
	}
	return "FROM needs it"
}

func comment(text string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = "  # " + strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "") + "\n"
}

func (i Image) entry() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n", scalar(i.Name))
	if i.Context != "." {
		fmt.Fprintf(&b, "    context: %s\n", scalar(i.Context))
	}
	if i.Dockerfile != "Dockerfile" {
		fmt.Fprintf(&b, "    dockerfile: %s\n", scalar(i.Dockerfile))
	}
	names := make([]string, len(i.Platforms))
	for n, p := range i.Platforms {
		names[n] = p.String()
	}
	fmt.Fprintf(&b, "    platforms: [%s]\n", strings.Join(names, ", "))
	switch {
	case i.Target != "":
		fmt.Fprintf(&b, "    target: %s   # %s\n", scalar(i.Target), i.TargetWhy)
	case len(i.Targets) > 0:
		fmt.Fprintf(&b, "    # target: %s   (the last stage without it)\n", strings.Join(i.Targets, " or "))
	}
	if i.User != "" {
		fmt.Fprintf(&b, "    user: %s   # the Dockerfile names no ordinary one\n", scalar(i.User))
	}
	if len(i.Args) > 0 {
		var args []string
		for _, k := range slices.Sorted(maps.Keys(i.Args)) {
			args = append(args, k+": "+scalar(i.Args[k]))
		}
		fmt.Fprintf(&b, "    args: {%s}   # %s\n", strings.Join(args, ", "), i.argsWhy())
	}
	if len(i.Choices) > 0 {
		fmt.Fprintf(&b, "    # args: {%s: …}   what it builds on, to be named if not as the Dockerfile does\n", strings.Join(i.Choices, ": …, "))
	}
	if len(i.Arguments) > 0 {
		fmt.Fprintf(&b, "    # args: {%s: …}   FROM needs a value\n", strings.Join(i.Arguments, ": …, "))
	}
	return b.String()
}

// WriteText says in words what was found and what is missing.
func (p *Proposal) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, img := range p.Images {
		state := "can be planned"
		switch {
		case !img.Ready:
			state = "needs more of the catalog"
		case len(img.Missing) > 0:
			state = "needs files that are not there"
		}
		fmt.Fprintf(&b, "image %s: %s in %s (%s), %s\n", img.Name, img.Dockerfile, img.Context, img.Why, state)
		for _, x := range img.Problems {
			fmt.Fprintf(&b, "  %s: %s\n    %s\n", x.Place, x.Message, x.Remedy)
		}
	}
	for _, x := range p.Bases {
		if x.Base != "" {
			fmt.Fprintf(&b, "base %s: %s stands for it\n", x.Ref, x.Base)
			if x.Propose != "" {
				fmt.Fprintf(&b, "  it lacks what RUN calls; in %s:\n%s", x.File, indent(x.Propose))
			}
			continue
		}
		fmt.Fprintf(&b, "base %s (%s): the catalog has none; it could have, in %s:\n", x.Ref, strings.Join(x.Places, ", "), x.File)
		fmt.Fprint(&b, indent(x.Propose))
		if x.Argument != "" {
			fmt.Fprintf(&b, "  FROM is written %s: args: of the image in the project file may name another\n", x.Argument)
		}
	}
	for _, e := range p.Ecosystems {
		if e.Mirror != "" {
			fmt.Fprintf(&b, "%s (%s): mirror %s\n", e.Name, strings.Join(e.Places, ", "), e.Mirror)
			continue
		}
		fmt.Fprintf(&b, "%s by %s (%s): no mirror serves it\n  %s\n", e.Name, e.Tool, strings.Join(e.Places, ", "), e.Remedy)
	}
	for _, d := range p.Downloads {
		fmt.Fprintf(&b, "%s: ADD %s: refused unless it is a mirror's\n", d.Place, d.URL)
		if !d.Checksum {
			fmt.Fprintln(&b, "  and without --checksum=sha256:… nobody can tell what it will be")
		}
	}
	for _, file := range p.Added {
		fmt.Fprintf(&b, "wrote %s of the catalog, for review; drydock base update pins what it is made of\n", file)
	}
	for _, s := range p.Skipped {
		fmt.Fprintf(&b, "left out %s: %s\n", s.Path, s.Why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func indent(text string) string {
	return "  | " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  | ") + "\n"
}
