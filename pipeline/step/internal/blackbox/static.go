package blackbox

import (
	"archive/tar"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/sandbox/suite"
)

// The kinds of tests, as reports name them.
const (
	kindCommand   = "command"
	kindExistence = "fileExistence"
	kindContent   = "fileContent"
	kindMetadata  = "metadata"
	kindService   = "service"

	statusPassed  = "passed"
	statusFailed  = "failed"
	statusSkipped = "skipped"
)

// problems collects what a test found wrong.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// result is the outcome of a test.
func (p problems) result(name, kind string) artifact.TestResult {
	r := artifact.TestResult{Name: name, Kind: kind, Status: statusPassed}
	if len(p) > 0 {
		r.Status, r.Message = statusFailed, strings.Join(p, "\n")
	}
	return r
}

// Static evaluates what needs no execution: files and configuration, from the
// archive. It says the same on every platform.
func Static(img *Image, req *suite.Request) ([]artifact.TestResult, error) {
	var out []artifact.TestResult
	if req.NonRoot {
		out = append(out, nonRoot(img))
	}
	for _, m := range req.Suite.Metadata {
		out = append(out, metadata(img, m).result("metadata", kindMetadata))
	}
	if len(req.Suite.Existence)+len(req.Suite.Contents) == 0 {
		return out, nil
	}
	if err := img.load(); err != nil {
		return nil, err
	}
	for _, t := range req.Suite.Existence {
		out = append(out, existence(img, t).result(t.Name, kindExistence))
	}
	paths := map[string]string{} // as written -> resolved
	var wanted []string
	for _, t := range req.Suite.Contents {
		if at, ok := img.resolve(t.Path, true); ok {
			paths[t.Path] = at
			wanted = append(wanted, at)
		}
	}
	contents, err := img.contents(wanted)
	if err != nil {
		return nil, err
	}
	for _, t := range req.Suite.Contents {
		var p problems
		at, there := paths[t.Path]
		text, read := contents[at]
		switch {
		case !there:
			p.add("%s does not exist", t.Path)
		case !read:
			p.add("%s is not a regular file", t.Path)
		default:
			match(&p, t.Path, text, t.ExpectedContents, t.ExcludedContents)
		}
		out = append(out, p.result(t.Name, kindContent))
	}
	return out, nil
}

// match checks a text against patterns that must and must not occur.
func match(p *problems, what, text string, expected, excluded []string) {
	for _, e := range expected {
		if re, err := regexp.Compile(e); err != nil || !re.MatchString(text) {
			p.add("%s does not match %q\n%s", what, e, excerpt(text))
		}
	}
	for _, e := range excluded {
		if re, err := regexp.Compile(e); err != nil || re.MatchString(text) {
			p.add("%s matches %q, which is excluded\n%s", what, e, excerpt(text))
		}
	}
}

// excerpt is the end of a text, for a message.
func excerpt(s string) string {
	const most = 2000
	if s == "" {
		return "it is empty"
	}
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return "it holds: " + strings.ToValidUTF8(s, "?")
}

func existence(img *Image, t suite.FileExistence) problems {
	var p problems
	should := t.ShouldExist == nil || *t.ShouldExist
	at, there := img.resolve(t.Path, false)
	if there != should {
		if should {
			p.add("%s does not exist", t.Path)
		} else {
			p.add("%s exists", t.Path)
		}
		return p
	}
	if !should {
		return p
	}
	// Of a symbolic link the link itself may be meant, or what it leads to.
	p = attributes(t, img.header(at))
	if target, ok := img.resolve(t.Path, true); len(p) > 0 && ok && target != at {
		if q := attributes(t, img.header(target)); len(q) < len(p) {
			p = q
		}
	}
	return p
}

func attributes(t suite.FileExistence, h *tar.Header) problems {
	var p problems
	if t.Permissions != "" && t.Permissions != lsMode(h) && t.Permissions != h.FileInfo().Mode().String() {
		p.add("%s has permissions %s, want %s", t.Path, lsMode(h), t.Permissions)
	}
	if t.UID != nil && *t.UID != h.Uid {
		p.add("%s belongs to user %d, want %d", t.Path, h.Uid, *t.UID)
	}
	if t.GID != nil && *t.GID != h.Gid {
		p.add("%s belongs to group %d, want %d", t.Path, h.Gid, *t.GID)
	}
	bits := map[string]int64{"owner": 0o100, "group": 0o010, "other": 0o001, "any": 0o111}[t.IsExecutableBy]
	if bits != 0 && h.Mode&bits == 0 {
		p.add("%s has permissions %s, want it executable by %s", t.Path, lsMode(h), t.IsExecutableBy)
	}
	return p
}

