package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// steadyMode is the mode git knows of a file: whether its owner may execute it.
// What else a checkout's modes say is the umask of whoever made it.
func steadyMode(info fs.FileInfo) fs.FileMode {
	if info.IsDir() || info.Mode()&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

func isSteady(info fs.FileInfo) bool {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return true
	}
	return info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) == steadyMode(info)
}

// Steady gives a build context whose files have the modes git knows, so that an
// image does not depend on the umask its sources were checked out under: dir
// itself where they have, else a copy below tmp of what keep (nil: all) says is
// sent. The copy is removed by done.
func Steady(dir, tmp string, keep func(path string, d fs.DirEntry) bool) (steady string, done func(), err error) {
	nothing := func() {}
	odd := false
	err = walk(dir, keep, func(_, _ string, info fs.FileInfo) error {
		if !isSteady(info) {
			odd = true
			return fs.SkipAll
		}
		return nil
	})
	if err != nil || !odd {
		return dir, nothing, err
	}
	to, err := os.MkdirTemp(tmp, ".context-")
	if err != nil {
		return "", nothing, fmt.Errorf("copying context: %w", err)
	}
	done = func() { _ = os.RemoveAll(to) }
	err = walk(dir, keep, func(path, rel string, info fs.FileInfo) error { return copySteady(path, filepath.Join(to, rel), info) })
	if err == nil {
		err = os.Chmod(to, 0o755)
	}
	if err != nil {
		done()
		return "", nothing, fmt.Errorf("copying context %s: %w", dir, err)
	}
	return to, done, nil
}

// walk visits what keep keeps; a folder that is left out is not looked at.
func walk(dir string, keep func(string, fs.DirEntry) bool, visit func(path, rel string, info fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		if keep != nil && !keep(filepath.ToSlash(rel), d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return visit(path, rel, info)
	})
}

// copySteady copies one entry; sockets, pipes and devices are left out.
func copySteady(from, to string, info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return errors.Join(os.MkdirAll(to, 0o755), os.Chmod(to, 0o755))
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case !info.Mode().IsRegular():
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(steadyMode(info)), out.Close())
}
