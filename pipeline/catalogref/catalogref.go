// Package catalogref finds the catalog somebody names: a directory, a commit of
// a git repository, or an OCI artifact. The latter two are fetched into the
// cache and checked against their commit or digest, every time anew: what else
// is in the cache cannot change them.
package catalogref

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"drydock/modules/artifact"
)

// Ref names a catalog; exactly one of Dir, Git and OCI is set.
type Ref struct {
	Dir string

	Git    string // URL
	Commit string
	Folder string // of the catalog in the repository; "" is its top, or catalog/ where that has none

	OCI    string // registry and repository
	Digest artifact.Digest
}

// Options say where and how.
type Options struct {
	Cache   string
	Environ []string
	Offline bool // what is not in the cache is not fetched
}

var (
	gitPattern    = regexp.MustCompile(`^(?:git\+)?((?:https?|ssh|git|file)://[^/]*/|[A-Za-z0-9_-]+@[A-Za-z0-9.-]+:)(.*)$`)
	commitPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	digested      = regexp.MustCompile(`^[^@]*@sha256:[^/]*$`)
	folderPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)
	tagged        = regexp.MustCompile(`^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:\d+)?/[a-z0-9._/-]+(:[A-Za-z0-9._-]+)?$`)
)

// Parse reads the name of a catalog; place is where it was written, for errors.
// A branch, a tag or nothing where a commit or digest belongs is refused: they
// move.
func Parse(spec, place string) (Ref, error) {
	r, message, remedy := parse(spec)
	if message == "" {
		return r, nil
	}
	if m := gitPattern.FindStringSubmatch(spec); m != nil && strings.HasPrefix(m[1], "http") && strings.Contains(m[1], "@") {
		spec = "…" + m[2]
	}
	return Ref{}, &artifact.Error{Kind: artifact.KindUsage, Op: "choosing catalog", Place: place, Message: spec + ": " + message, Remedy: remedy}
}

// parse gives what is wrong with a name, and how to mend it; "" when nothing is.
func parse(spec string) (r Ref, message, remedy string) {
	if m := gitPattern.FindStringSubmatch(spec); m != nil && !digested.MatchString(spec) {
		return parseGit(m[1], m[2])
	}
	named, isOCI := strings.CutPrefix(spec, "oci:")
	named = strings.TrimPrefix(named, "//")
	repo, digest, ok := strings.Cut(named, "@")
	switch {
	case ok && (isOCI || strings.HasPrefix(digest, "sha256:")):
		return parseOCI(repo, digest)
	case isOCI:
		return r, "an OCI artifact without a digest, and tags can move", "write REPOSITORY@sha256:…; crane digest " + named + " says which it is now"
	case spec == "":
		return r, "no catalog is named", "give a directory, git URL@COMMIT or REPOSITORY@sha256:…"
	}
	return Ref{Dir: spec}, "", ""
}

func parseGit(host, rest string) (r Ref, message, remedy string) {
	if strings.HasPrefix(host, "http") && strings.Contains(host, "@") {
		return r, "credentials in the catalog's URL", "leave them to git's own configuration (credential.helper, netrc)"
	}
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return r, "a git repository without a commit", "write URL@COMMIT, 40 hex digits; git ls-remote " + host + rest + " HEAD says which is the newest"
	}
	url := host + rest[:at]
	commit, folder, inside := strings.Cut(rest[at+1:], ":")
	if !commitPattern.MatchString(commit) {
		return r, fmt.Sprintf("%q is no commit, and branches and tags can move", commit),
			"write the commit, 40 hex digits; git ls-remote " + url + " " + commit + " says which it is now"
	}
	if inside && !folderPattern.MatchString(folder) {
		return r, fmt.Sprintf("%q is no folder of a repository", folder), "write URL@COMMIT:FOLDER"
	}
	return Ref{Git: url, Commit: commit, Folder: folder}, "", ""
}

func parseOCI(repo, digest string) (r Ref, message, remedy string) {
	d, err := artifact.ParseDigest(digest)
	if err != nil {
		return r, "not a digest", "write REPOSITORY@sha256: and 64 hex digits"
	}
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		repo = repo[:i] // a tag beside a digest says nothing
	}
	if !strings.Contains(repo, "/") {
		return r, "the registry is missing", "write HOST/REPOSITORY@sha256:…"
	}
	return Ref{OCI: repo, Digest: d}, "", ""
}

// Pinned says whether the name leaves no choice of what is in the catalog.
func (r Ref) Pinned() bool { return r.Dir == "" }

// String is what errors call the catalog: short, for files' names stand behind it.
func (r Ref) String() string {
	switch {
	case r.Git != "":
		name := strings.TrimSuffix(r.Git[strings.LastIndexAny(r.Git, "/:")+1:], ".git")
		return name + "@" + r.Commit[:12]
	case r.OCI != "":
		return r.OCI[strings.LastIndex(r.OCI, "/")+1:] + "@" + r.Digest.Hex()[:12]
	}
	return r.Dir
}

// LooksRemote says whether a directory that is not there was rather meant to be
// an image's reference.
func (r Ref) LooksRemote() bool { return r.Dir != "" && tagged.MatchString(r.Dir) }

// Open gives the catalog's directory. It must not be written to unless it is
// the user's own.
func Open(ctx context.Context, r Ref, o Options) (string, error) {
	if !r.Pinned() {
		return filepath.Abs(r.Dir)
	}
	var files map[string][]byte
	var err error
	if r.Git != "" {
		files, err = fromGit(ctx, r, o)
	} else {
		files, err = fromOCI(ctx, r, o)
	}
	if err != nil {
		return "", err
	}
	if _, ok := files["mirrors.yaml"]; !ok {
		return "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading catalog", Place: r.String(), Message: "there is no mirrors.yaml in it",
			Remedy: "name a catalog; in a git repository its folder as URL@COMMIT:FOLDER",
		}
	}
	return lay(filepath.Join(o.Cache, "catalogs"), files)
}

func fault(r Ref, message, remedy string, err error) error {
	return &artifact.Error{Kind: artifact.KindFault, Op: "fetching catalog", Place: r.String(), Message: message, Remedy: remedy, Err: err}
}

func offline(r Ref) error {
	return fault(r, "it is not in the cache, and --offline fetches nothing", "run once without --offline, or bring the cache of a run that has it (--cache)", nil)
}
