// Package docgen renders the command reference from the command line itself,
// so that the page cannot say anything else than --help does.
package docgen

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// Markdown renders the reference of a whole program. app must not have run:
// flags that were read from the environment would show its values.
func Markdown(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", app.Name)
	b.WriteString("<!-- Generated from the command line by `mage docs`; a test compares it. Do not edit. -->\n\n")
	paragraph(&b, sentence(app.Usage))
	code(&b, app.UsageText)
	paragraph(&b, app.Description)
	flags(&b, app.VisibleFlags())
	verbs := visible(app.Commands)
	if len(verbs) > 0 {
		b.WriteString("| verb | |\n|---|---|\n")
		for _, c := range verbs {
			fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", c.Name, anchor(app.Name+" "+c.Name), cell(c.Usage))
		}
		b.WriteString("\n")
	}
	for _, c := range verbs {
		command(&b, app.Name, c, 2)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// Diff says in one line where the file at path differs from what it should be,
// "" when it does not. Tests use it to hold generated files up to date.
func Diff(path, want string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("%s: %v; run mage docs", path, err)
	}
	got := string(b)
	if got == want {
		return ""
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		have, should := at(g, i), at(w, i)
		if have != should {
			return fmt.Sprintf("%s:%d: is %q, should be %q; run mage docs", path, i+1, have, should)
		}
	}
	return ""
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end of file)"
}

func visible(cs []*cli.Command) []*cli.Command {
	return slices.DeleteFunc(slices.Clone(cs), func(c *cli.Command) bool { return c.Hidden })
}

func command(b *strings.Builder, parent string, c *cli.Command, level int) {
	name := parent + " " + c.Name
	fmt.Fprintf(b, "%s %s\n\n", strings.Repeat("#", min(level, 6)), name)
	paragraph(b, sentence(c.Usage))
	usage := c.UsageText
	if usage == "" {
		usage = strings.TrimRight(name+" [flags] "+c.ArgsUsage, " ")
	}
	code(b, usage)
	paragraph(b, c.Description)
	if len(c.Aliases) > 0 {
		paragraph(b, "Also: `"+strings.Join(c.Aliases, "`, `")+"`.")
	}
	flags(b, c.VisibleFlags())
	for _, sub := range visible(c.Subcommands) {
		command(b, name, sub, level+1)
	}
}

func flags(b *strings.Builder, fs []cli.Flag) {
	rows := 0
	for _, f := range fs {
		doc, ok := f.(cli.DocGenerationFlag)
		if !ok || slices.Contains(f.Names(), "help") || slices.Contains(f.Names(), "version") {
			continue
		}
		if rows == 0 {
			b.WriteString("| flag | default | environment | |\n|---|---|---|---|\n")
		}
		rows++
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n",
			names(f, doc), quote(defaultOf(doc)), quote(strings.Join(doc.GetEnvVars(), ", ")), cell(unquoted(doc.GetUsage())))
	}
	if rows > 0 {
		b.WriteString("\n")
	}
}

// names spells a flag as it is typed, with the placeholder its usage marks by
// backquotes.
func names(f cli.Flag, doc cli.DocGenerationFlag) string {
	var out []string
	for _, n := range f.Names() {
		dash := "--"
		if len(n) == 1 {
			dash = "-"
		}
		out = append(out, dash+n)
	}
	s := strings.Join(out, ", ")
	if doc.TakesValue() {
		placeholder := "value"
		if parts := strings.SplitN(doc.GetUsage(), "`", 3); len(parts) == 3 {
			placeholder = parts[1]
		}
		s += " " + placeholder
	}
	return "`" + s + "`"
}

func unquoted(usage string) string {
	if strings.Count(usage, "`") == 2 {
		return strings.ReplaceAll(usage, "`", "")
	}
	return usage
}

func defaultOf(doc cli.DocGenerationFlag) string {
	if !doc.TakesValue() {
		return ""
	}
	if s, ok := doc.(*cli.StringFlag); ok && s.DefaultText == "" {
		return s.Value
	}
	return strings.Trim(doc.GetDefaultText(), `"`)
}

func quote(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}

// cell fits text into one cell of a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

func paragraph(b *strings.Builder, s string) {
	if s = strings.TrimSpace(s); s != "" {
		b.WriteString(s + "\n\n")
	}
}

func code(b *strings.Builder, s string) {
	if s = strings.TrimSpace(s); s != "" {
		b.WriteString("```\n" + s + "\n```\n\n")
	}
}

func anchor(heading string) string {
	return strings.ReplaceAll(strings.ToLower(heading), " ", "-")
}
