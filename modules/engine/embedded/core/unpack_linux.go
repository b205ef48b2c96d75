package core

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"

	"drydock/modules/artifact"
	"drydock/modules/engine/embedded/executor"
)

// perEntry is what an entry of an archive takes at least, in bytes: archives
// of nothing but names fill disks too.
const perEntry = 4096

// unpackOp is a COPY or ADD that may unpack archives. BuildKit unpacks without a
// bound, with programs of the host's for some compressions, and in a mount
// namespace, which an ordinary container refuses; here what comes out of an
// archive is counted, and the unpacking is our own (unarchive_linux.go).
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
	return o.solve(ctx, jc, inputs, &room{Room: o.worker.exec.Room(ctx)})
}

// room is what the archives of one operation may still become.
type room struct {
	mu sync.Mutex
	executor.Room
}

// take takes n bytes, and fails when there are none left.
func (r *room) take(n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n < 0 || n > r.Bytes {
		r.Bytes = 0
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "unpacking", Message: r.Exceeded("unpacked it is larger than"),
			Remedy: "unpack it in a RUN, what is needed of it, or raise the limit",
		}
	}
	r.Bytes -= n
	return nil
}

// pour writes plain, a tar, to who unpacks it, as far as there is room: an entry
// is counted before anything of what it holds is passed on. Where plain is no
// tar, the rest goes on uncounted, and who unpacks it says so and reads no more.
func pour(to io.Writer, plain io.Reader, left *room) error {
	passed := &passing{to: to}
	entries := tar.NewReader(io.TeeReader(plain, passed))
	for {
		h, err := entries.Next()
		if passed.err != nil {
			return passed.err
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader) {
				break
			}
			return err
		}
		if err := left.take(h.Size); err != nil {
			return err
		}
		if err := left.take(perEntry); err != nil {
			return err
		}
	}
	_, err := io.Copy(to, plain)
	return err
}

// passing tells an error of writing from one of reading.
type passing struct {
	to  io.Writer
	err error
}

func (p *passing) Write(b []byte) (int, error) {
	n, err := p.to.Write(b)
	if err != nil {
		p.err = err
	}
	return n, err
}
