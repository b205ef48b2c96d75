package clientconf

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// Credential is what to present to one host, perhaps below one path.
type Credential struct {
	Host           string // host or host:port; "" never matches
	Path           string // prefix; "" or "/" is all of the host
	Scheme         string // only for this scheme; "" see AnyScheme
	AnyScheme      bool   // over plain HTTP too; otherwise HTTPS or loopback only
	Exact          bool   // Host without a port is the scheme's default port only
	User, Password string
	Bearer         string // wins over User and Password
}

// Authorization is the header's value.
func (c Credential) Authorization() string {
	if c.Bearer != "" {
		return "Bearer " + c.Bearer
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Password))
}

// Credentials is everything known, in the order of preference.
type Credentials []Credential

// For is the credential for a URL: of those that match the one with the
// longest path, of equals the first.
func (cs Credentials) For(u *url.URL) (Credential, bool) {
	best, found := Credential{}, false
	for _, c := range cs {
		if c.matches(u) && (!found || len(strings.Trim(c.Path, "/")) > len(strings.Trim(best.Path, "/"))) {
			best, found = c, true
		}
	}
	return best, found
}

func (c Credential) matches(u *url.URL) bool {
	if c.Host == "" || !c.sameHost(u) {
		return false
	}
	switch {
	case c.Scheme != "":
		if c.Scheme != u.Scheme {
			return false
		}
	case !c.AnyScheme && u.Scheme != "https" && !isLoopback(u.Hostname()):
		return false
	}
	prefix := strings.TrimSuffix(c.Path, "/")
	return prefix == "" || u.Path == prefix || strings.HasPrefix(u.Path, prefix+"/")
}

// sameHost compares the configured host[:port] with a URL's.
func (c Credential) sameHost(u *url.URL) bool {
	configured := c.Host
	if strings.EqualFold(configured, u.Host) || !c.Exact && strings.EqualFold(configured, u.Hostname()) {
		return true
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if c.Exact && !strings.Contains(configured, ":") {
		configured = net.JoinHostPort(configured, map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	return strings.EqualFold(configured, net.JoinHostPort(u.Hostname(), port))
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ReadNetrc reads NETRC or ~/.netrc (~/_netrc).
func ReadNetrc(env Environ, home string) Credentials {
	files := []string{env["NETRC"]}
	if files[0] == "" && home != "" {
		files = []string{filepath.Join(home, ".netrc"), filepath.Join(home, "_netrc")}
	}
	var out Credentials
	for _, f := range files {
		if f == "" {
			continue
		}
		if text, err := readOptional(f); err == nil {
			out = append(out, ParseNetrc(text, true)...)
		}
	}
	return out
}

// ReadAptAuth reads auth.conf and auth.conf.d below etc (apt_auth.conf(5)).
func ReadAptAuth(etc string) Credentials {
	var out Credentials
	for _, f := range append(listDir(filepath.Join(etc, "auth.conf.d"), ".conf"), filepath.Join(etc, "auth.conf")) {
		if text, err := readOptional(f); err == nil {
			out = append(out, ParseNetrc(text, false)...)
		}
	}
	return out
}

// ParseNetrc reads the netrc format with apt's extension of "machine": a
// scheme before and a path after the host. plain allows the credentials over
// plain HTTP where no scheme is written. A "default" entry is not followed: it
// would hand a password to hosts nobody named.
func ParseNetrc(text string, plain bool) Credentials {
	var out Credentials
	var cur *Credential
	flush := func() {
		if cur != nil && cur.Host != "" && (cur.User != "" || cur.Password != "") {
			out = append(out, *cur)
		}
		cur = nil
	}
	words := netrcWords(text)
	for i := 0; i < len(words); i++ {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch words[i] {
		case "machine":
			flush()
			cur = machine(next, plain)
			i++
		case "default":
			flush()
		case "login", "password", "account":
			if cur != nil && words[i] == "login" {
				cur.User = next
			} else if cur != nil && words[i] == "password" {
				cur.Password = next
			}
			i++
		}
	}
	flush()
	return out
}

// netrcWords splits a netrc into words, without comment lines and macros.
func netrcWords(text string) []string {
	var words []string
	macro := false
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case macro:
			macro = line != ""
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "macdef"):
			macro = true
		default:
			words = append(words, strings.Fields(line)...)
		}
	}
	return words
}

func machine(s string, plain bool) *Credential {
	c := &Credential{AnyScheme: plain}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		c.Scheme, s = scheme, rest
	}
	host, path, ok := strings.Cut(s, "/")
	c.Host = host
	if ok {
		c.Path = "/" + path
	}
	return c
}

// ReadDockerAuths reads the plain "auths" of DOCKER_AUTH_CONFIG and docker's
// config.json; credential helpers are not asked.
func ReadDockerAuths(env Environ, home string) Credentials {
	texts := []string{env["DOCKER_AUTH_CONFIG"]}
	dir := env["DOCKER_CONFIG"]
	if dir == "" && home != "" {
		dir = filepath.Join(home, ".docker")
	}
	if dir != "" {
		if text, err := readOptional(filepath.Join(dir, "config.json")); err == nil {
			texts = append(texts, text)
		}
	}
	var out Credentials
	for _, text := range texts {
		out = append(out, parseDockerAuths(text)...)
	}
	return out
}

func parseDockerAuths(text string) Credentials {
	var conf struct {
		Auths map[string]struct{ Auth, Username, Password string } `json:"auths"`
	}
	if json.Unmarshal([]byte(text), &conf) != nil {
		return nil
	}
	var out Credentials
	for name, a := range conf.Auths {
		if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && a.Auth != "" {
			a.Username, a.Password, _ = strings.Cut(string(raw), ":")
		}
		if _, rest, ok := strings.Cut(name, "://"); ok {
			name = rest
		}
		host, _, _ := strings.Cut(name, "/")
		if a.Username != "" {
			out = append(out, Credential{Host: host, Path: "/v2", AnyScheme: false, User: a.Username, Password: a.Password})
		}
	}
	return out
}
