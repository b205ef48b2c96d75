package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/moby/go-archive"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"
)

// unarchiveIn unpacks plain, a tar, into dir, which is the root of the process
// that does it: no link of the archive or of the tree below leads out of it. It
// takes CAP_SYS_CHROOT and neither a namespace nor unshare(2), which the
// default profile of containers refuses even for one thread's root. nil owner:
// as the archive says. left bounds what it becomes.
func unarchiveIn(ctx context.Context, plain io.Reader, dir string, owner *fscopy.User, left *room) error {
	args := []string{"drydock", argUnarchive, dir}
	if owner != nil {
		args = append(args, strconv.Itoa(owner.UID), strconv.Itoa(owner.GID))
	}
	var said strings.Builder
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: args, Env: []string{}, Dir: "/", Stderr: &said}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting to unpack: %w", err)
	}
	// it ends with its input, and that with the engine; killed, it might still
	// be seen in the folder when that is unmounted
	defer context.AfterFunc(ctx, func() { in.Close() })()
	cerr := pour(in, plain, left)
	in.Close()
	err = cmd.Wait()
	switch text := strings.TrimSpace(said.String()); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case cerr != nil && !errors.Is(cerr, unix.EPIPE):
		return cerr // a damaged archive: what came of it is thrown away
	case err != nil && text != "":
		return errors.New(text)
	}
	return err
}

// unarchiveMain is that process: its arguments are the folder and, if they are
// not those of the archive, the user and group ids of everything.
func unarchiveMain(args []string) error {
	if len(args) != 1 && len(args) != 3 {
		return fmt.Errorf("unpacking: %d arguments", len(args))
	}
	opts := &archive.TarOptions{BestEffortXattrs: true}
	if len(args) == 3 {
		uid, uerr := strconv.Atoi(args[1])
		gid, gerr := strconv.Atoi(args[2])
		if err := errors.Join(uerr, gerr); err != nil {
			return err
		}
		opts.ChownOpts = &archive.ChownOpts{UID: uid, GID: gid}
	}
	before, err := os.Open("/")
	if err != nil {
		return err
	}
	defer before.Close()
	if err := unix.Chroot(args[0]); err != nil {
		return fmt.Errorf("entering the folder: %w", err)
	}
	if err = unix.Chdir("/"); err == nil {
		err = archive.Unpack(os.Stdin, "/", opts)
	}
	if err == nil {
		// what follows the end of an archive is read, so that its writer is not cut
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	// a keeper of owners remembers roots, and forgets them as one changes
	return errors.Join(err, before.Chdir(), unix.Chroot("."))
}
