package core

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/artifact"
)

const (
	// controlTime bounds one question and its answer on the control socket.
	controlTime = 10 * time.Second
	// noticeAfter is how long a wait stays unmentioned.
	noticeAfter = 300 * time.Millisecond
	// startLock is held while an engine is being started or removed.
	startLock = "start.lock"
)

// errNobody: no engine answers here.
var errNobody = errors.New("no engine is running")

// busyError: an engine is there, or was a moment ago, and cannot be joined.
type busyError struct{ who, remedy string }

func (e *busyError) Error() string { return e.who }

// StartChild joins the engine that runs on Root, or starts one in a child
// process, and waits until it serves. ctx covers that only. An engine that
// cannot be joined (it is of another program, or is just ending) is waited for,
// as long as LockWait.
func StartChild(ctx context.Context, c ChildConfig) (*Child, error) {
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	c.Root = root
	if _, err := modesOf(c.Tier); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(root, "tmp"), 0o700); err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "starting the engine", Place: root, Err: err}
	}
	build := c.build
	if build == "" {
		if build, err = buildID(executable(c.Program)); err != nil {
			return nil, err
		}
	}
	w := newWaiter(c)
	for {
		child, err := joinRunning(ctx, c, build)
		if errors.Is(err, errNobody) {
			child, err = startAlone(ctx, c, build)
		}
		var busy *busyError
		if !errors.As(err, &busy) {
			return child, err
		}
		if err := w.wait(ctx, busy); err != nil {
			return nil, err
		}
	}
}

// waiter waits for others, in words and not for ever.
type waiter struct {
	root   string
	notice func(string)
	began  time.Time
	limit  time.Duration
	told   string
	pause  time.Duration
}

func newWaiter(c ChildConfig) *waiter {
	w := &waiter{root: c.Root, notice: c.Notice, began: time.Now(), limit: c.LockWait, pause: 2 * time.Millisecond}
	if w.limit == 0 {
		w.limit = defaultLockWait
	}
	return w
}

func (w *waiter) wait(ctx context.Context, why *busyError) error {
	waited := time.Since(w.began)
	if waited >= w.limit {
		remedy := why.remedy
		if remedy == "" {
			remedy = "wait for it to end, or give this run another --cache"
		}
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "joining the engine", Place: w.root,
			Message: why.who + ", still after " + w.limit.String(), Remedy: remedy,
		}
	}
	if waited >= noticeAfter && w.told != why.who && w.notice != nil {
		w.told = why.who
		w.notice(fmt.Sprintf("waiting for the engine's directory %s: %s (for %s at most)", w.root, why.who, w.limit))
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(w.pause):
		w.pause = min(2*w.pause, 50*time.Millisecond)
		return nil
	}
}

// FindRunning reads which engine runs on a state directory; nil when none
// answers.
func FindRunning(root string) *Running {
	r, err := discover(root)
	if err != nil {
		return nil
	}
	c, err := dialControl(r)
	if err != nil {
		return nil
	}
	c.Close()
	return r
}

func discover(root string) (*Running, error) {
	b, err := os.ReadFile(filepath.Join(root, discoveryName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNobody
	}
	if err != nil {
		return nil, &artifact.Error{Kind: artifact.KindFault, Op: "looking for a running engine", Place: root, Err: err}
	}
	var r Running
	if json.Unmarshal(b, &r) != nil || r.Control == "" {
		return nil, errNobody // of a program we know nothing of; the lock will tell
	}
	return &r, nil
}

// dialControl connects to an engine, if it is this user's.
func dialControl(r *Running) (*net.UnixConn, error) {
	var st unix.Stat_t
	dir := filepath.Dir(r.Control)
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, errNobody
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 {
		return nil, &artifact.Error{
			Kind: artifact.KindFault, Op: "joining the engine", Place: dir,
			Message: fmt.Sprintf("the directory of its socket belongs to user id %d with mode %o, not to this user alone", st.Uid, st.Mode&0o777),
			Remedy:  "give this run a --cache of its own",
		}
	}
	d := net.Dialer{Timeout: controlTime}
	c, err := d.Dial("unix", r.Control)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNobody
	case err != nil:
		return nil, fmt.Errorf("joining the engine: %w", err)
	}
	uc, ok := c.(*net.UnixConn)
	if !ok || !sameUser(uc) {
		c.Close()
		return nil, errNobody
	}
	return uc, nil
}

// ask puts one question and reads the answer; the connection stays open.
func ask(c *net.UnixConn, in *bufio.Reader, r request, within time.Duration) (reply, error) {
	_ = c.SetDeadline(time.Now().Add(within))
	defer func() { _ = c.SetDeadline(time.Time{}) }()
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return reply{}, err
	}
	return readLine[reply](in)
}

// joinRunning joins the engine that the discovery file names.
func joinRunning(ctx context.Context, c ChildConfig, build string) (*Child, error) {
	r, err := discover(c.Root)
	if err != nil {
		return nil, err
	}
	if c.Tier != "" && r.Tier != c.Tier {
		if conn, err := dialControl(r); err == nil {
			conn.Close()
			return nil, &busyError{
				who:    fmt.Sprintf("process %d runs the engine in tier %s, and %s was asked for", r.Owner, r.Tier, c.Tier),
				remedy: "wait for it to end, ask for its tier, or give this run another --cache",
			}
		}
	}
	return join(ctx, c, r, build)
}

