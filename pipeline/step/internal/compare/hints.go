package compare

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"path"
	"slices"
	"strings"
)

// looked is how much of a file is looked at for a hint.
const looked = 64 << 20

// habit is a tool that writes what differs from one build to the next.
type habit struct {
	match func(name string) bool
	hint  string
}

// habits are known by the path alone; the first that matches holds.
var habits = []habit{
	{base("machine-id"), "systemd and dbus make it up when they are installed: empty it in the same RUN (: > /etc/machine-id)"},
	{pyc, "python writes the time of the source into it: leave SOURCE_DATE_EPOCH, which every RUN has, set while modules are installed, or set PYTHONDONTWRITEBYTECODE=1"},
	{within("node_modules/.cache/"), "a build tool's cache: remove node_modules/.cache in the same RUN"},
	{within("_cacache/"), "npm's cache, which holds times: npm ci --cache=/tmp/npm && rm -rf /tmp/npm, or a cache mount for it"},
	{within(".npm/"), "npm's cache and logs: rm -rf ~/.npm in the same RUN, or a cache mount for it (RUN --mount=type=cache)"},
	{suffix("node_modules/.package-lock.json"), "npm writes what it installed: install with npm ci from a package-lock.json, not npm install"},
	{base(".modules.yaml", ".pnpm-workspace-state.json"), "pnpm writes when it installed: have pnpm deploy or a copy of what is run, without it, in the last stage"},
	{within("pnpm/store/"), "pnpm's store, which holds times: a cache mount for it (RUN --mount=type=cache)"},
	{suffix("pnpm/pnpm-state.json"), "pnpm looked for a newer pnpm: remove it in the same RUN"},
	{within(".cache/"), "a tool's cache: remove it in the same RUN, or RUN --mount=type=cache"},
	{within("go/pkg/"), "Go's module cache: build in a stage of its own and copy the program from it, or a cache mount for it (RUN --mount=type=cache)"},
	{suffix("var/cache/ldconfig/aux-cache"), "ldconfig's cache, which holds inode numbers: rm /var/cache/ldconfig/aux-cache in the same RUN"},
	{suffix("etc/ld.so.cache"), "ldconfig lists libraries in the order it finds them: run ldconfig last in the same RUN"},
	{prefix("var/lib/apt/lists/"), "apt's package lists: rm -rf /var/lib/apt/lists/* in the same RUN"},
	{prefix("var/cache/apt/"), "apt's cache: apt-get clean in the same RUN"},
	{prefix("var/cache/fontconfig/"), "fontconfig's cache, which holds times: rm -rf /var/cache/fontconfig in the same RUN"},
	{prefix("var/cache/"), "a cache: remove it in the same RUN"},
	{prefix("var/log/"), "a log: remove it in the same RUN"},
	{prefix("tmp/", "var/tmp/", "run/"), "a leftover: remove it in the same RUN"},
	{prefix("etc/ssh/ssh_host_"), "a key made when ssh was installed, the same in every container: remove it, and make it when the container starts"},
	{prefix("etc/ssl/private/"), "a key made while the image was built, the same in every container: remove it, and make it when the container starts"},
	{suffix("etc/ssl/certs/ssl-cert-snakeoil.pem"), "the certificate of a key made when ssl-cert was installed: remove both, and make them when the container starts (make-ssl-cert generate-default-snakeoil)"},
	{prefix("var/lib/mysql/", "var/lib/postgresql/"), "a database made when its server was installed, with keys and times in it: remove it in the same RUN, and make it when the container starts (mysqld --initialize, pg_createcluster)"},
	{suffix(".fmt"), "TeX writes the time into its formats: leave SOURCE_DATE_EPOCH, which every RUN has, set, and set FORCE_SOURCE_DATE=1"},
	{suffix(".dist-info/RECORD"), "pip lists the digests of what it installed: look at the files beside it that differ"},
	{prefix("etc/shadow", "etc/passwd", "etc/group", "etc/gshadow"), "the account tools number users in the order they are made, and write the day: make them in one RUN, with --uid"},
	{within(".git/"), "git writes times into its index: copy the files, not the repository"},
	{suffix(".ipynb_checkpoints", ".DS_Store", "~", ".swp"), "an editor's leftover: remove it, or name it in .dockerignore"},
}

