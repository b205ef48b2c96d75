package housetest

import (
	"bufio"
	"bytes"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// The program can be run and installed from elsewhere only without replace and
// exclude (go help install).
func TestGoMod(t *testing.T) { none(t, "go.mod", goModViolations(t, repository(t))) }

func TestGoModSeenFailing(t *testing.T) {
	tr := tree{"go.mod": []byte("module drydock\n\ngo 1.26\n\nrequire a.example/x v1.0.0\n\nreplace a.example/x => ../x\n\nexclude a.example/x v1.0.1\n")}
	seen(t, goModViolations(t, tr), "replace a.example/x", "exclude a.example/x")
	tr["go.mod"] = []byte("module other\n")
	seen(t, goModViolations(t, tr), "module path is other")
}

func goModViolations(t testing.TB, tr tree) []string {
	t.Helper()
	f, err := modfile.Parse("go.mod", tr["go.mod"], nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	if f.Module.Mod.Path != module {
		out = append(out, "module path is "+f.Module.Mod.Path)
	}
	for _, r := range f.Replace {
		out = append(out, "replace "+r.Old.Path)
	}
	for _, e := range f.Exclude {
		out = append(out, "exclude "+e.Mod.Path)
	}
	return out
}

// A mirror is found in the configuration of the machine; no file of ours may
// name one. The hosts are read where the program's discovery reads them.
func TestNoMirrorHosts(t *testing.T) {
	hosts := mirrorHosts()
	if len(hosts) == 0 {
		t.Skip("this machine configures no package mirror whose name could leak")
	}
	none(t, "mirror hosts", wordViolations(repository(t), hosts, "names a package mirror"))
}

// Paths that exist only on the machine where something was written.
func TestNoMachinePaths(t *testing.T) {
	none(t, "machine paths", pathViolations(repository(t)))
}

func TestWordsSeenFailing(t *testing.T) {
	tr := fixture(t, "words.txtar")
	seen(
		t, wordViolations(tr, []string{"proxy.corp.example", "deb.corp.example"}, "names a package mirror"),
		"a/a.go:3: names a package mirror: proxy.corp.example", "README.md:2: names a package mirror: deb.corp.example",
	)
	paths := tree{}
	for name, b := range tr {
		paths[name] = bytes.ReplaceAll(b, []byte("SLASH"), []byte("/"))
	}
	seen(t, pathViolations(paths), "README.md:4: ", "README.md:5: ")
}

// machinePath matches absolute paths of a home or a work folder. /root as the
// home in an image's passwd file and the like are quoted with a colon before.
var machinePath = regexp.MustCompile(`(^|[\s"'=(])/(root|work|home/[a-z]+)/[A-Za-z0-9._-]+`)

func pathViolations(tr tree) []string {
	var out []string
	for name, b := range tr {
		if binary(b) {
			continue
		}
		eachLine(b, func(n int, line string) {
			if m := machinePath.FindString(line); m != "" {
				out = append(out, fmt.Sprintf("%s:%d: path of one machine: %s", name, n, strings.TrimSpace(m)))
			}
		})
	}
	return out
}

func wordViolations(tr tree, words []string, what string) []string {
	var out []string
	for name, b := range tr {
		if name == "go.sum" || binary(b) {
			continue
		}
		eachLine(b, func(n int, line string) {
			for _, w := range words {
				if strings.Contains(strings.ToLower(line), w) {
					out = append(out, fmt.Sprintf("%s:%d: %s: %s", name, n, what, w))
				}
			}
		})
	}
	return out
}

func binary(b []byte) bool { return bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 }

func eachLine(b []byte, f func(int, string)) {
	for i, line := range strings.Split(string(b), "\n") {
		f(i+1, line)
	}
}

var anyURL = regexp.MustCompile(`https?://[^\s,|"']+`)

// mirrorHosts reads apt's sources, the go command's proxies and npm's registry,
// as configured here or built into the client.
func mirrorHosts() []string {
	var text strings.Builder
	sources, _ := filepath.Glob("/etc/apt/sources.list.d/*")
	for _, f := range append(sources, "/etc/apt/sources.list") {
		if b, err := os.ReadFile(f); err == nil {
			text.Write(uncomment(b))
		}
	}
	for _, args := range [][]string{{"go", "env", "GOPROXY"}, {"npm", "config", "get", "registry"}} {
		if out, err := exec.Command(args[0], args[1:]...).Output(); err == nil {
			text.Write(out)
			text.WriteString("\n")
		}
	}
	seen := map[string]bool{"localhost": true, "127.0.0.1": true, "": true}
	var hosts []string
	for _, raw := range anyURL.FindAllString(text.String(), -1) {
		u, err := url.Parse(raw)
		if err != nil || seen[u.Hostname()] {
			continue
		}
		seen[u.Hostname()] = true
		hosts = append(hosts, strings.ToLower(u.Hostname()))
	}
	return hosts
}

func uncomment(b []byte) []byte {
	var out bytes.Buffer
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if l := strings.TrimSpace(sc.Text()); !strings.HasPrefix(l, "#") {
			out.WriteString(l + "\n")
		}
	}
	return out.Bytes()
}
