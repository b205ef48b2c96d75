//go:build linux

package front

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	gofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/local"
	"github.com/moby/buildkit/worker/base"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// hostTrees are the directories and files of the host that queries named.
//
// BuildKit keys a local directory by the session that sends it, so whatever is
// built on one is never found again by a later session. Here a tree is keyed
// by its content, which is hashed before the graph that uses it is made: the
// same content gives the same vertices and cache keys wherever it lies, and a
// tree that is already known is not read into the engine again.
type hostTrees struct {
	mu        sync.Mutex
	trees     map[string]*hostTree // by the name the graph has
	transfers map[string]*hostTree // by the name BuildKit asks for
	files     map[string]hashed    // by absolute path
}

// hostTree is one directory, filtered, or one file, as it was when hashed.
type hostTree struct {
	fs       fsutil.FS
	path     string
	transfer string // names path and filters, for incremental transfer
	digest   string
}

// hashed is a file's digest and what the file looked like then.
type hashed struct {
	stamp  string
	digest string
}

func newHostTrees() *hostTrees {
	return &hostTrees{trees: map[string]*hostTree{}, transfers: map[string]*hostTree{}, files: map[string]hashed{}}
}

var _ filesync.DirSource = (*hostTrees)(nil)

// LookupDir gives the tree to the transfer; only trees a query named are given.
func (h *hostTrees) LookupDir(name string) (fsutil.FS, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.transfers[name]
	if !ok {
		return nil, false
	}
	return t.fs, true
}

// directory hashes a directory and gives the state that stands for it.
func (h *hostTrees) directory(ctx context.Context, path string, include, exclude []string, keep func(string, bool) bool) (seenTree, error) {
	plain, err := fsutil.NewFS(path)
	if err != nil {
		return seenTree{}, err
	}
	filtered, err := fsutil.NewFilterFS(plain, &fsutil.FilterOpt{
		IncludePatterns: include, ExcludePatterns: exclude,
		Map: func(p string, st *fstypes.Stat) fsutil.MapResult {
			st.Uid, st.Gid = 0, 0
			if keep != nil && !keep(p, st.IsDir()) {
				return fsutil.MapResultExclude
			}
			return fsutil.MapResultKeep
		},
	})
	if err != nil {
		return seenTree{}, err
	}
	filters := strings.Join(include, "\x00") + "\x01" + strings.Join(exclude, "\x00")
	return h.add(ctx, &hostTree{fs: filtered, path: path, transfer: filters})
}

// file does the same for one file, under its own name.
func (h *hostTrees) file(ctx context.Context, path string) (seenTree, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return seenTree{}, err
	}
	seen, err := h.add(ctx, &hostTree{fs: oneFile{real: real, name: filepath.Base(path)}, path: path, transfer: "file"})
	h.mu.Lock()
	defer h.mu.Unlock()
	seen.stamp = h.files[real].stamp
	return seen, err
}

func (h *hostTrees) add(ctx context.Context, t *hostTree) (seenTree, error) {
	digest, err := h.hash(ctx, t)
	if err != nil {
		return seenTree{}, err
	}
	t.digest = digest
	t.transfer = "host-" + hexSum(t.path + "\x02" + t.transfer)[:24]
	name := "tree-" + digest[:32]
	h.mu.Lock()
	h.trees[name], h.transfers[t.transfer] = t, t
	h.mu.Unlock()
	state := llb.Local(name, llb.LocalUniqueID(digest), llb.WithCustomName("upload "+t.path))
	return seenTree{state: state, digest: digest}, nil
}

func hexSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// hash digests names, modes, link targets and contents; not owners and times,
// which a checkout makes up.
func (h *hostTrees) hash(ctx context.Context, t *hostTree) (string, error) {
	sum := sha256.New()
	err := t.fs.Walk(ctx, "", func(path string, entry gofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*fstypes.Stat)
		if !ok {
			return fmt.Errorf("%s: no status", path)
		}
		fmt.Fprintf(sum, "%q %o %q %d %d ", path, st.Mode, st.Linkname, st.Devmajor, st.Devminor)
		if !info.Mode().IsRegular() {
			return nil
		}
		return h.hashFile(sum, t.fs, path)
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (h *hostTrees) hashFile(sum hash.Hash, fs fsutil.FS, path string) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var key, now string
	if of, ok := f.(*os.File); ok {
		key, now = of.Name(), stamp(of)
		h.mu.Lock()
		have := h.files[key]
		h.mu.Unlock()
		if now != "" && have.stamp == now {
			fmt.Fprintf(sum, "%s\n", have.digest)
			return nil
		}
	}
	one := sha256.New()
	if _, err := io.Copy(one, f); err != nil {
		return err
	}
	digest := hex.EncodeToString(one.Sum(nil))
	fmt.Fprintf(sum, "%s\n", digest)
	if key != "" {
		h.mu.Lock()
		h.files[key] = hashed{stamp: now, digest: digest}
		h.mu.Unlock()
	}
	return nil
}

// stamp is what changes when a file's content does, as far as a file system
// can tell.
func stamp(f *os.File) string {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return ""
	}
	return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim)
}

