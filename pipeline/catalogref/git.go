package catalogref

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // git's own names of objects
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"drydock/modules/artifact"
)

// A commit is read object by object, each held to its name: the commit names
// its tree, the tree its files. Objects are kept as git hashes them.

// gitTree reads the files of a commit out of objects.
type gitTree struct {
	get   func(name string) (kind string, data []byte, err error)
	files map[string][]byte
	bytes int
}

var errAbsent = errors.New("an object is not in the cache")

// fromGit gives the files of the catalog in a commit.
func fromGit(ctx context.Context, r Ref, o Options) (map[string][]byte, error) {
	objects := filepath.Join(o.Cache, "catalogs", "git")
	files, err := readCommit(r, func(name string) (string, []byte, error) {
		raw, err := os.ReadFile(filepath.Join(objects, name))
		if err != nil || !isObject(name, raw) {
			return "", nil, errAbsent
		}
		return splitObject(raw)
	})
	if !errors.Is(err, errAbsent) {
		return files, err
	}
	if o.Offline {
		return nil, offline(r)
	}
	return fetchGit(ctx, r, o, objects)
}

// fetchGit fetches a commit into a repository of no use afterwards, and keeps
// the objects that are read.
func fetchGit(ctx context.Context, r Ref, o Options, objects string) (map[string][]byte, error) {
	if err := os.MkdirAll(filepath.Dir(objects), 0o700); err != nil {
		return nil, fault(r, "", "give a cache that can be written (--cache)", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(objects), ".fetch-")
	if err != nil {
		return nil, fault(r, "", "give a cache that can be written (--cache)", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	g := gitRunner{ctx: ctx, dir: dir, environ: o.Environ}
	format := "sha1"
	if len(r.Commit) == 64 {
		format = "sha256"
	}
	if err := g.run("init", "--quiet", "--bare", "--object-format="+format); err != nil {
		return nil, gitFault(ctx, r, err)
	}
	// A server may hand out a commit by its name or not: then everything is asked for.
	err = g.run("fetch", "--quiet", "--depth=1", "--no-tags", "--", r.Git, r.Commit)
	if err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "unadvertised object") {
		err = g.run("fetch", "--quiet", "--no-tags", "--", r.Git, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	}
	if err != nil {
		return nil, gitFault(ctx, r, err)
	}
	batch, err := g.objects()
	if err != nil {
		return nil, gitFault(ctx, r, err)
	}
	defer batch.close()
	return readCommit(r, func(name string) (string, []byte, error) {
		kind, data, err := batch.read(name)
		if err != nil {
			return "", nil, gitFault(ctx, r, err)
		}
		raw := fmt.Appendf(nil, "%s %d\x00", kind, len(data))
		raw = append(raw, data...)
		if !isObject(name, raw) {
			return "", nil, fault(r, "object "+name+" is not what its name says", "fetch from a repository that is whole", nil)
		}
		if err := keep(filepath.Join(objects, name), raw); err != nil {
			return "", nil, fault(r, "", "give a cache that can be written (--cache)", err)
		}
		return kind, data, nil
	})
}

func gitFault(ctx context.Context, r Ref, err error) error {
	text := err.Error()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return &artifact.Error{Kind: artifact.KindUsage, Op: "fetching catalog", Place: r.String(), Message: "git is not installed", Remedy: "install git, or use an OCI artifact: REPOSITORY@sha256:…"}
	case strings.Contains(text, "not our ref"), strings.Contains(text, "missing"), strings.Contains(text, "remote ref"):
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "fetching catalog", Place: r.String(), Message: "the repository has no commit " + r.Commit,
			Remedy: "name a commit that was pushed; git ls-remote " + r.Git + " lists what is there",
		}
	}
	return fault(r, "", "try git ls-remote "+r.Git+" by hand: the repository must be reachable, and credentials be in git's own configuration", err)
}

// readCommit follows a commit to the files of the catalog in it.
func readCommit(r Ref, get func(string) (string, []byte, error)) (map[string][]byte, error) {
	t := &gitTree{get: get, files: map[string][]byte{}}
	kind, commit, err := get(r.Commit)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(commit, []byte("\n"))
	tree, ok := strings.CutPrefix(string(line), "tree ")
	if kind != "commit" || !ok {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "fetching catalog", Place: r.String(), Message: "it names a " + kind + ", not a commit", Remedy: "write URL@COMMIT"}
	}
	entries, err := t.entries(tree)
	if err != nil {
		return nil, err
	}
	folder := r.Folder
	if folder == "" && !slices.ContainsFunc(entries, func(e treeEntry) bool { return e.name == "mirrors.yaml" }) {
		folder = "catalog"
	}
	for _, part := range strings.Split(folder, "/") {
		if part == "" {
			continue
		}
		i := slices.IndexFunc(entries, func(e treeEntry) bool { return e.name == part && e.mode == "40000" })
		if i < 0 {
			return nil, &artifact.Error{
				Kind: artifact.KindUsage, Op: "fetching catalog", Place: r.String(), Message: "there is no folder " + folder + " in that commit",
				Remedy: "name the catalog's folder: URL@COMMIT:FOLDER",
			}
		}
		if entries, err = t.entries(entries[i].object); err != nil {
			return nil, err
		}
	}
	return t.files, t.walk(r, "", entries)
}

