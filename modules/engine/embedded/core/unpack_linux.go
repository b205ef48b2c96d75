package core

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/worker"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/executor"
)

// perEntry is what an entry of an archive takes at least, in bytes: archives
// of nothing but names fill disks too.
const perEntry = 4096

// unpackOp is a COPY or ADD that may unpack archives. BuildKit unpacks without a
// bound, with programs of the host's for some compressions, and in a mount
// namespace, which an ordinary container refuses; here it is asked before what
// an archive becomes, and the unpacking is our own (unarchive_linux.go).
type unpackOp struct {
	solver.Op // its cache key is BuildKit's
	op        *pb.FileOp
	name      string
	worker    *boundWorker
}

var _ solver.Op = (*unpackOp)(nil)

// unpacks reports whether an operation may unpack.
func unpacks(op *pb.FileOp) bool {
	for _, a := range op.Actions {
		if c := a.GetCopy(); c != nil && c.AttemptUnpackDockerCompatibility {
			return true
		}
	}
	return false
}

// Exec refuses archives that become more than a step may write.
func (o *unpackOp) Exec(ctx context.Context, jc solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	room := o.worker.exec.Room(ctx)
	for _, a := range o.op.Actions {
		c := a.GetCopy()
		if c == nil || !c.AttemptUnpackDockerCompatibility {
			continue
		}
		n := int(a.SecondaryInput)
		if n < 0 || n >= len(inputs) {
			continue // made by an action before this one: of no archive from outside
		}
		ref, ok := inputs[n].Sys().(*worker.WorkerRef)
		if !ok || ref.ImmutableRef == nil {
			continue
		}
		m, err := ref.ImmutableRef.Mount(ctx, true, jc.Session())
		if err != nil {
			return nil, err
		}
		if room, err = weigh(ctx, m, c, room); err != nil {
			return nil, err
		}
	}
	return o.solve(ctx, jc, inputs)
}

// weigh measures the archives an action names and returns what room is left.
func weigh(ctx context.Context, m snapshot.Mountable, c *pb.FileActionCopy, room executor.Room) (executor.Room, error) {
	names, err := namesOf(m, c)
	if err != nil {
		return room, nil //nolint:nilerr // the operation itself says so
	}
	return room, mounted(m, func(root string) error {
		for _, name := range names {
			n, err := measure(ctx, root, name, room.Bytes)
			if err != nil {
				return err
			}
			if n > room.Bytes {
				return &artifact.Error{
					Kind: artifact.KindUsage, Op: "unpacking", Place: name, Message: room.Exceeded("unpacked it is larger than"),
					Remedy: "unpack it in a RUN, what is needed of it, or raise the limit",
				}
			}
			room.Bytes -= n
		}
		return nil
	})
}

// measure is what an archive becomes, in bytes of disk; it stops at most. What
// is no archive is 0.
func measure(ctx context.Context, root, name string, most int64) (int64, error) {
	plain, err := openArchive(root, name)
	if err != nil || plain == nil {
		return 0, nil //nolint:nilerr // the operation itself says so; what is none is copied as it is
	}
	defer plain.Close()
	entries := tar.NewReader(&boundedReader{ctx: ctx, r: plain})
	sum := int64(0)
	for sum <= most {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) || err != nil && ctx.Err() == nil {
			return sum, nil // one that is damaged is found so when it is unpacked
		}
		if err != nil {
			return sum, fmt.Errorf("reading the archive: %w", context.Cause(ctx))
		}
		if h.Size > most { // the sum of such may be less than nothing
			return most + 1, nil
		}
		sum += h.Size + perEntry
	}
	return sum, nil
}

// boundedReader ends with its context.
type boundedReader struct {
	ctx context.Context //nolint:containedctx // a reader has no argument for it
	r   io.Reader
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}
