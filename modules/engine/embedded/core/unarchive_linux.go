package core

import (
	"archive/tar"
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	paths "github.com/containerd/continuity/fs"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/file"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/llbsolver/ops/fileoptypes"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"
	"github.com/moby/go-archive/compression"
	"github.com/moby/sys/user"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/keeper"
)

// maxWindow bounds, in bytes, what one archive's decompression holds: xz -9
// takes 64 MiB, zstd --long=27 takes 128.
const maxWindow = 256 << 20

// mostPasswd bounds the files names are looked up in, in bytes; BuildKit's.
const mostPasswd = 10 << 20

// solve does the operation with BuildKit's solver of file operations; its
// archives become no more than left.
func (o *unpackOp) solve(ctx context.Context, jc solver.JobContext, inputs []solver.Result, left *room) ([]solver.Result, error) {
	refs := make([]fileoptypes.Ref, 0, len(inputs))
	for _, in := range inputs {
		ref, ok := in.Sys().(*worker.WorkerRef)
		if !ok {
			return nil, fmt.Errorf("an input of a file operation is a %T", in.Sys())
		}
		refs = append(refs, ref.ImmutableRef)
	}
	backend, err := file.NewFileOpBackend(owner)
	if err != nil {
		return nil, err
	}
	w := o.worker.Worker
	files := ops.NewFileOpSolver(w, &unpacker{Backend: backend, left: left, launcher: o.worker.launcher}, file.NewRefManager(w.CacheMgr, o.name))
	outs, err := files.Solve(ctx, refs, o.op.Actions, jc.Session())
	if err != nil {
		return nil, err
	}
	results := make([]solver.Result, 0, len(outs))
	for _, out := range outs {
		ref, ok := out.(cache.ImmutableRef)
		if !ok {
			return nil, fmt.Errorf("an output of a file operation is a %T", out)
		}
		results = append(results, worker.NewWorkerRefResult(ref, w))
	}
	return results, nil
}

// unpacker is BuildKit's backend but for the unpacking of archives.
type unpacker struct {
	*file.Backend
	left     *room
	launcher *keeper.Launcher // nil: the process that unpacks changes its root
}

var _ fileoptypes.Backend = (*unpacker)(nil)