// oneFile is a tree of one file.
type oneFile struct{ real, name string }

// Walk shows the one entry.
func (o oneFile) Walk(_ context.Context, _ string, fn gofs.WalkDirFunc) error {
	st, err := fsutil.Stat(o.real)
	if err != nil {
		return err
	}
	st.Path, st.Uid, st.Gid, st.Linkname = o.name, 0, 0, ""
	return fn(o.name, &fsutil.DirEntryInfo{Stat: st}, nil)
}

// Open opens the one file.
func (o oneFile) Open(path string) (io.ReadCloser, error) {
	if filepath.Clean(path) != o.name {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return os.Open(o.real)
}

// install puts the source that keys trees by content in the place of BuildKit's.
func (h *hostTrees) install(w *base.Worker) error {
	inner, err := local.NewSource(local.Opt{CacheAccessor: w.CacheMgr})
	if err != nil {
		return err
	}
	w.SourceManager.Register(&treeSource{Source: inner, trees: h})
	return nil
}

// treeSource is BuildKit's local source with content for a cache key.
type treeSource struct {
	source.Source
	trees *hostTrees
}

type treeIdentifier struct {
	*local.LocalIdentifier
	tree *hostTree
	ref  string
}

// String is the identifier as the graph has it. BuildKit writes it back into
// the graph, and a different one would change every digest below.
func (id *treeIdentifier) String() string { return id.Scheme() + "://" + id.ref }

// Identifier recognises the trees queries named.
func (s *treeSource) Identifier(scheme, ref string, attrs map[string]string, p *pb.Platform) (source.Identifier, error) {
	id, err := s.Source.Identifier(scheme, ref, attrs, p)
	if err != nil {
		return nil, err
	}
	l, ok := id.(*local.LocalIdentifier)
	s.trees.mu.Lock()
	tree := s.trees.trees[ref]
	s.trees.mu.Unlock()
	if !ok || tree == nil {
		return nil, fmt.Errorf("no query named the host tree %s", ref)
	}
	l.Name = tree.transfer
	return &treeIdentifier{LocalIdentifier: l, tree: tree, ref: ref}, nil
}

// Resolve makes the instance.
func (s *treeSource) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, v solver.Vertex) (source.SourceInstance, error) {
	t, ok := id.(*treeIdentifier)
	if !ok {
		return nil, errors.New("not a host tree")
	}
	inner, err := s.Source.Resolve(ctx, t.LocalIdentifier, sm, v)
	if err != nil {
		return nil, err
	}
	return &treeInstance{SourceInstance: inner, trees: s.trees, tree: t.tree}, nil
}

type treeInstance struct {
	source.SourceInstance
	trees *hostTrees
	tree  *hostTree
}

// CacheKey is the content.
func (i *treeInstance) CacheKey(context.Context, solver.JobContext, int) (string, string, solver.CacheOpts, bool, error) {
	return "drydock-tree:" + i.tree.digest, "sha256:" + i.tree.digest, nil, true, nil
}

// Snapshot reads the tree in and makes sure that it still is what its key says.
func (i *treeInstance) Snapshot(ctx context.Context, jc solver.JobContext) (cache.ImmutableRef, error) {
	ref, err := i.SourceInstance.Snapshot(ctx, jc)
	if err != nil {
		return nil, err
	}
	now, err := i.trees.hash(ctx, i.tree)
	if err == nil && now != i.tree.digest {
		err = fmt.Errorf("%s changed while it was read; run again when nothing writes to it", i.tree.path)
	}
	if err != nil {
		_ = ref.Release(context.WithoutCancel(ctx))
		return nil, err
	}
	return ref, nil
}
