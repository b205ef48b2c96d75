package changed

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"drydock/modules/artifact"

	"github.com/moby/patternmatcher"
)

// git is the repository a catalog or a project is in.
type git struct {
	top     string // its work tree
	dir     string // the directory in it that is asked about, "." for the work tree itself
	environ []string
	extra   []string // variables of git's own that a command is given
}

// with is the same repository for a command with more variables.
func (g *git) with(variables ...string) *git {
	out := *g
	out.extra = variables
	return &out
}

// open finds the repository of a directory.
func open(ctx context.Context, asked string, environ []string) (*git, error) {
	dir, err := filepath.Abs(asked)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fault(asked, err)
	}
	g := &git{top: dir, environ: environ}
	top, err := g.line(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, openError(ctx, asked, err)
	}
	if top, err = filepath.EvalSymlinks(top); err != nil {
		return nil, fault(asked, err)
	}
	rel, err := filepath.Rel(top, dir)
	if err != nil {
		return nil, fault(asked, err)
	}
	g.top, g.dir = top, filepath.ToSlash(rel)
	return g, nil
}

// catalogIn is the catalog's folder in the project's repository, if it is there.
func (g *git) catalogIn(ctx context.Context, req Request) (string, bool) {
	if req.ProjectDir == "" || req.Pinned {
		return "", false
	}
	c, err := open(ctx, req.CatalogDir, req.Environ)
	if err != nil || c.top != g.top {
		return "", false
	}
	return c.dir, true
}

func openError(ctx context.Context, dir string, err error) error {
	switch text := err.Error(); {
	case ctx.Err() != nil:
		return fault(dir, context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound):
		return usage(dir, "git is not installed", "install git")
	case strings.Contains(text, "dubious ownership"):
		return usage(dir, "git does not trust the repository, another user owns it",
			"run git config --global --add safe.directory and the repository's path")
	case strings.Contains(text, "not a git repository"):
		return usage(dir, "not in a git repository", "leave --changed out, or run in a clone of the repository")
	case strings.Contains(text, "must be run in a work tree"):
		return usage(dir, "not in a work tree of git", "run in a clone with a work tree")
	}
	return fault(dir, err)
}

// gitError is a git command that failed.
type gitError struct {
	args   []string
	stderr string
	err    error
}

func (e *gitError) Error() string {
	return "git " + e.args[0] + ": " + strings.TrimSpace(e.stderr+" ("+e.err.Error()+")")
}

func (e *gitError) Unwrap() error { return e.err }

// run runs git in the work tree. Neither the caller's git variables nor hooks
// and helpers the repository configures are followed.
func (g *git) run(ctx context.Context, args ...string) ([]byte, error) {
	fixed := []string{"-C", g.top, "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "-c", "core.untrackedCache=false"}
	cmd := exec.CommandContext(ctx, "git", append(fixed, args...)...)
	cmd.Env = g.environ
	cmd.Env = append(slices.DeleteFunc(cmd.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "GIT_") && !strings.HasPrefix(name, "GIT_CONFIG_") && name != "GIT_CEILING_DIRECTORIES"
	}), "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	cmd.Env = append(cmd.Env, g.extra...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, &gitError{args: args, stderr: stderr.String(), err: err}
	}
	return stdout.Bytes(), nil
}

// line is the output of a command that prints one line.
func (g *git) line(ctx context.Context, args ...string) (string, error) {
	out, err := g.run(ctx, args...)
	return strings.TrimRight(string(out), "\r\n"), err
}

const deepen = "fetch the history: git fetch --unshallow (in GitLab CI set GIT_DEPTH: 0, in Azure Pipelines fetchDepth: 0)"