// lsMode is a file's mode as ls -l shows it.
func lsMode(h *tar.Header) string {
	kinds := map[byte]byte{tar.TypeDir: 'd', tar.TypeSymlink: 'l', tar.TypeChar: 'c', tar.TypeBlock: 'b', tar.TypeFifo: 'p'}
	out := []byte(os.FileMode(h.Mode & 0o777).String())
	if k, ok := kinds[h.Typeflag]; ok {
		out[0] = k
	}
	for i, bit := range []int64{0o4000, 0o2000, 0o1000} {
		if h.Mode&bit == 0 {
			continue
		}
		at, letter := 3+3*i, "sst"[i]
		if out[at] != 'x' {
			letter -= 'a' - 'A'
		}
		out[at] = letter
	}
	return string(out)
}

func nonRoot(img *Image) artifact.TestResult {
	var p problems
	user, _, _ := strings.Cut(img.Config.User, ":")
	switch user {
	case "", "0", "root":
		p.add("the image runs as root (USER is %q)", img.Config.User)
	default:
		if u, err := img.user(); err != nil {
			p.add("%v", err)
		} else if u.UID == 0 {
			p.add("the image's user %q has uid 0", user)
		}
	}
	return p.result("runs as a user other than root", kindMetadata)
}

func metadata(img *Image, m suite.Metadata) problems {
	var p problems
	metadataVariables(&p, img, m)
	metadataLists(&p, img, m)
	if m.Entrypoint != nil && !slices.Equal(*m.Entrypoint, img.Config.Entrypoint) {
		p.add("entrypoint is %q, want %q", img.Config.Entrypoint, *m.Entrypoint)
	}
	if m.Cmd != nil && !slices.Equal(*m.Cmd, img.Config.Cmd) {
		p.add("cmd is %q, want %q", img.Config.Cmd, *m.Cmd)
	}
	if m.Workdir != "" && m.Workdir != img.Config.Workdir {
		p.add("workdir is %q, want %q", img.Config.Workdir, m.Workdir)
	}
	if m.User != "" && m.User != img.Config.User {
		p.add("user is %q, want %q", img.Config.User, m.User)
	}
	return p
}

func metadataVariables(p *problems, img *Image, m suite.Metadata) {
	env := map[string]string{}
	for _, kv := range img.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	keyValues(p, "environment variable", env, m.EnvVars)
	for _, kv := range m.UnboundEnvVars {
		if v, ok := env[kv.Key]; ok {
			p.add("environment variable %s is set to %q", kv.Key, v)
		}
	}
	keyValues(p, "label", img.Config.Labels, m.Labels)
}

// metadataLists checks ports and volumes.
func metadataLists(p *problems, img *Image, m suite.Metadata) {
	lists := []struct {
		what       string
		have, want []string
		there      bool
	}{
		{"port", img.Config.Ports, m.ExposedPorts, true}, {"port", img.Config.Ports, m.UnexposedPorts, false},
		{"volume", img.Config.Volumes, m.Volumes, true}, {"volume", img.Config.Volumes, m.UnmountedVolumes, false},
	}
	for _, l := range lists {
		for _, w := range l.want {
			if l.what == "port" && !strings.Contains(w, "/") {
				w += "/tcp"
			}
			if has := slices.Contains(l.have, w); has != l.there {
				p.add("%s %s: declared %v, want %v (declared are %s)", l.what, w, has, l.there, strings.Join(l.have, ", "))
			}
		}
	}
}

func keyValues(p *problems, what string, have map[string]string, want []suite.KeyValue) {
	for _, kv := range want {
		v, ok := have[kv.Key]
		switch {
		case !ok:
			p.add("%s %s is not set", what, kv.Key)
		case kv.IsRegex:
			if re, err := regexp.Compile(kv.Value); err != nil || !re.MatchString(v) {
				p.add("%s %s is %q, which does not match %q", what, kv.Key, v, kv.Value)
			}
		case v != kv.Value:
			p.add("%s %s is %q, want %q", what, kv.Key, v, kv.Value)
		}
	}
}
