package sandbox

import (
	"encoding/xml"
	"fmt"
	"strings"

	"drydock/modules/artifact"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Skipped  int          `xml:"skipped,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitMessage `xml:"failure"`
	Skipped *junitMessage `xml:"skipped"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// JUnit renders a report as JUnit XML, the form GitLab and Azure DevOps
// publish. The same report gives the same bytes: no clock, no host name.
func JUnit(name string, r *artifact.TestReport) []byte {
	s := junitSuite{Name: name, Tests: len(r.Results)}
	total := 0.0
	for _, t := range r.Results {
		total += t.Seconds
		c := junitCase{Name: t.Name, Class: name + "." + t.Kind, Time: seconds(t.Seconds)}
		message := &junitMessage{Message: firstLine(printable(t.Message)), Text: printable(t.Message)}
		switch t.Status {
		case "failed":
			c.Failure = message
			s.Failures++
		case "skipped":
			c.Skipped = message
			s.Skipped++
		}
		s.Cases = append(s.Cases, c)
	}
	s.Time = seconds(total)
	out, err := xml.MarshalIndent(junitSuites{
		Tests: s.Tests, Failures: s.Failures, Skipped: s.Skipped, Time: s.Time, Suites: []junitSuite{s},
	}, "", "  ")
	if err != nil { // strings and numbers only: cannot happen
		return nil
	}
	return append(append([]byte(xml.Header), out...), '\n')
}

func seconds(f float64) string { return fmt.Sprintf("%.3f", f) }

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// printable drops what XML 1.0 cannot carry; test output can hold anything.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || (r >= 0x20 && r != 0xFFFE && r != 0xFFFF) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "?"))
}
