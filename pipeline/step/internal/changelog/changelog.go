// Package changelog reads Debian changelogs (deb-changelog(5)) for the
// vulnerabilities their entries say they fix.
package changelog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Entry is one version of a source package.
type Entry struct {
	Source  string
	Version string
	Date    time.Time // zero where the trailer has none that can be read
	CVEs    []string  // in the order they are named, each once
}

// Fix is a vulnerability and the version whose changelog entry names it.
type Fix struct {
	CVE     string
	Version string
	Date    time.Time
}

var (
	heading = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]*) \(([^()\s]+)\)(?: [-+0-9a-zA-Z.]+)*;`)
	trailer = regexp.MustCompile(`^ -- .*>  ?(.*)$`)
	cve     = regexp.MustCompile(`(?i)\bCVE-(\d{4})-(\d{4,7})\b`)
)

const (
	maxLine    = 1 << 20
	maxEntries = 20000
)

// Parse reads entries, newest first as the file has them. What it does not
// understand between entries it passes by, as dpkg does: old changelogs end in
// other formats.
func Parse(r io.Reader) ([]Entry, error) {
	var out []Entry
	seen := map[string]bool{}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		if m := heading.FindStringSubmatch(line); m != nil {
			if len(out) >= maxEntries {
				return nil, fmt.Errorf("parsing changelog: more than %d entries", maxEntries)
			}
			out = append(out, Entry{Source: m[1], Version: m[2]})
			seen = map[string]bool{}
			continue
		}
		if len(out) == 0 {
			continue
		}
		e := &out[len(out)-1]
		if m := trailer.FindStringSubmatch(line); m != nil {
			e.Date = date(m[1])
			continue
		}
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
			continue // not part of an entry
		}
		for _, m := range cve.FindAllStringSubmatch(line, -1) {
			if id := "CVE-" + m[1] + "-" + m[2]; !seen[id] {
				seen[id] = true
				e.CVEs = append(e.CVEs, id)
			}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("parsing changelog: %w", err)
	}
	if len(out) == 0 {
		return nil, errors.New("parsing changelog: it has no entry")
	}
	return out, nil
}

func date(s string) time.Time {
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 -0700", time.RFC1123Z} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// Fixes are the vulnerabilities a changelog's entries name, each with the
// oldest version that names it: later entries often only speak of the fix
// again, when a patch is refreshed or comes with a new upstream version.
func Fixes(entries []Entry) []Fix {
	at := map[string]int{}
	var out []Fix
	for i := len(entries) - 1; i >= 0; i-- { // oldest first
		for _, id := range entries[i].CVEs {
			if _, ok := at[id]; !ok {
				at[id] = len(out)
				out = append(out, Fix{CVE: id, Version: entries[i].Version, Date: entries[i].Date})
			}
		}
	}
	return out
}
