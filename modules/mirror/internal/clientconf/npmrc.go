package clientconf

import (
	"context"
	"encoding/base64"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// Npm is what npm's configuration says about registries.
type Npm struct {
	Registry    string            // "" when set nowhere
	Source      string            // file or variable Registry comes from
	Scopes      map[string]string // "@scope" to registry
	Credentials []Credential
	Files       []string // configuration files there could be, the stronger first
}

// ReadNpm reads npm's environment, user and global configuration. A project's
// .npmrc belongs to the project and is not read.
func ReadNpm(env Environ, home string) Npm {
	n := Npm{Scopes: map[string]string{}, Files: npmFiles(env, home)}
	lower := Environ{}
	for k, v := range env {
		if k = strings.ToLower(k); strings.HasPrefix(k, "npm_config_") {
			lower[strings.TrimPrefix(k, "npm_config_")] = v
		}
	}
	if v := lower["registry"]; v != "" {
		n.Registry, n.Source = v, "npm_config_registry"
	}
	merged := map[string]string{}
	for i := len(n.Files) - 1; i >= 0; i-- { // weaker first
		text, err := readOptional(n.Files[i])
		if err != nil {
			continue
		}
		for k, v := range ParseNpmrc(text, env) {
			merged[k] = v
			if k == "registry" && n.Source != "npm_config_registry" {
				n.Registry, n.Source = v, n.Files[i]
			}
		}
	}
	for k, v := range lower {
		merged[k] = v
	}
	for k, v := range merged {
		if scope, ok := strings.CutSuffix(k, ":registry"); ok && strings.HasPrefix(scope, "@") {
			n.Scopes[scope] = v
		}
	}
	n.Credentials = npmCredentials(merged, n.Registry)
	return n
}

func npmFiles(env Environ, home string) []string {
	var files []string
	if v, _ := env.First("npm_config_userconfig", "NPM_CONFIG_USERCONFIG"); v != "" {
		files = append(files, v)
	} else if home != "" {
		files = append(files, filepath.Join(home, ".npmrc"))
	}
	if v, _ := env.First("npm_config_globalconfig", "NPM_CONFIG_GLOBALCONFIG"); v != "" {
		return append(files, v)
	}
	prefix, _ := env.First("npm_config_prefix", "NPM_CONFIG_PREFIX", "PREFIX")
	if node := env.LookPath("node"); prefix == "" && node != "" {
		prefix = filepath.Dir(filepath.Dir(node))
	}
	if prefix != "" {
		files = append(files, filepath.Join(prefix, "etc", "npmrc"))
	}
	return append(files, "/etc/npmrc")
}

// AskNpm is the registry npm itself answers, for when no file sets one.
func AskNpm(ctx context.Context, env Environ) (registry string) {
	npm := env.LookPath("npm")
	if npm == "" {
		return ""
	}
	out := ask(ctx, env, npm, "config", "get", "registry")
	if u, err := url.Parse(out); err != nil || u.Host == "" {
		return ""
	}
	return out
}

var npmVariable = regexp.MustCompile(`\$\{([^}]+)\}`)

// ParseNpmrc reads an npmrc's keys and values; ${NAME} is expanded in both as
// npm does, and an unset variable stays as it is.
func ParseNpmrc(text string, env Environ) map[string]string {
	expand := func(s string) string {
		return npmVariable.ReplaceAllStringFunc(s, func(m string) string {
			name, optional := strings.CutSuffix(m[2:len(m)-1], "?")
			if v, ok := env[name]; ok {
				return v
			}
			if optional {
				return ""
			}
			return m
		})
	}
	out := map[string]string{}
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == ';' || line[0] == '#' || line[0] == '[' {
			continue
		}
		k, v, _ := strings.Cut(line, "=")
		v = strings.TrimSpace(v)
		if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
			v = v[1 : len(v)-1]
		}
		out[expand(strings.TrimSpace(k))] = expand(v)
	}
	return out
}

// npmCredentials turns "//host/path/:_authToken" and its kin into credentials.
// The old form without a registry speaks of the default one.
func npmCredentials(conf map[string]string, registry string) []Credential {
	defaultPlace := ""
	if u, err := url.Parse(registry); err == nil && u.Host != "" {
		defaultPlace = "//" + u.Host + strings.TrimSuffix(u.Path, "/") + "/"
	}
	places := map[string]map[string]string{}
	for k, v := range conf {
		place, name := defaultPlace, k
		if strings.HasPrefix(k, "//") {
			i := strings.LastIndexByte(k, ':')
			if i < 0 {
				continue
			}
			place, name = k[:i], k[i+1:]
		}
		switch name {
		case "_auth", "_authToken", "username", "_password":
			if place != "" && v != "" {
				if places[place] == nil {
					places[place] = map[string]string{}
				}
				places[place][name] = v
			}
		}
	}
	var out []Credential
	for place, kv := range places {
		if c, ok := npmCredential(place, kv); ok {
			out = append(out, c)
		}
	}
	return out
}

func npmCredential(place string, kv map[string]string) (Credential, bool) {
	u, err := url.Parse("https:" + place)
	if err != nil || u.Host == "" {
		return Credential{}, false
	}
	c := Credential{Host: u.Host, Path: u.Path, AnyScheme: true, Exact: true}
	switch {
	case kv["_authToken"] != "":
		c.Bearer = kv["_authToken"]
	case kv["username"] != "" && kv["_password"] != "":
		pw, err := base64.StdEncoding.DecodeString(kv["_password"])
		if err != nil {
			return Credential{}, false
		}
		c.User, c.Password = kv["username"], string(pw)
	default:
		raw, err := base64.StdEncoding.DecodeString(kv["_auth"])
		user, pw, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok {
			return Credential{}, false
		}
		c.User, c.Password = user, pw
	}
	return c, true
}
