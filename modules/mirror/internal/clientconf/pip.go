package clientconf

import (
	"path/filepath"
	"strings"
)

// PipIndex is the simple index pip would use and the file or variable that says
// so, "" when none does: its environment, then its user's, site's and global
// configuration files (pip documentation, Configuration).
func PipIndex(env Environ, home string) (index, source string) {
	if v, name := env.First("PIP_INDEX_URL"); v != "" {
		return strings.TrimSpace(v), name
	}
	for _, f := range pipFiles(env, home) {
		text, err := readOptional(f)
		if err != nil {
			continue
		}
		if v := ParsePipConf(text)["global.index-url"]; v != "" {
			return v, f
		}
	}
	return "", ""
}

// pipFiles is pip's configuration files, the stronger first.
func pipFiles(env Environ, home string) []string {
	var files []string
	if v := env["PIP_CONFIG_FILE"]; v != "" {
		if v == "/dev/null" { // pip then reads none at all
			return nil
		}
		files = append(files, v)
	}
	if v := env["VIRTUAL_ENV"]; v != "" {
		files = append(files, filepath.Join(v, "pip.conf"))
	}
	conf := env["XDG_CONFIG_HOME"]
	if conf == "" && home != "" {
		conf = filepath.Join(home, ".config")
	}
	if conf != "" {
		files = append(files, filepath.Join(conf, "pip", "pip.conf"))
	}
	if home != "" {
		files = append(files, filepath.Join(home, ".pip", "pip.conf"))
	}
	for _, dir := range filepath.SplitList(env["XDG_CONFIG_DIRS"]) {
		files = append(files, filepath.Join(dir, "pip", "pip.conf"))
	}
	return append(files, "/etc/xdg/pip/pip.conf", "/etc/pip.conf")
}

// ParsePipConf reads a pip.conf's values by "section.key", keys as pip
// normalizes them.
func ParsePipConf(text string) map[string]string {
	out := map[string]string{}
	section, key := "", ""
	for _, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';':
		case trimmed[0] == '[':
			section, key = strings.ToLower(strings.Trim(trimmed, "[]")), ""
		case line[0] == ' ' || line[0] == '\t': // a value's next line
			if key != "" {
				out[key] = strings.TrimSpace(out[key] + "\n" + trimmed)
			}
		default:
			i := strings.IndexAny(trimmed, "=:")
			if i < 0 {
				continue
			}
			key = section + "." + strings.ReplaceAll(strings.ToLower(strings.TrimSpace(trimmed[:i])), "_", "-")
			out[key] = strings.TrimSpace(trimmed[i+1:])
		}
	}
	return out
}
