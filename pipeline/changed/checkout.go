package changed

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"drydock/modules/artifact"
)

// Checkout puts the files of a commit of the project's repository, else of the
// catalog's, into dir and returns the project's or catalog's directory there.
// folder is where that was in the commit ("" where it is now). The repository and its work tree stay as
// they are. Files get the modes git knows, whatever the umask.
func Checkout(ctx context.Context, req Request, revision, folder, dir string) (string, error) {
	g, err := open(ctx, req.top(), req.Environ)
	if err != nil {
		return "", err
	}
	commit, err := g.line(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", revision+"^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return "", fault(g.top, context.Cause(ctx))
		}
		return "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "checking out commit", Place: revision, Message: "the repository of " + req.top() + " does not have it",
			Remedy: "fetch it (git fetch origin " + revision + "; git fetch --unshallow), or run in a clone of the repository that has it",
		}
	}
	if folder == "" {
		folder = g.dir
	}
	index := filepath.Join(dir, ".index")
	tree := filepath.Join(dir, "tree")
	for _, args := range [][]string{
		{"read-tree", commit},
		{"checkout-index", "--all", "--force", "--prefix=" + tree + string(filepath.Separator)},
	} {
		if _, err := g.with("GIT_INDEX_FILE="+index).run(ctx, args...); err != nil {
			return "", g.failed(ctx, err)
		}
	}
	if err := steadyModes(tree); err != nil {
		return "", fmt.Errorf("checking out %s: %w", commit, err)
	}
	out := filepath.Join(tree, filepath.FromSlash(folder))
	if info, err := os.Stat(out); err != nil || !info.IsDir() || !filepath.IsLocal(filepath.FromSlash(folder)) {
		return "", &artifact.Error{
			Kind: artifact.KindUsage, Op: "checking out commit", Place: revision, Message: "it has no folder " + folder,
			Remedy: "run in a clone of the repository the image was built from",
		}
	}
	return out, nil
}

// steadyModes gives files the modes git knows.
func steadyModes(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		if info.Mode().Perm() == mode {
			return nil
		}
		return os.Chmod(path, mode)
	})
}