// mergeBase finds the commit the work tree is compared with.
func (g *git) mergeBase(ctx context.Context, base string) (string, error) {
	shallow, err := g.line(ctx, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return "", fault(g.top, err)
	}
	head, err := g.line(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	if err != nil {
		return "", usage(g.top, "nothing is committed yet", "commit first, or leave --changed out")
	}
	commit, name, err := g.commit(ctx, base)
	if err != nil {
		if shallow == "true" {
			return "", usage(g.top, "the clone is shallow and does not have "+name, deepen)
		}
		return "", err
	}
	out, err := g.line(ctx, "merge-base", commit, head)
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return "", fault(g.top, context.Cause(ctx))
	case shallow == "true":
		return "", usage(g.top, "the clone is shallow and its history does not reach back to "+name, deepen)
	}
	return "", usage(g.top, "HEAD and "+name+" have no common history", "give the branch this one came from: --changed=BRANCH")
}

// commit resolves the base: as given, or as a branch of origin.
func (g *git) commit(ctx context.Context, base string) (commit, name string, err error) {
	tries := []string{base, "refs/remotes/origin/" + base}
	if base == "" {
		base = "the remote's default branch"
		tries = []string{"refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/master"}
	}
	for _, t := range tries {
		commit, err := g.line(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", t+"^{commit}")
		if err == nil {
			return commit, base, nil
		}
		if ctx.Err() != nil {
			return "", base, fault(g.top, context.Cause(ctx))
		}
	}
	return "", base, usage(g.top, "there is no commit "+base, "give a branch, tag or commit that is there: --changed=BRANCH, after git fetch")
}

// changedSince lists what differs from a commit: committed, staged, modified
// and untracked files, under both names where one was renamed.
func (g *git) changedSince(ctx context.Context, commit string) ([]string, error) {
	diff, err := g.run(ctx, "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", commit, "--")
	if err != nil {
		return nil, g.failed(ctx, err)
	}
	others, err := g.run(ctx, "ls-files", "-z", "--others", "--exclude-standard", "--full-name")
	if err != nil {
		return nil, g.failed(ctx, err)
	}
	files := append(split(diff), split(others)...)
	slices.Sort(files)
	return slices.Compact(files), nil
}

// dirtyFiles lists the files under the catalog that are not as HEAD has them,
// those git ignores too: a build may read them all the same.
func (g *git) dirtyFiles(ctx context.Context) ([]string, error) {
	out, err := g.run(ctx, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all",
		"--ignored=traditional", "--ignore-submodules=none", "--", g.dir)
	if err != nil {
		return nil, g.failed(ctx, err)
	}
	var files []string
	for _, entry := range split(out) {
		if len(entry) > 3 {
			files = append(files, strings.TrimSuffix(entry[3:], "/"))
		}
	}
	slices.Sort(files)
	return files, nil
}

func (g *git) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fault(g.top, context.Cause(ctx))
	}
	return &artifact.Error{Kind: artifact.KindFault, Op: "finding what changed", Place: g.top, Remedy: "see git's message, and try the command by hand", Err: err}
}

// split takes the output of a git command with -z apart.
func split(out []byte) []string {
	var files []string
	for _, f := range strings.Split(string(out), "\x00") {
		if f != "" {
			files = append(files, f)
		}
	}
	return files
}

// ignored says whether the patterns of an ignore file leave a file of the
// context out.
func ignored(patterns []string, file string) bool {
	if len(patterns) == 0 {
		return false
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return false
	}
	out, err := m.MatchesOrParentMatches(file)
	return err == nil && out
}

// Redact is the URI of a remote without user, password, query and fragment.
// A path of this machine gives "": it means nothing elsewhere.
func Redact(remote string) string {
	if !strings.Contains(remote, "://") {
		host, rest, ok := strings.Cut(remote[strings.LastIndex(remote, "@")+1:], ":")
		if !ok || strings.Contains(host, "/") || len(host) < 2 {
			return ""
		}
		return "ssh://" + host + "/" + strings.TrimPrefix(rest, "/")
	}
	u, err := url.Parse(remote)
	if err != nil || u.Scheme == "file" || u.Host == "" {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
