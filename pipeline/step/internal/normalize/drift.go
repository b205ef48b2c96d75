package normalize

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// drift says whether an entry is a trace of when and how it was built, not of
// what was: logs and caches of dpkg, apt, debconf and npm, programs that Node.js
// keeps compiled, what the go command built and counts of its own use, ldconfig's list of inodes, and the
// backups the account tools leave.
func drift(e entry) bool {
	dir, base := path.Split(e.path)
	if (nodeTrace.MatchString(e.path) || cacheTrace.MatchString("/"+e.path)) && !strings.HasPrefix(base, whiteoutPrefix) {
		return true // folders too, since their names differ
	}
	if e.header.Typeflag == tar.TypeDir || strings.HasPrefix(base, whiteoutPrefix) {
		return false
	}
	switch e.path {
	case "var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log", "var/log/lastlog", "var/log/faillog", "var/log/aptitude",
		"var/cache/ldconfig/aux-cache",
		"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock":
		return true
	}
	switch {
	case strings.Contains("/"+dir, "/.npm/_logs/"), base == "_update-notifier-last-checked" && path.Base(dir) == ".npm":
		return true
	case strings.Contains("/"+dir, "/.config/go/telemetry/local/"):
		return true
	case dir == "var/log/apt/", strings.HasPrefix(e.path, "var/lib/apt/lists/"):
		return true
	case dir == "var/cache/apt/":
		return strings.HasSuffix(base, ".bin")
	case dir == "var/cache/apt/archives/":
		return base == "lock" || strings.HasSuffix(base, ".deb")
	case dir == "var/cache/debconf/", dir == "var/lib/dpkg/":
		return strings.HasSuffix(base, "-old")
	}
	return false
}

// nodeTrace is what Node.js programs leave in /tmp: compiled code, of Node's own
// cache (module.enableCompileCache) and of the package v8-compile-cache, and the
// folder in which classic yarn has links to itself while it runs scripts.
var nodeTrace = regexp.MustCompile(`^tmp/(node-compile-cache|v8-compile-cache-[0-9]+|yarn--[0-9]+-0\.[0-9]+)(/|$)`)

// cacheTrace is what tools keep to be faster the next time, with the times of it
// and more or less of it by how fast files were written: npm's cache, pip's of HTTP,
// the go command's of builds, pnpm's of programs it ran once. All are made anew where they are not there. pipx
// names its logs after the time.
var cacheTrace = regexp.MustCompile(`/\.npm/_cacache(/|$)|^/tmp/([^/]+/)?_cacache(/|$)|/\.cache/(go-build|pip/(http|http-v2|selfcheck)|pnpm/dlx)(/|$)|/pipx/logs/`)

// machineID is what systemd and dbus make up (machine-id(5)).
var machineID = regexp.MustCompile(`^[0-9a-f]{32}\n?$`)

// isMachineID says whether a file is the identity of one machine. An image for
// many has an empty one (machine-id(5), "Initialization").
func isMachineID(plain io.ReaderAt, e entry) bool {
	if e.path != "etc/machine-id" && e.path != "var/lib/dbus/machine-id" || e.header.Typeflag != tar.TypeReg || e.header.Size > 33 {
		return false
	}
	raw := make([]byte, e.header.Size)
	_, err := plain.ReadAt(raw, e.offset)
	return (err == nil || err == io.EOF) && machineID.Match(raw)
}

const (
	shadowFile = "etc/shadow"
	maxShadow  = 1 << 20
)

// steadyShadow is /etc/shadow with no password changed after the epoch: the
// account tools write the day of the build into it (shadow(5), third field).
func steadyShadow(plain io.ReaderAt, e entry, epoch time.Time) ([]byte, error) {
	if e.header.Size > maxShadow {
		return nil, fmt.Errorf("/etc/shadow has %d bytes", e.header.Size)
	}
	raw := make([]byte, e.header.Size)
	if _, err := plain.ReadAt(raw, e.offset); err != nil && err != io.EOF {
		return nil, err
	}
	day := epoch.Unix() / 86400
	lines := strings.Split(string(raw), "\n")
	for i, l := range lines {
		f := strings.Split(l, ":")
		if len(f) < 3 {
			continue
		}
		if changed, err := strconv.ParseInt(f[2], 10, 64); err == nil && changed > day {
			f[2] = strconv.FormatInt(day, 10)
			lines[i] = strings.Join(f, ":")
		}
	}
	return []byte(strings.Join(lines, "\n")), nil
}

// directories is what is known of the directories of the layers so far. A
// layer's entry for a directory that it does not change says only that the
// builder looked: whether it is there depends on the engine's snapshotter.
type directories struct{ known map[string]string }

func newDirectories() *directories { return &directories{known: map[string]string{}} }

// has says whether the layers below hold the same directory already.
func (d *directories) has(e entry) bool {
	have, ok := d.known[e.path]
	return ok && have == directory(e.header)
}

func directory(h *tar.Header) string {
	return fmt.Sprintf("%o %d %d %v", h.Mode&0o7777, h.Uid, h.Gid, attributes(h))
}

// remove takes away what a layer removes from the layers below it.
func (d *directories) remove(entries []entry) {
	for _, e := range entries {
		dir, base := path.Split(e.path)
		switch {
		case base == whiteoutOpaque:
			d.forget(strings.TrimSuffix(dir, "/"), false)
		case strings.HasPrefix(base, whiteoutPrefix):
			d.forget(dir+strings.TrimPrefix(base, whiteoutPrefix), true)
		case e.header.Typeflag != tar.TypeDir:
			d.forget(e.path, true)
		}
	}
}

// add puts a layer's directories on top, and those it only implies.
func (d *directories) add(entries []entry) {
	for _, e := range entries {
		if e.header.Typeflag != tar.TypeDir {
			continue
		}
		d.known[e.path] = directory(e.header)
		for dir := path.Dir(e.path); dir != "."; dir = path.Dir(dir) {
			if _, ok := d.known[dir]; ok {
				break
			}
			d.known[dir] = ""
		}
	}
}

// forget drops what is below a path, and the path itself if asked.
func (d *directories) forget(name string, itself bool) {
	_, known := d.known[name]
	if itself && !known {
		return // never was a directory
	}
	if itself {
		delete(d.known, name)
	}
	prefix := name + "/"
	if name == "" {
		prefix = ""
	}
	for k := range d.known {
		if strings.HasPrefix(k, prefix) {
			delete(d.known, k)
		}
	}
}
