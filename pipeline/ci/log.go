package ci

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Severity of an Issue.
type Severity string

// The severities CI systems know.
const (
	Warning Severity = "warning"
	Failure Severity = "error"
)

// Group writes the start of a collapsible section of the log and returns what
// writes its end. Outside the systems that know sections it writes nothing.
// now is the time, nil for the real one.
func (c CI) Group(w io.Writer, name, title string, now func() time.Time) func() {
	if now == nil {
		now = time.Now
	}
	title = oneLine(title)
	switch c.Kind {
	case GitLab:
		// GitLab, "Job logs": section_start:UNIX:NAME[options], names of letters,
		// digits, '_', '.' and '-'.
		id := sectionName(name)
		fmt.Fprintf(w, "\x1b[0Ksection_start:%d:%s[collapsed=true]\r\x1b[0K%s\n", now().Unix(), id, title)
		return func() { fmt.Fprintf(w, "\x1b[0Ksection_end:%d:%s\r\x1b[0K\n", now().Unix(), id) }
	case Azure:
		fmt.Fprintf(w, "##[group]%s\n", title)
		return func() { fmt.Fprintln(w, "##[endgroup]") }
	case GitHub:
		fmt.Fprintf(w, "::group::%s\n", escapeGitHub(title, false))
		return func() { fmt.Fprintln(w, "::endgroup::") }
	}
	return func() {}
}

// Issue writes a logging command that makes the system show text beside the
// job, with the place if it is file:line. Systems without one get nothing: the
// text is in the log already.
func (c CI) Issue(w io.Writer, s Severity, place, text string) {
	file, line := splitPlace(place)
	text = oneLine(text)
	switch c.Kind {
	case Azure:
		props := "type=" + string(s)
		if file != "" {
			props += ";sourcepath=" + escapeAzure(file, true)
		}
		if line != "" {
			props += ";linenumber=" + line
		}
		fmt.Fprintf(w, "##vso[task.logissue %s]%s\n", props, escapeAzure(text, false))
	case GitHub:
		var props []string
		if file != "" {
			props = append(props, "file="+escapeGitHub(file, true))
		}
		if line != "" {
			props = append(props, "line="+line)
		}
		head := string(s)
		if len(props) > 0 {
			head += " " + strings.Join(props, ",")
		}
		fmt.Fprintf(w, "::%s::%s\n", head, escapeGitHub(text, false))
	}
}

// splitPlace takes file:line apart; other places have neither.
func splitPlace(place string) (file, line string) {
	i := strings.LastIndexByte(place, ':')
	if i <= 0 || strings.Contains(place, "://") || strings.ContainsAny(place, "@ ") {
		return "", ""
	}
	if n, err := strconv.Atoi(place[i+1:]); err != nil || n < 1 {
		return "", ""
	}
	return place[:i], place[i+1:]
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }), " ")
}

func sectionName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '_'
	}, s)
}

// escapeAzure: azure-pipelines-agent, docs/preview/loggingcommands ("%", CR and
// LF everywhere; ";" and "]" in properties).
func escapeAzure(s string, property bool) string {
	s = strings.NewReplacer("%", "%AZP25", "\r", "%0D", "\n", "%0A").Replace(s)
	if property {
		s = strings.NewReplacer(";", "%3B", "]", "%5D").Replace(s)
	}
	return s
}

// escapeGitHub: actions/toolkit, packages/core/src/command.ts.
func escapeGitHub(s string, property bool) string {
	s = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
	if property {
		s = strings.NewReplacer(":", "%3A", ",", "%2C").Replace(s)
	}
	return s
}
