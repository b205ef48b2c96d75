// Command testlog reads the output of go test -v on stdin, fails on any skip
// that no line of the allowed list covers, and ends with what each failed test
// said, from its begin and its end, and a line that counts.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"sort"
	"strings"
)

func main() {
	allowed := flag.String("allowed", "", "`FILE` of allowed skips: a regular expression for the test's name, white space, one for the reason")
	flag.Parse()
	os.Exit(run(os.Stdin, os.Stdout, os.Stderr, *allowed))
}

// skip is a test that did not run, and why it says so.
type skip struct{ name, reason string }

// failure is a test that failed, or a package, and what it said.
type failure struct {
	name string
	said []string
}

// How much of what a failed test said is shown: lines from its begin and from
// its end, and bytes of a line.
const firstLines, lastLines, lineBytes = 20, 60, 600

func (f failure) print(out io.Writer) {
	fmt.Fprintln(out, "failed:", f.name)
	for i, line := range f.said {
		switch left := len(f.said) - i; {
		case i == firstLines && left > lastLines:
			fmt.Fprintf(out, "    … (%d lines)\n", left-lastLines)
		case i < firstLines || left <= lastLines:
			if len(line) > lineBytes {
				line = line[:lineBytes] + "…"
			}
			fmt.Fprintln(out, "    "+line)
		}
	}
}

// result is what a test log says.
type result struct {
	passed, failed int
	failures       []failure
	skips          []skip
}

func run(in io.Reader, out, errs io.Writer, allowedFile string) int {
	res, err := read(in)
	if err != nil {
		fmt.Fprintln(errs, "testlog:", err)
		return 2
	}
	var rules []rule
	if allowedFile != "" {
		if rules, err = readRules(allowedFile); err != nil {
			fmt.Fprintln(errs, "testlog:", err)
			return 2
		}
	}
	code := 0
	for _, f := range res.failures {
		f.print(out)
		code = 1
	}
	for _, s := range res.skips {
		if !allows(rules, s) {
			fmt.Fprintf(out, "skipped without leave: %s: %s\n", s.name, s.reason)
			code = 1
			continue
		}
		fmt.Fprintf(out, "skipped: %s: %s\n", s.name, s.reason)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", res.passed, res.failed, len(res.skips))
	return code
}

var (
	event   = regexp.MustCompile(`^=== (RUN|CONT|NAME|PAUSE)\s+(\S*)`)
	verdict = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	logLine = regexp.MustCompile(`^\s+[^\s:]+\.go:\d+: (.*)$`)
	pkgFail = regexp.MustCompile(`^FAIL\s+(\S+) \[(build|setup) failed\]|^(panic: .*)$`)
)

// read goes through the log. What a test says stands before its verdict, under
// the last line that named a running test.
func read(in io.Reader) (result, error) {
	var res result
	said := map[string][]string{}
	current := ""
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		line := sc.Text()
		switch {
		case event.MatchString(line):
			current = event.FindStringSubmatch(line)[2]
		case verdict.MatchString(line):
			m := verdict.FindStringSubmatch(line)
			res.count(m[1], m[2], said[m[2]])
			delete(said, m[2])
		case pkgFail.MatchString(line):
			res.failed++
			res.failures = append(res.failures, failure{name: line})
		case logLine.MatchString(line):
			said[current] = append(said[current], logLine.FindStringSubmatch(line)[1])
		case strings.HasPrefix(line, "        ") && len(said[current]) > 0:
			said[current] = append(said[current], strings.TrimSpace(line)) // goes on
		}
	}
	sort.Slice(res.skips, func(i, j int) bool { return res.skips[i].name < res.skips[j].name })
	return res, sc.Err()
}

func (r *result) count(verdict, name string, said []string) {
	switch verdict {
	case "PASS":
		r.passed++
	case "FAIL":
		r.failed++
		r.failures = append(r.failures, failure{name, said})
	case "SKIP":
		r.skips = append(r.skips, skip{name, strings.Join(said, " ")})
	}
}

// rule allows skips.
type rule struct{ name, reason *regexp.Regexp }

func allows(rules []rule, s skip) bool {
	for _, r := range rules {
		if r.name.MatchString(s.name) && r.reason.MatchString(s.reason) {
			return true
		}
	}
	return false
}

func readRules(path string) ([]rule, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []rule
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, ok := strings.Cut(line, " ")
		if !ok || strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s:%d: a name and a reason are needed", path, i+1)
		}
		n, err := regexp.Compile("^(" + name + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		r, err := regexp.Compile(strings.TrimSpace(reason))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		out = append(out, rule{n, r})
	}
	return out, nil
}
