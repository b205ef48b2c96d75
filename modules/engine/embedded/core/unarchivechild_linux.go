package core

import (
	"cmp"
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

	"drydock/modules/engine/embedded/keeper"
)

// unarchiveIn unpacks plain, a tar, into dir, which is the root of the process
// that does it: no link of the archive or of the tree below leads out of it. It
// takes CAP_SYS_CHROOT and neither a namespace nor unshare(2), which the
// default profile of containers refuses even for one thread's root. nil owner:
// as the archive says. left bounds what it becomes.
func unarchiveIn(ctx context.Context, plain io.Reader, dir string, owner *fscopy.User, left *room, launcher *keeper.Launcher) error {
	if launcher != nil {
		return unarchiveLaunched(ctx, plain, dir, owner, left, launcher)
	}
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

// unarchiveLaunched is unarchiveIn where the root cannot be changed: a
// supervisor of calls takes its place, which the process is to itself. So it is
// not one of the keeper's.
func unarchiveLaunched(ctx context.Context, plain io.Reader, dir string, owner *fscopy.User, left *room, launcher *keeper.Launcher) error {
	args := []string{"drydock", argUnarchive, argHere, dir}
	if owner != nil {
		args = append(args, strconv.Itoa(owner.UID), strconv.Itoa(owner.GID))
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer program.Close()
	theirs, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	said, says, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return err
	}
	defer said.Close()
	_, err = launcher.Start(program, args, [4]*os.File{theirs, says, says, says})
	theirs.Close()
	says.Close()
	if err != nil {
		return fmt.Errorf("starting to unpack: %w", err)
	}
	defer context.AfterFunc(ctx, func() { in.Close() })()
	cerr := pour(in, plain, left)
	in.Close()
	b, err := io.ReadAll(io.LimitReader(said, maxSaid)) // until it has ended
	text, done := strings.CutSuffix(string(b), unpacked)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case cerr != nil && !errors.Is(cerr, unix.EPIPE):
		return cerr
	case err == nil && !done:
		err = errors.New(cmp.Or(strings.TrimSpace(text), "the process that unpacks ended early"))
	}
	return err
}

const (
	maxSaid  = 64 << 10
	unpacked = "unpacked\n" // the last word of a process that did
)

// unarchiveMain is that process: its arguments are the folder and, if they are
// not those of the archive, the user and group ids of everything.
func unarchiveMain(args []string) error {
	here := len(args) > 0 && args[0] == argHere
	if here {
		args = args[1:]
	}
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
	if here {
		return unarchiveHere(args[0], opts)
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

func unarchiveHere(dir string, opts *archive.TarOptions) error {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := root.Chdir(); err != nil { // links of archives are looked at from there
		return err
	}
	unix.Umask(0)
	err = keeper.RunInside(root, func() error {
		if err := archive.Unpack(os.Stdin, "/", opts); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
	if err == nil {
		_, err = os.Stdout.WriteString(unpacked)
	}
	return err
}