type treeEntry struct{ mode, name, object string }

// entries reads a tree: mode, space, name, 0, and the object's name in bytes.
func (t *gitTree) entries(name string) ([]treeEntry, error) {
	kind, data, err := t.get(name)
	if err != nil {
		return nil, err
	}
	var out []treeEntry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		mode, file, named := strings.Cut(string(head), " ")
		if kind != "tree" || !ok || !named || len(rest) < len(name)/2 {
			return nil, fmt.Errorf("object %s is no tree", name)
		}
		out = append(out, treeEntry{mode, file, hex.EncodeToString(rest[:len(name)/2])})
		data = rest[len(name)/2:]
	}
	return out, nil
}

func (t *gitTree) walk(r Ref, dir string, entries []treeEntry) error {
	for _, e := range entries {
		file := path.Join(dir, e.name)
		refused := ""
		switch e.mode {
		case "40000":
			below, err := t.entries(e.object)
			if err == nil {
				err = t.walk(r, file, below)
			}
			if err != nil {
				return err
			}
			continue
		case "100644", "100755", "100664":
		case "120000":
			refused = "a symbolic link"
		default:
			refused = "a submodule"
		}
		if refused != "" || e.name == "" || e.name == "." || e.name == ".." || strings.ContainsAny(e.name, "/\\") {
			return &artifact.Error{Kind: artifact.KindUsage, Op: "fetching catalog", Place: path.Join(r.String(), file), Message: strings.TrimSpace(refused + " in a catalog"), Remedy: "keep it out: a catalog is files and folders"}
		}
		_, data, err := t.get(e.object)
		if err != nil {
			return err
		}
		if t.bytes += len(data); t.bytes > maxBytes || len(t.files) >= maxFiles {
			return tooLarge(r)
		}
		t.files[file] = data
	}
	return nil
}

func tooLarge(r Ref) error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "fetching catalog", Place: r.String(),
		Message: fmt.Sprintf("it has more than %d MiB or %d files", maxBytes>>20, maxFiles), Remedy: "name a folder that is a catalog and nothing else",
	}
}

// isObject holds an object to its name.
func isObject(name string, raw []byte) bool {
	if len(name) == 64 {
		sum := sha256.Sum256(raw)
		return hex.EncodeToString(sum[:]) == name
	}
	sum := sha1.Sum(raw) //nolint:gosec // git's own
	return hex.EncodeToString(sum[:]) == name
}

func splitObject(raw []byte) (kind string, data []byte, err error) {
	head, data, ok := bytes.Cut(raw, []byte{0})
	kind, _, named := strings.Cut(string(head), " ")
	if !ok || !named {
		return "", nil, errAbsent
	}
	return kind, data, nil
}

// gitRunner runs git in one repository, with nothing of the caller's own.
type gitRunner struct {
	ctx     context.Context //nolint:containedctx // of one fetch
	dir     string
	environ []string
}

func (g gitRunner) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(g.ctx, "git", append([]string{"-C", g.dir}, args...)...)
	cmd.Env = append(slices.DeleteFunc(slices.Clone(g.environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "GIT_") && !strings.HasPrefix(name, "GIT_CONFIG_") && !strings.HasPrefix(name, "GIT_SSH") && !strings.HasPrefix(name, "GIT_SSL")
	}), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	return cmd
}

func (g gitRunner) run(args ...string) error {
	cmd := g.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// objectReader is a running git cat-file --batch.
type objectReader struct {
	in    io.WriteCloser
	out   *bufio.Reader
	close func()
}

func (g gitRunner) objects() (*objectReader, error) {
	cmd := g.command("cat-file", "--batch")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &objectReader{in, bufio.NewReader(out), func() { _ = in.Close(); _ = cmd.Wait() }}, nil
}

func (b *objectReader) read(name string) (kind string, data []byte, err error) {
	if _, err := io.WriteString(b.in, name+"\n"); err != nil {
		return "", nil, err
	}
	head, err := b.out.ReadString('\n')
	if err != nil {
		return "", nil, err
	}
	words := strings.Fields(head)
	if len(words) != 3 {
		return "", nil, fmt.Errorf("git cat-file: %s", strings.TrimSpace(head))
	}
	n, err := strconv.Atoi(words[2])
	if err != nil || n > maxBytes {
		return "", nil, fmt.Errorf("git cat-file: an object of %s bytes", words[2])
	}
	data = make([]byte, n+1)
	_, err = io.ReadFull(b.out, data)
	return words[1], data[:n], err
}