// Copy copies what is no archive as BuildKit does, a name at a time.
func (u *unpacker) Copy(ctx context.Context, src, dest, usr, group fileoptypes.Mount, action *pb.FileActionCopy) error {
	if !action.AttemptUnpackDockerCompatibility {
		return u.Backend.Copy(ctx, src, dest, usr, group, action)
	}
	from, err := mountable(src)
	if err != nil {
		return err
	}
	names, err := namesOf(from, action)
	if err != nil {
		return err
	}
	one := action.CloneVT()
	one.AttemptUnpackDockerCompatibility = false
	if len(names) == 0 { // which says so, or finds it allowed
		return u.Backend.Copy(ctx, src, dest, usr, group, one)
	}
	one.AllowWildcard = false
	for _, name := range names {
		ok, err := u.unpack(ctx, from, dest, usr, group, action, name)
		if err == nil && !ok {
			one.Src = name
			err = u.Backend.Copy(ctx, src, dest, usr, group, one)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unpack unpacks one archive; false means that name is none.
func (u *unpacker) unpack(ctx context.Context, from snapshot.Mountable, dest, usr, group fileoptypes.Mount, action *pb.FileActionCopy, name string) (bool, error) {
	is := false
	err := mounted(from, func(root string) error {
		plain, err := openArchive(root, name)
		if err != nil || plain == nil {
			return err
		}
		defer plain.Close()
		is = true
		to, err := mountable(dest)
		if err != nil {
			return err
		}
		who, err := ownerOf(action.Owner, usr, group)
		if err != nil {
			return err
		}
		return mounted(to, func(root string) error {
			err := unarchive(ctx, plain, root, action, who, u.left, u.launcher)
			var said *artifact.Error
			if errors.As(err, &said) {
				said.Place = name
				return said
			}
			if err != nil {
				return fmt.Errorf("unpacking %s: %w", name, err)
			}
			return nil
		})
	})
	return is, err
}

// unarchive unpacks plain into the folder of root that an action names, and
// into nothing else.
func unarchive(ctx context.Context, plain io.Reader, root string, action *pb.FileActionCopy, who *fscopy.User, left *room, launcher *keeper.Launcher) error {
	dest, err := paths.RootPath(root, filepath.Join("/", action.Dest))
	if err != nil {
		return err
	}
	if !action.CreateDestPath {
		if _, err := os.Lstat(filepath.Dir(dest)); err != nil {
			return fmt.Errorf("the folder of %s: %w", action.Dest, unwrapped(err))
		}
	}
	var made fscopy.Chowner
	if who != nil {
		made = func(*fscopy.User) (*fscopy.User, error) { return who, nil }
	}
	if _, err := fscopy.MkdirAll(dest, 0o755, made, stamp(action.Timestamp)); err != nil {
		return fmt.Errorf("making %s: %w", action.Dest, unwrapped(err))
	}
	return unarchiveIn(ctx, plain, dest, who, left, launcher)
}

// openArchive opens a file that is a tar archive, compressed or not, as plain
// tar. What is none, or is not there, is nil.
func openArchive(root, name string) (io.ReadCloser, error) {
	path, err := paths.RootPath(root, name)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() {
		return nil, nil //nolint:nilerr,nilnil // copied, or found missing, by who copies
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // the same
	}
	plain, done, err := decompressed(f)
	if err == nil {
		_, err = tar.NewReader(plain).Next()
		done()
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		plain, done, err = decompressed(f)
	}
	if err != nil {
		f.Close()
		return nil, nil //nolint:nilerr,nilnil // no archive: copied as it is
	}
	return &archiveFile{Reader: plain, close: func() error { done(); return f.Close() }}, nil
}

type archiveFile struct {
	io.Reader
	close func() error
}

func (a *archiveFile) Close() error { return a.close() }

// decompressed reads r by its first bytes: gzip, bzip2, xz, zstd, else as it is.
// done is called when it has been read.
func decompressed(r io.Reader) (plain io.Reader, done func(), err error) {
	done = func() {}
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, done, err
	}
	switch compression.Detect(head) {
	case compression.Gzip:
		plain, err = gzip.NewReader(b)
		return plain, done, err
	case compression.Bzip2:
		return bzip2.NewReader(b), done, nil
	case compression.Xz:
		plain, err = xz.NewReader(b, maxWindow)
		return plain, done, err
	case compression.Zstd:
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, done, err
		}
		return z, z.Close, nil
	}
	return b, done, nil
}

// namesOf are the files an action names.
func namesOf(m snapshot.Mountable, c *pb.FileActionCopy) (names []string, err error) {
	if !c.AllowWildcard {
		return []string{c.Src}, nil
	}
	err = mounted(m, func(root string) error {
		names, err = fscopy.ResolveWildcards(root, filepath.Join("/", c.Src), c.FollowSymlink)
		return err
	})
	return names, err
}

// mounted calls use with where m is seen.
func mounted(m snapshot.Mountable, use func(root string) error) error {
	lm := snapshot.LocalMounter(m)
	root, err := lm.Mount()
	if err != nil {
		return err
	}
	return errors.Join(use(root), lm.Unmount())
}

func mountable(m fileoptypes.Mount) (snapshot.Mountable, error) {
	known, ok := m.(*file.Mount)
	if !ok {
		return nil, fmt.Errorf("a mount of a file operation is a %T", m)
	}
	return known.Mountable(), nil
}

// ownerOf is who --chown names; nil is nobody.
func ownerOf(opt *pb.ChownOpt, usr, group fileoptypes.Mount) (*fscopy.User, error) {
	var in [2]snapshot.Mountable
	for i, m := range []fileoptypes.Mount{usr, group} {
		if m == nil {
			continue
		}
		var err error
		if in[i], err = mountable(m); err != nil {
			return nil, err
		}
	}
	return owner(opt, in[0], in[1])
}

// owner is a file.ReadUserCallback: names are looked up in the image's own
// passwd and group, and one that is not there is root, as with docker.
func owner(opt *pb.ChownOpt, usr, group snapshot.Mountable) (*fscopy.User, error) {
	if opt == nil {
		return nil, nil //nolint:nilnil // what the backend takes for "as it is"
	}
	var who fscopy.User
	switch u := opt.User.GetUser().(type) {
	case *pb.UserOpt_ByID:
		who = fscopy.User{UID: int(u.ByID), GID: int(u.ByID)}
	case *pb.UserOpt_ByName:
		err := lookup(usr, "/etc/passwd", func(r io.Reader) error {
			found, err := user.ParsePasswdFilter(r, func(c user.User) bool { return c.Name == u.ByName.Name })
			if len(found) > 0 {
				who = fscopy.User{UID: found[0].Uid, GID: found[0].Gid}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	switch g := opt.Group.GetUser().(type) {
	case *pb.UserOpt_ByID:
		who.GID = int(g.ByID)
	case *pb.UserOpt_ByName:
		err := lookup(group, "/etc/group", func(r io.Reader) error {
			found, err := user.ParseGroupFilter(r, func(c user.Group) bool { return c.Name == g.ByName.Name })
			if len(found) > 0 {
				who.GID = found[0].Gid
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &who, nil
}

// lookup reads an image's list of users or groups; a missing one has nobody.
func lookup(m snapshot.Mountable, name string, read func(io.Reader) error) error {
	if m == nil {
		return fmt.Errorf("nothing to look a name up in: %s", name)
	}
	return mounted(m, func(root string) error {
		path, err := paths.RootPath(root, name)
		if err != nil {
			return err
		}
		fi, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() || fi.Size() > mostPasswd {
			return fmt.Errorf("the image's %s is no file of at most %d bytes", name, mostPasswd)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return read(f)
	})
}

// unwrapped is an error without the path on this host.
func unwrapped(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// stamp is an action's time, nil for "as it is".
func stamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(0, ns)
	return &t
}
