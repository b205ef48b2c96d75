//go:build linux

package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver/pb"
)

// Some mounts of a step are not for the process but for us: what it wrote goes
// into the first, what it reads comes from the second, and the others are
// secrets that may be in its files, to be taken out of its output. As mounts
// they are part of what the engine caches.
const (
	metaDir   = "/.drydock-meta"
	stdinPath = "/.drydock-stdin"
	builtDir  = "/.drydock-built/"
)

// The files in the meta mount.
const (
	metaStdout   = "stdout"
	metaStderr   = "stderr"
	metaCombined = "combinedOutput"
	metaExitCode = "exitCode"
)

// capture is an executor that keeps what steps print: all of it in the meta
// mount for those that have one, the tail for the error of those that fail.
type capture struct {
	executor.Executor
	shared *Shared
	step   *pb.ExecOp // nil: not a step of a build
}

var _ executor.Executor = (*capture)(nil)

// Run runs the step with the two mounts taken out and their streams put in.
func (c *capture) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}) (rec resourcestypes.Recorder, err error) {
	ctx, svc, leave, err := c.network(ctx, id, &p)
	if err != nil {
		return nil, err
	}
	defer leave()
	if svc != nil {
		return c.serve(ctx, id, root, mounts, p, started, svc)
	}
	run := &captured{
		valid: p.Meta.ValidExitCodes, stdout: newTail(), stderr: newTail(),
		hide: newRedactor(c.shared.secretsOf(c.step)),
	}
	p.Meta.ValidExitCodes = nil
	defer func() { err = errors.Join(err, run.close()) }()
	var rest []executor.Mount
	for _, m := range mounts {
		switch m.Dest {
		case metaDir:
			if err := run.openMeta(ctx, m); err != nil {
				return nil, fmt.Errorf("preparing to capture output: %w", err)
			}
		case stdinPath:
			in, err := c.openStdin(ctx, run, m)
			if err != nil {
				return nil, fmt.Errorf("opening the step's input: %w", err)
			}
			p.Stdin = in
		default:
			if !strings.HasPrefix(m.Dest, builtDir) {
				rest = append(rest, m)
			}
		}
	}
	p.Stdout = run.tee(p.Stdout, run.stdout, metaStdout)
	p.Stderr = run.tee(p.Stderr, run.stderr, metaStderr)
	rec, err = c.Executor.Run(ctx, id, root, rest, p, started)
	err = ended(ctx, err)
	if ferr := errors.Join(flushed(p.Stdout), flushed(p.Stderr)); ferr != nil && err == nil {
		err = ferr
	}
	return rec, c.finish(run, p, err)
}

// ended is why a process failed: because a service of its did, if that came first.
func ended(ctx context.Context, err error) error {
	var f *fault
	if err != nil && errors.As(context.Cause(ctx), &f) {
		return f
	}
	return err
}

// serve runs a process that is a service. What it prints goes to the events.
func (c *capture) serve(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, p executor.ProcessInfo, started chan<- struct{}, svc *running) (resourcestypes.Recorder, error) {
	_, ids := svc.svc.container.secretEnvs()
	hide := newRedactor(svc.server.secrets.byIDs(ids))
	events := svc.server.hub.feed("")
	events.serviceBegan(svc)
	run := &captured{service: true, stdout: newTail(), stderr: newTail(), hide: hide}
	p.Stdout = run.tee(&serviceLog{events, svc, 1}, run.stdout, metaStdout)
	p.Stderr = run.tee(&serviceLog{events, svc, 2}, run.stderr, metaStderr)
	rec, err := c.Executor.Run(ctx, id, root, mounts, p, started)
	_, _ = flushed(p.Stdout), flushed(p.Stderr) // neither can fail
	events.serviceEnded(svc)
	return rec, c.finish(run, p, ended(ctx, err))
}

// finish decides whether the exit code was a wanted one, notes it, and puts a
// token into the error of a failed step under which its output is found.
func (c *capture) finish(run *captured, p executor.ProcessInfo, err error) error {
	code := 0
	var exit *gatewaypb.ExitError
	if err != nil {
		if !errors.As(err, &exit) {
			return err
		}
		code = int(exit.ExitCode)
	}
	if werr := run.write(metaExitCode, strconv.Itoa(code)); werr != nil {
		return werr
	}
	allowed := code == 0
	if len(run.valid) > 0 {
		allowed = slices.Contains(run.valid, code)
	}
	if allowed {
		return nil
	}
	if err == nil {
		err = &gatewaypb.ExitError{ExitCode: 0, Err: errors.New("exit code: 0, a failure was expected")}
	}
	failed := failure{args: p.Meta.Args, stdout: run.stdout.String(), stderr: run.stderr.String(), note: noteOf(err, code)}
	if !run.service { // as in Dagger
		failed.stdout, failed.stderr = strings.TrimSpace(failed.stdout), strings.TrimSpace(failed.stderr)
	}
	token := c.shared.failures.put(failed)
	return fmt.Errorf("%w %s", err, token)
}

