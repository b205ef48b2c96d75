package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	bkexec "github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// furnishing is one mount of a contained step: a file or directory that is
// placed at Dest while it runs.
type furnishing struct {
	dest     string
	away     string // what is placed
	writable bool   // and where it goes back to
	fixed    bool   // it is read-only
	secret   bool   // it is emptied before it is taken away
	part     string // of the fitting
	size     int64  // that it may come to, in bytes; 0: no limit of its own
}

// source is what a mount is of, before anything is made for it.
type source struct {
	m      bkexec.Mount
	path   string // existing file or directory; "" for the others
	tmpfs  bool
	size   int64 // of a tmpfs, in bytes; 0: no limit of its own
	secret *secret
}

// source opens a mount.
func (s *step) source(ctx context.Context, m bkexec.Mount) (*source, error) {
	if m.Src == nil {
		return nil, errors.New("the mount has no source")
	}
	ref, err := m.Src.Mount(ctx, m.Readonly)
	if err != nil {
		return nil, err
	}
	if sec, ok, err := secretOf(ref); err != nil {
		return nil, err
	} else if ok {
		return &source{m: m, secret: sec}, nil
	}
	mounts, release, err := ref.Mount()
	if err != nil {
		return nil, err
	}
	if release != nil {
		s.later(release)
	}
	if len(mounts) == 1 && mounts[0].Type == "tmpfs" {
		return &source{m: m, tmpfs: true, size: sizeOf(mounts[0].Options)}, nil
	}
	path, err := plainPath(mounts)
	if err != nil {
		return nil, err
	}
	return &source{m: m, path: path}, nil
}

// sizeOf is what BuildKit says of a tmpfs, in bytes; 0 for nothing.
func sizeOf(options []string) int64 {
	for _, o := range options {
		if v, ok := strings.CutPrefix(o, "size="); ok {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// resolve finds the file or directory in the mount that is meant. Another step
// may have it in place before it is locked.
func (src *source) resolve() error {
	if src.path == "" {
		return nil
	}
	base, err := os.OpenFile(src.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer base.Close()
	if filepath.Clean("/"+src.m.Selector) != "/" {
		f, err := initproc.OpenIn(base, src.m.Selector, unix.O_PATH)
		if err != nil {
			return err
		}
		defer f.Close()
		base = f
	}
	src.path, err = os.Readlink(fdPath(base))
	return err
}

// plainPath is the directory or file that a mount is of; a step that cannot
// mount can have no other.
func plainPath(mounts []mount.Mount) (string, error) {
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return "", fmt.Errorf("a mount of %d layers cannot be had without mounting", len(mounts))
	}
	return mounts[0].Source, nil
}

// secret is the content of a secret mount.
type secret struct {
	data           []byte
	uid, gid, mode int
}

// secretOf takes a secret out of BuildKit's mount of it, which would mount a
// file system to put it there. It has no accessor: a test sees that the fields
// keep their names.
func secretOf(ref bkexec.MountableRef) (*secret, bool, error) {
	v := reflect.ValueOf(ref)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || v.Elem().Type().Name() != "secretMountInstance" {
		return nil, false, nil
	}
	unknown := errors.New("this version of the engine keeps secrets in a way that is not known here")
	field := func(v reflect.Value, name string) reflect.Value {
		for v.IsValid() && v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if !v.IsValid() || v.Kind() != reflect.Struct {
			return reflect.Value{}
		}
		return v.FieldByName(name)
	}
	sm := field(v, "sm")
	data, opt := field(sm, "data"), field(field(sm, "mount"), "SecretOpt")
	uid, gid, mode := field(opt, "Uid"), field(opt, "Gid"), field(opt, "Mode")
	if !data.IsValid() || data.Kind() != reflect.Slice || !uid.IsValid() || !gid.IsValid() || !mode.IsValid() {
		return nil, false, unknown
	}
	return &secret{
		data: slices.Clone(data.Bytes()), uid: int(uid.Uint()), gid: int(gid.Uint()), mode: int(mode.Uint() & 0o777),
	}, true, nil
}

// furnish makes what a mount places. stage is a path for it.
func (s *step) furnish(src *source, stage string) (*furnishing, error) {
	f := &furnishing{dest: src.m.Dest, away: stage, fixed: src.m.Readonly, size: src.size}
	switch {
	case src.secret != nil:
		f.secret = true
		return f, src.secret.write(stage)
	case src.tmpfs:
		if err := os.Mkdir(stage, 0o777); err != nil {
			return nil, err
		}
		f.writable = !src.m.Readonly
		return f, unix.Chmod(stage, 0o1777)
	}
	fi, err := os.Lstat(src.path)
	if err != nil {
		return nil, err
	}
	switch {
	case fi.Mode().Type() == os.ModeSocket:
		stop, err := proxySocket(src.path, stage, fi)
		if err != nil {
			return nil, err
		}
		s.later(stop)
		return f, nil
	case !src.m.Readonly:
		f.away, f.writable = src.path, true
		return f, nil
	case fi.IsDir():
		return f, fs.CopyDir(stage, src.path)
	case fi.Mode().IsRegular():
		return f, copyFile(stage, src.path, fi)
	}
	return nil, fmt.Errorf("a %s cannot be mounted", fi.Mode().Type())
}

func (s *secret) write(path string) error {
	if err := os.WriteFile(path, s.data, 0o600); err != nil {
		return err
	}
	if err := os.Lchown(path, s.uid, s.gid); err != nil {
		return err
	}
	return unix.Chmod(path, uint32(s.mode))
}

func copyFile(to, from string, fi os.FileInfo) error {
	if err := fs.CopyFile(to, from); err != nil {
		return err
	}
	if err := chownLike(to, fi); err != nil {
		return err
	}
	if err := os.Chmod(to, fi.Mode()); err != nil {
		return err
	}
	return os.Chtimes(to, fi.ModTime(), fi.ModTime())
}

func chownLike(path string, fi os.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Lchown(path, int(st.Uid), int(st.Gid))
}

// proxySocket listens at stage for the socket at path, with its owner and
// mode.
func proxySocket(path, stage string, fi os.FileInfo) (func() error, error) {
	dir, err := os.OpenFile(filepath.Dir(stage), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// by the descriptor, since the address of a socket is short
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(fdPath(dir), filepath.Base(stage)), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(stage, fi.Mode().Perm()), chownLike(stage, fi)); err != nil {
		l.Close()
		return nil, err
	}
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go spliceUnix(c, path)
		}
	}()
	return l.Close, nil
}

func spliceUnix(c *net.UnixConn, path string) {
	defer c.Close()
	up, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.CloseWrite()
	}()
	_, _ = io.Copy(c, up)
}