func base(names ...string) func(string) bool {
	return func(name string) bool { return slices.Contains(names, path.Base(name)) }
}

func prefix(starts ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(starts, func(s string) bool { return strings.HasPrefix(name, s) })
	}
}

func suffix(ends ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(ends, func(s string) bool { return strings.HasSuffix(name, s) })
	}
}

// within matches below a directory of that name, wherever it is.
func within(dir string) func(string) bool {
	return func(name string) bool { return strings.Contains("/"+name, "/"+dir) }
}

func pyc(name string) bool {
	return strings.HasSuffix(name, ".pyc") || strings.HasSuffix(name, ".pyo") || strings.Contains("/"+name+"/", "/__pycache__/")
}

// hint says what made a file differ, "" when nothing is known.
func hint(name string, changes []string, was, now *files) string {
	for _, h := range habits {
		if h.match(name) {
			return h.hint
		}
	}
	switch {
	case slices.Contains(changes, "content"):
		return contentHint(name, was.content(name), now.content(name))
	case slices.Contains(changes, "time"):
		return "only its time differs: another program than drydock wrote one of the two images"
	case slices.Contains(changes, "mode"):
		return "a checkout's umask, or a RUN that sets its own: give the mode with COPY --chmod or chmod"
	}
	return ""
}

// contentHint looks at what differs.
func contentHint(name string, was, now *io.SectionReader) string {
	if was.Size() > looked || now.Size() > looked {
		return ""
	}
	a, errA := io.ReadAll(was)
	b, errB := io.ReadAll(now)
	if errA != nil || errB != nil {
		return ""
	}
	for _, f := range formats {
		if bytes.HasPrefix(a, []byte(f.magic)) && bytes.HasPrefix(b, []byte(f.magic)) && f.match(a, b) {
			return f.hint
		}
	}
	return ""
}

// formats are files whose kind says what differs in them; the first that
// matches holds.
var formats = []struct {
	magic string
	match func(a, b []byte) bool
	hint  string
}{
	{"\x1f\x8b", sameUnpacked, "the same content, only the gzip header differs, which holds a time: gzip -n"},
	{"\x1f\x8b", always, "what is compressed in it differs"},
	{"PK\x03\x04", always, "archives of this kind (zip, jar, whl) hold the time of every file: have the tool use SOURCE_DATE_EPOCH (maven: project.build.outputTimestamp)"},
	{"\x7fELF", goPrograms, "a Go program: build with -trimpath, in a folder that is always called the same, without a time or a random folder in -ldflags"},
	{"\x7fELF", always, "a compiled program: look for __DATE__, __TIME__, build paths (-ffile-prefix-map) and random build ids (-Wl,--build-id=sha1)"},
	{"!<arch>\n", always, "ar writes times and owners: ar -D, or ranlib -D"},
	{"SQLite format 3\x00", always, "a database, whose pages depend on the order of what was written"},
}

func always(_, _ []byte) bool { return true }

func goPrograms(a, b []byte) bool { return bytes.Contains(a, goMark) && bytes.Contains(b, goMark) }

// goMark starts the build information the Go linker writes (cmd/go, buildinfo).
var goMark = []byte("\xff Go buildinf:")

func sameUnpacked(a, b []byte) bool {
	x, okX := unpackedSum(a)
	y, okY := unpackedSum(b)
	return okX && okY && x == y
}

func unpackedSum(raw []byte) ([sha256.Size]byte, bool) {
	var out [sha256.Size]byte
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return out, false
	}
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(z, looked+1)); err != nil || n > looked {
		return out, false
	}
	copy(out[:], h.Sum(nil))
	return out, true
}