// noteOf is what an exit error says beyond its code.
func noteOf(err error, code int) string {
	return strings.TrimLeft(strings.TrimPrefix(err.Error(), fmt.Sprintf("exit code: %d", code)), ":, \n")
}

// captured is one step's streams.
type captured struct {
	service        bool
	valid          []int
	hide           *redactor
	dir            string // where the meta mount is, "" without one
	stdout, stderr *tail
	combined       *os.File
	files          []io.Closer
	mounters       []snapshot.Mounter
}

func (r *captured) openMeta(ctx context.Context, m executor.Mount) error {
	dir, err := r.mount(ctx, m, false)
	if err != nil {
		return err
	}
	r.dir = dir
	r.combined, err = r.create(metaCombined)
	return err
}

func (r *captured) create(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(r.dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err == nil {
		r.files = append(r.files, f)
	}
	return f, err
}

func (r *captured) write(name, text string) error {
	if r.dir == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o644)
}

// openStdin opens what the step reads: a file, or a secret, of which BuildKit
// would mount a file system.
func (c *capture) openStdin(ctx context.Context, run *captured, m executor.Mount) (io.ReadCloser, error) {
	for _, of := range c.step.GetMounts() {
		if of.GetDest() == stdinPath && of.GetSecretOpt() != nil {
			value, err := c.shared.secretFor(ctx, of.GetSecretOpt().GetID())
			return io.NopCloser(bytes.NewReader(value)), err
		}
	}
	return run.openStdin(ctx, m)
}

func (r *captured) openStdin(ctx context.Context, m executor.Mount) (io.ReadCloser, error) {
	dir, err := r.mount(ctx, m, true)
	if err != nil {
		return nil, err
	}
	path, err := fs.RootPath(dir, m.Selector)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err == nil {
		r.files = append(r.files, f)
	}
	return f, err
}

func (r *captured) mount(ctx context.Context, m executor.Mount, readonly bool) (string, error) {
	ref, err := m.Src.Mount(ctx, readonly)
	if err != nil {
		return "", err
	}
	lm := snapshot.LocalMounter(ref)
	dir, err := lm.Mount()
	if err != nil {
		return "", err
	}
	r.mounters = append(r.mounters, lm)
	return dir, nil
}

// tee is the process's stream with copies for the tail and the meta files.
func (r *captured) tee(to io.WriteCloser, t *tail, name string) io.WriteCloser {
	w := &teeWriter{to: to, copies: []io.Writer{t}}
	if r.dir != "" {
		if f, err := r.create(name); err != nil {
			w.err = err
		} else {
			w.copies = append(w.copies, f, r.combined)
		}
	}
	return r.hide.redact(w)
}

func (r *captured) close() error {
	var errs []error
	for _, f := range r.files {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, m := range r.mounters {
		errs = append(errs, m.Unmount())
	}
	return errors.Join(errs...)
}

// teeWriter writes to its copies and then on. A copy that cannot be written
// fails the step: output must not be silently incomplete.
type teeWriter struct {
	to     io.WriteCloser
	copies []io.Writer
	err    error
}

func (w *teeWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	for _, c := range w.copies {
		if _, err := c.Write(p); err != nil {
			w.err = err
			return 0, err
		}
	}
	if w.to == nil {
		return len(p), nil
	}
	return w.to.Write(p)
}

func (w *teeWriter) Close() error {
	if w.to == nil {
		return nil
	}
	return w.to.Close()
}

// tailSize is how much of each stream the error of a failed step carries: as
// much as Dagger's does.
const tailSize = 100 << 10

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
	all int // how much was written
}

func newTail() *tail { return &tail{} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.all += len(p)
	if len(t.buf) > 2*tailSize {
		t.buf = append([]byte(nil), t.buf[len(t.buf)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all <= tailSize {
		return string(t.buf)
	}
	note := fmt.Sprintf("[omitting %d bytes]...", t.all-tailSize)
	return note + string(t.buf[len(t.buf)-tailSize+len(note):])
}

// failure is what a failed step left.
type failure struct {
	args           []string
	stdout, stderr string
	note           string
	ext            map[string]any // not nil: it was a service's, explained already
}

// failures keeps the last failed steps' output by token. The token travels in
// the error's text, the only thing that surely comes through BuildKit.
type failures struct {
	mu    sync.Mutex
	byID  map[string]failure
	order []string
}

const keptFailures = 128

var tokenPattern = regexp.MustCompile(` ?\[drydock-exec:([a-z0-9]+)\]`)

func newFailures() *failures { return &failures{byID: map[string]failure{}} }

func (f *failures) put(one failure) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := identity.NewID()
	f.byID[id] = one
	f.order = append(f.order, id)
	if len(f.order) > keptFailures {
		delete(f.byID, f.order[0])
		f.order = f.order[1:]
	}
	return "[drydock-exec:" + id + "]"
}

// get finds the failure whose token is in an error's text.
func (f *failures) get(text string) failure {
	m := tokenPattern.FindStringSubmatch(text)
	if m == nil {
		return failure{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byID[m[1]]
}

func stripTokens(text string) string { return tokenPattern.ReplaceAllString(text, "") }
