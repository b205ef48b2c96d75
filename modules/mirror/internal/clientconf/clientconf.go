// Package clientconf reads the configuration of ordinary clients (apt, go,
// npm, curl) without needing those clients. It touches no network.
package clientconf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Environ is an environment by variable name.
type Environ map[string]string

// NewEnviron reads "NAME=value" strings; of two the later wins.
func NewEnviron(list []string) Environ {
	e := Environ{}
	for _, kv := range list {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e[k] = v
		}
	}
	return e
}

// First is the value of the first of names that is set and not empty.
func (e Environ) First(names ...string) (value, name string) {
	for _, n := range names {
		if v := e[n]; v != "" {
			return v, n
		}
	}
	return "", ""
}

// LookPath finds an executable on the environment's PATH; "" when there is
// none.
func (e Environ) LookPath(name string) string {
	for _, dir := range filepath.SplitList(e["PATH"]) {
		if dir == "" || !filepath.IsAbs(dir) {
			continue
		}
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// readOptional is a file's text, and "" when there is no such file.
func readOptional(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil
	}
	return string(b), err
}

// listDir is the regular files of a directory that end so, in order.
func listDir(dir string, suffixes ...string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		for _, s := range suffixes {
			if !e.IsDir() && strings.HasSuffix(e.Name(), s) && !strings.HasPrefix(e.Name(), ".") {
				out = append(out, filepath.Join(dir, e.Name()))
				break
			}
		}
	}
	return out
}
