package report

import (
	"fmt"
	"io"
	"strings"

	"drydock/modules/artifact"
)

const (
	minWidth     = 60
	defaultWidth = 100
)

// PrintTable writes the summary for people: one row per image, its reasons
// beneath, then what holds for the whole run. width is the terminal's, 0 for a
// file or a CI log.
func PrintTable(w io.Writer, s Summary, width int) error {
	if width <= 0 {
		width = defaultWidth
	}
	width = max(width, minWidth)
	var b strings.Builder
	rows := [][]string{{"IMAGE", "VERDICT", "STAGE", "PACKAGES", "FINDINGS", "TESTS", "TIME", "DIGEST"}}
	for _, im := range s.Images {
		rows = append(rows, im.row())
	}
	aligned := align(rows)
	if len(s.Images) == 0 {
		b.WriteString("no images\n")
	} else {
		b.WriteString(aligned[0] + "\n")
	}
	for i, im := range s.Images {
		b.WriteString(aligned[i+1] + "\n")
		im.beneath(&b, width)
	}
	s.footer(&b, width)
	_, err := io.WriteString(w, b.String())
	return err
}

func (i Image) row() []string {
	verdict, digest := string(i.Verdict), "-"
	if i.Error != nil {
		verdict = "error"
	} else if verdict == "" {
		verdict = string(artifact.Unknown)
	}
	if i.Subject.Digest != "" {
		digest = "sha256:" + i.Subject.Digest.Hex()[:min(12, len(i.Subject.Digest.Hex()))]
	}
	took := fmt.Sprintf("%.1fs", i.Seconds)
	if i.Cached {
		took = "cached"
	}
	return []string{i.Name(), verdict, dash(i.Stage), fmt.Sprint(i.Packages), findings(i.Findings), i.Tests.words(), took, digest}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// findings is the non-zero counts, worst first: "1 critical, 4 low".
func findings(c artifact.Counts) string {
	var parts []string
	for _, f := range []struct {
		n    int
		name string
	}{
		{c.Critical, "critical"},
		{c.High, "high"},
		{c.Medium, "medium"},
		{c.Low, "low"},
		{c.Negligible, "negligible"},
		{c.Unknown, "unknown"},
	} {
		if f.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", f.n, f.name))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func (t Tests) words() string {
	if t == (Tests{}) {
		return "none"
	}
	s := fmt.Sprintf("%d passed", t.Passed)
	if t.Failed > 0 {
		s += fmt.Sprintf(", %d failed", t.Failed)
	}
	if t.Skipped > 0 {
		s += fmt.Sprintf(", %d skipped", t.Skipped)
	}
	return s
}

// beneath writes an image's error and reasons under its row.
func (i Image) beneath(b *strings.Builder, width int) {
	if i.Error != nil {
		wrapInto(b, "    error: ", i.Error.Message, width)
		for _, r := range i.Error.Remedies {
			wrapInto(b, "      remedy: ", r, width)
		}
	}
	for _, r := range i.Reasons {
		text := r.Reason
		if r.Place != "" {
			text = r.Place + ": " + text
		}
		wrapInto(b, "    "+r.Rule+": ", text, width)
		if r.Remedy != "" {
			wrapInto(b, "      remedy: ", r.Remedy, width)
		}
	}
}

func (s Summary) footer(b *strings.Builder, width int) {
	count := map[string]int{}
	for _, im := range s.Images {
		count[im.row()[1]]++
	}
	parts := []string{}
	for _, v := range []string{"pass", "waived", "unknown", "fail", "error"} {
		if count[v] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[v], v))
		}
	}
	engine := strings.TrimSpace(s.Engine.Kind + " " + s.Engine.Tier)
	fmt.Fprintf(b, "\n%d images (%s); trigger %s; engine %s; exit %d\n",
		len(s.Images), dash(strings.Join(parts, ", ")), dash(s.Trigger), dash(engine), s.Exit)
	for _, st := range s.StaticOnly {
		name := Image{Image: st.Image, Variant: st.Variant}.Name()
		wrapInto(b, "static tests only: ", name+" on "+platformNames(st.Platforms)+" (nothing was executed)", width)
	}
	for _, m := range s.Mirrors {
		if m.Public {
			wrapInto(b, "public mirror: ", m.Ecosystem+" from "+m.URL, width)
		}
	}
	for _, n := range s.Notes {
		wrapInto(b, "note: ", n, width)
	}
	if s.Error != nil {
		wrapInto(b, "error: ", s.Error.Message, width)
	}
}

// align pads every column but the last to its widest cell.
func align(rows [][]string) []string {
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for c, cell := range r {
			widths[c] = max(widths[c], len([]rune(cell)))
		}
	}
	out := make([]string, 0, len(rows))
	for _, r := range rows {
		var b strings.Builder
		for c, cell := range r {
			b.WriteString(cell)
			if c < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[c]-len([]rune(cell))+2))
			}
		}
		out = append(out, b.String())
	}
	return out
}

// wrapInto writes text behind head, wrapped at width with hanging indent. A
// word longer than a line (a URL, a digest) is left whole, so that it can be
// copied.
func wrapInto(b *strings.Builder, head, text string, width int) {
	indent := strings.Repeat(" ", min(len([]rune(head)), width/2))
	line := head
	empty := true
	for _, word := range strings.Fields(text) {
		if !empty && len([]rune(line))+1+len([]rune(word)) > width {
			b.WriteString(line + "\n")
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}
