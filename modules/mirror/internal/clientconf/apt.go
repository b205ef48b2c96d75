package clientconf

import (
	"fmt"
	"path/filepath"
	"strings"

	"drydock/modules/mirror/debian"
)

// AptSource is one archive of apt's configuration (sources.list(5)).
type AptSource struct {
	URI             string // as written, credentials included
	Suites          []string
	Components      []string
	Architectures   []string // empty: all
	SignedBy        string   // keyring file; "" when none or embedded
	CheckValidUntil bool
	Place           string // file:line or file
}

// AptSources reads sources.list and sources.list.d below etc (/etc/apt).
// What Drydock cannot use is left out with a note; a file that cannot be read
// or parsed is left out with a note as well, as apt would speak of it itself.
func AptSources(etc string) (sources []AptSource, notes []string) {
	files := append([]string{filepath.Join(etc, "sources.list")},
		listDir(filepath.Join(etc, "sources.list.d"), ".list", ".sources")...)
	for _, file := range files {
		text, err := readOptional(file)
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s: not read: %v", file, err))
			continue
		}
		var s []AptSource
		var n []string
		if strings.HasSuffix(file, ".sources") {
			s, n = ParseDeb822Sources(file, text)
		} else {
			s, n = ParseSourcesList(file, text)
		}
		sources, notes = append(sources, s...), append(notes, n...)
	}
	return sources, notes
}

// ParseDeb822Sources reads a .sources file.
func ParseDeb822Sources(file, text string) (sources []AptSource, notes []string) {
	err := debian.ReadStanzas(strings.NewReader(text), nil, func(st debian.Stanza) bool {
		if v := st["enabled"]; v != "" && !truth(v) {
			return true
		}
		if !has(strings.Fields(st["types"]), "deb") {
			return true
		}
		src := AptSource{
			Suites: strings.Fields(st["suites"]), Components: strings.Fields(st["components"]),
			Architectures: strings.Fields(st["architectures"]), Place: file,
			CheckValidUntil: st["check-valid-until"] == "" || truth(st["check-valid-until"]),
		}
		if by := strings.TrimSpace(st["signed-by"]); strings.HasPrefix(by, "/") {
			src.SignedBy = strings.Fields(by)[0]
		}
		for _, uri := range strings.Fields(st["uris"]) {
			one := src
			one.URI = uri
			if why := unusable(one); why != "" {
				notes = append(notes, fmt.Sprintf("%s: %s", file, why))
				continue
			}
			sources = append(sources, one)
		}
		return true
	})
	if err != nil {
		notes = append(notes, fmt.Sprintf("%s: %v", file, err))
	}
	return sources, notes
}

// ParseSourcesList reads the one-line format.
func ParseSourcesList(file, text string) (sources []AptSource, notes []string) {
	for i, line := range strings.Split(text, "\n") {
		place := fmt.Sprintf("%s:%d", file, i+1)
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if kind != "deb" {
			continue // deb-src, comments, empty lines
		}
		src := AptSource{Place: place, CheckValidUntil: true}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				notes = append(notes, place+": options without a closing bracket")
				continue
			}
			src.setOptions(options)
			rest = after
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			notes = append(notes, place+": no archive and suite")
			continue
		}
		src.URI, src.Suites, src.Components = f[0], f[1:2], f[2:]
		if why := unusable(src); why != "" {
			notes = append(notes, place+": "+why)
			continue
		}
		sources = append(sources, src)
	}
	return sources, notes
}

func (s *AptSource) setOptions(options string) {
	for _, o := range strings.Fields(options) {
		k, v, _ := strings.Cut(o, "=")
		switch strings.ToLower(strings.TrimRight(k, "+-")) {
		case "signed-by":
			if strings.HasPrefix(v, "/") {
				s.SignedBy = strings.Split(v, ",")[0]
			}
		case "arch":
			s.Architectures = strings.Split(v, ",")
		case "check-valid-until":
			s.CheckValidUntil = truth(v)
		}
	}
}

// unusable says why a source cannot be a mirror of ours; "" when it can.
func unusable(s AptSource) string {
	scheme, rest, ok := strings.Cut(s.URI, ":")
	if !ok || strings.Trim(rest, "/") == "" {
		return "left out: not an archive's URI"
	}
	switch scheme {
	case "http", "https", "file":
	default:
		return "left out: " + scheme + ": sources are for apt alone"
	}
	if len(s.Suites) == 0 || strings.HasSuffix(s.Suites[0], "/") || len(s.Components) == 0 {
		return "left out: a flat archive, without suites and components"
	}
	return ""
}

func truth(v string) bool {
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "no", "false", "0", "off", "without", "disable":
		return false
	}
	return true
}

func has(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

// AptConf reads apt.conf.d and apt.conf below etc into a map by lower-case
// option name ("acquire::http::proxy").
func AptConf(etc string) map[string]string {
	conf := map[string]string{}
	files := append(listDir(filepath.Join(etc, "apt.conf.d"), ""), filepath.Join(etc, "apt.conf"))
	for _, file := range files {
		base := filepath.Base(file)
		if ext := filepath.Ext(base); ext != "" && ext != ".conf" {
			continue // apt reads files without extension or with .conf
		}
		if text, err := readOptional(file); err == nil {
			ParseAptConf(text, conf)
		}
	}
	return conf
}

// ParseAptConf reads apt.conf(5) text into conf: scopes in braces and names
// with "::" alike. Of lists the last element stays.
func ParseAptConf(text string, conf map[string]string) {
	var scope []string
	var words []string
	flush := func() {
		if len(words) >= 2 {
			name := strings.Join(append(append([]string{}, scope...), strings.TrimSuffix(words[0], "::")), "::")
			conf[strings.ToLower(name)] = words[len(words)-1]
		}
		words = nil
	}
	for _, tok := range aptTokens(text) {
		switch tok {
		case "{":
			name := ""
			if len(words) > 0 {
				name = words[len(words)-1]
			}
			scope, words = append(scope, name), nil
		case "}":
			flush()
			if len(scope) > 0 {
				scope = scope[:len(scope)-1]
			}
		case ";":
			flush()
		default:
			words = append(words, strings.TrimPrefix(tok, "\""))
		}
	}
	flush()
}

// aptTokens splits apt.conf text; a quoted string keeps one leading quote so
// that it is never taken for punctuation.
func aptTokens(text string) []string {
	var out []string
	for i := 0; i < len(text); {
		rest := text[i:]
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case strings.HasPrefix(rest, "//"), c == '#':
			i += endOf(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			i += endOf(rest, "*/")
		case c == '{' || c == '}' || c == ';':
			out = append(out, string(c))
			i++
		case c == '"':
			n := strings.IndexByte(rest[1:], '"')
			if n < 0 {
				return out
			}
			out = append(out, "\""+rest[1:1+n])
			i += n + 2
		default:
			n := strings.IndexAny(rest, " \t\r\n;{}\"")
			if n < 0 {
				n = len(rest)
			}
			out = append(out, rest[:n])
			i += n
		}
	}
	return out
}

// endOf is the length of s up to and including end, or all of it.
func endOf(s, end string) int {
	if i := strings.Index(s, end); i >= 0 {
		return i + len(end)
	}
	return len(s)
}
