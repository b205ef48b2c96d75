//go:build linux

package front

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// Digests of files and directories are BuildKit's, which are Dagger's: over
// names, modes, owners, links and contents; not times.

// hashedTree is a directory whose files are hashed. header is the digest of its
// own status.
type hashedTree struct {
	header  digest.Digest
	files   map[string]digest.Digest
	folders map[string]*hashedTree
}

func newHashedTree() *hashedTree {
	return &hashedTree{files: map[string]digest.Digest{}, folders: map[string]*hashedTree{}}
}

// folder is the directory at a path, made where an archive names it late.
func (t *hashedTree) folder(p string) *hashedTree {
	if p == "." || p == "/" {
		return t
	}
	up, name := t.folder(path.Dir(p)), path.Base(p)
	if up.folders[name] == nil {
		up.folders[name] = newHashedTree()
	}
	return up.folders[name]
}

// digest is what contenthash makes of the records: a directory's own, then all
// in it by their names' bytes.
func (t *hashedTree) digest() digest.Digest {
	sum := sha256.New()
	fmt.Fprintf(sum, "\x00%s", t.header)
	all := map[string]digest.Digest{}
	for name, d := range t.files {
		all[name] = d
	}
	for name, sub := range t.folders {
		all[name] = sub.digest()
	}
	for _, name := range sortedKeys(all) {
		fmt.Fprintf(sum, "\x00%s%s", name, all[name])
	}
	return digest.NewDigest(digest.SHA256, sum)
}

// statDigest hashes a status and, where there are any, contents.
func statDigest(st *fstypes.Stat, contents func(io.Writer) error) (digest.Digest, error) {
	h, err := contenthash.NewFromStat(st)
	if err != nil {
		return "", err
	}
	if contents != nil {
		if err := contents(h); err != nil {
			return "", err
		}
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// treeDigest is a directory's digest.
func (s *Server) treeDigest(ctx context.Context, d *directory) (string, error) {
	own, err := s.stat(ctx, d, d.path)
	if err != nil {
		return "", err
	}
	if !os.FileMode(own.Mode).IsDir() {
		return "", usage(fmt.Sprintf("%s is not a directory", d.path), "")
	}
	tree := newHashedTree()
	if tree.header, err = statDigest(&fstypes.Stat{Mode: own.Mode, Uid: own.Uid, Gid: own.Gid, Xattrs: own.Xattrs}, nil); err != nil {
		return "", err
	}
	if d.state.Output() == nil {
		return string(tree.digest()), nil
	}
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := tree.readTar(read)
		_ = read.CloseWithError(err)
		done <- err
	}()
	err = s.exportTree(ctx, d, client.ExportEntry{
		Type:   client.ExporterTar,
		Output: func(map[string]string) (io.WriteCloser, error) { return write, nil },
	})
	_ = write.CloseWithError(err)
	if err := errors.Join(err, <-done); err != nil {
		return "", err
	}
	return string(tree.digest()), nil
}

func (t *hashedTree) readTar(r io.Reader) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		if err := t.add(h, in); err != nil {
			return err
		}
	}
}

func (t *hashedTree) add(h *tar.Header, in io.Reader) error {
	name := path.Join("/", h.Name)
	if h.Typeflag == tar.TypeLink {
		to := path.Join("/", h.Linkname)
		t.folder(path.Dir(name)).files[path.Base(name)] = t.folder(path.Dir(to)).files[path.Base(to)]
		return nil
	}
	mode := h.FileInfo().Mode()
	st := &fstypes.Stat{
		Mode: uint32(mode), Uid: uint32(h.Uid), Gid: uint32(h.Gid), Size: h.Size, Linkname: h.Linkname,
		Devmajor: h.Devmajor, Devminor: h.Devminor, Xattrs: map[string][]byte{},
	}
	if mode&os.ModeSymlink != 0 {
		st.Mode |= 0o777
	}
	for k, v := range h.PAXRecords {
		if k, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			st.Xattrs[k] = []byte(v)
		}
	}
	var contents func(io.Writer) error
	if mode.IsRegular() {
		contents = func(w io.Writer) error { _, err := io.Copy(w, in); return err }
	}
	d, err := statDigest(st, contents)
	switch {
	case err != nil:
		return fmt.Errorf("hashing %s: %w", name, err)
	case name == "/": // its status is not that of the directory copied there
	case mode.IsDir():
		t.folder(name).header = d
	default:
		t.folder(path.Dir(name)).files[path.Base(name)] = d
	}
	return nil
}

// fileDigest is a file's digest: without its status, of the digest of its
// contents, as Dagger has it.
func (s *Server) fileDigest(ctx context.Context, f *file, metadata bool) (string, error) {
	contents := func(w io.Writer) error { return s.copyOut(ctx, f, w) }
	if !metadata {
		sum := sha256.New()
		if err := contents(sum); err != nil {
			return "", err
		}
		return string(digest.FromBytes(sum.Sum(nil))), nil
	}
	st, err := s.statFile(ctx, f)
	if err != nil {
		return "", err
	}
	d, err := statDigest(&fstypes.Stat{Mode: st.mode, Uid: st.uid, Gid: st.gid, Size: st.size, Xattrs: st.xattrs}, contents)
	return string(d), err
}