func join(ctx context.Context, c ChildConfig, r *Running, build string) (*Child, error) {
	conn, err := dialControl(r)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	in := bufio.NewReader(conn)
	answer, err := ask(conn, in, request{
		Do: doJoin, Protocol: protocol, Build: build, PID: os.Getpid(), Gateway: c.GatewaySocket, Images: c.ImagesAddr,
		Emulators: c.Emulators, Limits: c.Limits,
	}, controlTime)
	if !stop() && ctx.Err() != nil {
		conn.Close()
		return nil, context.Cause(ctx)
	}
	switch {
	case err != nil && errors.Is(err, os.ErrDeadlineExceeded):
		conn.Close()
		return nil, &busyError{who: fmt.Sprintf("the engine of process %d does not answer", r.Owner)}
	case err != nil:
		conn.Close()
		return nil, &busyError{who: fmt.Sprintf("the engine of process %d is ending", r.Owner)}
	case answer.Other:
		conn.Close()
		return nil, &busyError{
			who:    fmt.Sprintf("process %d runs the engine with another build of drydock", r.Owner),
			remedy: "wait for it to end, run the same build, or give this run another --cache",
		}
	case answer.Ending:
		conn.Close()
		return nil, &busyError{who: fmt.Sprintf("the engine of process %d is ending", r.Owner)}
	case answer.Error != nil:
		conn.Close()
		return nil, answer.Error.error()
	}
	return newMemberChild(conn, in, r, answer.Member), nil
}

// newMemberChild is the running engine as one that joined it sees it.
func newMemberChild(conn *net.UnixConn, in *bufio.Reader, r *Running, id string) *Child {
	done := make(chan struct{})
	words := make(chan reply, 1)
	go func() {
		defer close(done)
		for {
			word, err := readLine[reply](in)
			if err != nil {
				return
			}
			words <- word
		}
	}()
	child := &Child{
		Socket: r.Socket, Tier: r.Tier, Mode: r.Mode, Member: id, Joined: true, Done: done,
		err: func() error { return nil },
	}
	child.stop = sync.OnceValue(func() error {
		if leave(conn, words, done) && child.reaped != nil {
			<-child.reaped
		}
		return nil
	})
	return child
}

// leave says goodbye, and waits for the engine's end if nobody else is there:
// then what it wrote is complete and its directory free. It reports whether the
// engine has ended.
func leave(conn *net.UnixConn, words <-chan reply, done <-chan struct{}) bool {
	defer conn.Close()
	_ = json.NewEncoder(conn).Encode(request{Do: doLeave}) // one that ended is seen to be done
	limit := time.NewTimer(stopTime + controlTime)
	defer limit.Stop()
	select {
	case word := <-words:
		if !word.Last {
			return false
		}
	case <-done:
		return true
	case <-limit.C:
		return false
	}
	select {
	case <-done:
		return true
	case <-limit.C: // it kills itself
		return false
	}
}

// startAlone starts an engine while nobody else does.
func startAlone(ctx context.Context, c ChildConfig, build string) (*Child, error) {
	unlock, err := tryLock(filepath.Join(c.Root, startLock))
	if err != nil {
		return nil, err
	}
	defer unlock()
	// an engine may have been started since, or be closing its databases
	free, err := tryLock(filepath.Join(c.Root, lockName))
	if err != nil {
		return nil, err
	}
	free()
	started, err := startAnyMode(ctx, c, build)
	if err != nil {
		return nil, err
	}
	child, err := join(ctx, c, &started.running, build)
	if err != nil {
		started.abort()
		return nil, fmt.Errorf("joining the engine just started: %w", err)
	}
	// from here on the engine lives as long as it has members
	started.lifeline.Close()
	child.Joined = false
	child.reaped = started.done
	child.err = func() error {
		select {
		case <-started.done:
			return endedEarly(started.ended)
		default:
			return nil
		}
	}
	return child, nil
}

// endedEarly says that an engine did not end as it should: somebody, or a machine
// out of memory, killed it.
func endedEarly(err error) error {
	if err == nil {
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "running the embedded engine", Message: "its process ended early", Err: err,
		Remedy: "run again; what was finished is kept in the cache (the engine's log may say why it ended)",
	}
}

// tryLock takes a lock file, or says who has it. Whoever had the file may have
// removed it with its directory: then the lock on it means nothing.
func tryLock(path string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, &artifact.Error{Kind: artifact.KindFault, Op: "locking the engine's state", Place: path, Err: err}
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EINTR) {
			f.Close()
			continue
		}
		if err != nil {
			holder, _ := os.ReadFile(path)
			f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, &artifact.Error{Kind: artifact.KindFault, Op: "locking the engine's state", Place: path, Err: err}
			}
			return nil, &busyError{who: lockedBy(strings.TrimSpace(string(holder)))}
		}
		if !sameFile(f, path) {
			f.Close()
			continue
		}
		if filepath.Base(path) == startLock {
			_ = f.Truncate(0)
			_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message only
		}
		return func() { f.Close() }, nil
	}
}

func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
