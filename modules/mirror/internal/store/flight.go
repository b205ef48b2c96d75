package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
)

// holdBack is how many bytes at the end of a transfer its followers do not see
// before the whole has been verified: a file that fails is never complete at
// the other end.
const holdBack = 16 << 10

// transfers is how often a transfer that breaks off is begun.
const transfers = 3

// Meta is what an answer says about its body.
type Meta struct {
	Size         int64 // -1: not said
	ETag         string
	LastModified string
	ContentType  string
	NotModified  bool   // no body: Previous is still right
	NoRange      bool   // it cannot be gone on with in the middle
	From         int64  // the body begins at this byte; not 0 only where Attempt.From was asked for
	Source       string // whose answer it is: an address without secrets, as Want.Place
}

// Attempt is one of the transfers that a file may take.
type Attempt struct {
	N int // 0 is the first
	// From is the first byte that is wanted, 0 for all of it. IfRange is the
	// validator that must still hold for that (RFC 9110, 13.1.5); "" where the
	// file's digest will tell.
	From    int64
	IfRange string
}

// validator is what tells whether a file is still the one an answer was of; ""
// when nothing strong enough does (RFC 9110, 8.8.1).
func (m Meta) validator() string {
	if m.ETag != "" && !strings.HasPrefix(m.ETag, "W/") {
		return m.ETag
	}
	return m.LastModified
}

// holds says whether an answer may be of the file that had a validator: it has
// the same, or says nothing.
func (m Meta) holds(validator string) bool {
	return validator == "" || m.ETag == "" || validator[0] != '"' || m.ETag == validator
}

// Want is a file to be brought into the store.
type Want struct {
	Place    string // for errors; no secrets
	Key      string // under which an Entry is kept; "" none
	SHA256   string // hex; "" not known
	Size     int64  // 0 not known
	Limit    int64  // never more than this; 0 is no limit
	Previous *Entry // to keep when the answer is "not modified"

	// Have looks once more before the transfer starts: the one before this may
	// just have ended. nil: there is nothing to look for.
	Have func() (Entry, string, bool)
	// Open starts a transfer, or goes on with one that broke off.
	Open func(ctx context.Context, a Attempt) (io.ReadCloser, Meta, error)
	// Attempts is how many transfers there may be; 0 is the usual number.
	Attempts int
	// Broken says whether a transfer error need not come again. nil: never.
	Broken func(error) bool
	// Verify has the last word on a file that is otherwise right. nil: yes.
	Verify func(ctx context.Context, path string) error
}

// Flight is one transfer into the store, shared by everyone who wants the same
// file at the same time. It belongs to none of them: it ends early only when
// the last one has let go.
type Flight struct {
	store  *Store
	key    string
	want   Want
	cancel context.CancelFunc

	mu      sync.Mutex
	changed chan struct{} // closed and replaced on every change
	refs    int
	started bool // meta is known
	done    bool
	meta    Meta
	file    string // where it is written
	info    os.FileInfo
	written int64
	shown   bool // a follower has seen bytes of it
	hidden  bool // followers wait for the whole: its beginning may be another file's
	entry   Entry
	path    string
	err     error
}

// Start begins a transfer or joins one that runs. The caller must Release it.
func (s *Store) Start(ctx context.Context, w Want) *Flight {
	key := "url " + w.Key
	if w.SHA256 != "" {
		key = "sha256 " + w.SHA256
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flights[key]; f != nil && f.join() {
		return f
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &Flight{store: s, key: key, want: w, cancel: cancel, refs: 1, changed: make(chan struct{})}
	s.flights[key] = f
	go f.run(ctx)
	return f
}

func (f *Flight) join() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done || f.refs == 0 {
		return false
	}
	f.refs++
	return true
}

// Release lets go of a flight.
func (f *Flight) Release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs--; f.refs == 0 {
		f.cancel()
	}
}

// update changes the flight and wakes everyone who waits for it.
func (f *Flight) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until ready says so, under the lock.
func (f *Flight) await(ctx context.Context, ready func() bool) error {
	for {
		f.mu.Lock()
		if ready() {
			f.mu.Unlock()
			return nil
		}
		ch := f.changed
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ch:
		}
	}
}

// Wait waits for the end of the transfer.
func (f *Flight) Wait(ctx context.Context) (Entry, string, error) {
	if err := f.await(ctx, func() bool { return f.done }); err != nil {
		return Entry{}, "", err
	}
	return f.entry, f.path, f.err
}

func (f *Flight) run(ctx context.Context) {
	entry, path, err := f.transferAll(ctx)
	f.store.mu.Lock()
	if f.store.flights[f.key] == f {
		delete(f.store.flights, f.key)
	}
	f.store.mu.Unlock()
	f.update(func() { f.done, f.entry, f.path, f.err = true, entry, path, err })
	f.cancel()
}

func (f *Flight) transferAll(ctx context.Context) (Entry, string, error) {
	if f.want.Have != nil {
		if e, path, ok := f.want.Have(); ok {
			return e, path, nil
		}
	}
	file, err := f.store.receive(f.key)
	if err != nil {
		return Entry{}, "", err
	}
	info, err := file.Stat()
	if err != nil {
		file.end(false)
		return Entry{}, "", diskError(file.Name(), err)
	}
	f.update(func() { f.file, f.info = file.Name(), info })
	out := &sink{file: file, sum: sha256.New(), limit: f.limit(), flight: f}
	e, path, err := f.transfers(ctx, out, f.resume(out))
	keep := err != nil && (ctx.Err() != nil || ofMirror(err))
	if keep {
		file.note(out, f.meta, time.Now())
	}
	file.end(keep)
	return e, path, err
}

// transfers tries until the file is here. first is the first attempt: where that
// goes on with what another process began, and the whole is wrong, all is fetched
// once more.
func (f *Flight) transfers(ctx context.Context, out *sink, first Attempt) (Entry, string, error) {
	most := max(f.want.Attempts, transfers)
	a := first
	for n := 0; ; {
		e, path, err := f.transfer(ctx, out, a)
		switch {
		case err == nil || ctx.Err() != nil:
			return e, path, err
		case !f.broken(err):
			if ofMirror(err) || !out.earlier || !f.anew(out) {
				return e, path, err
			}
			a = Attempt{N: n}
			continue
		}
		if n++; n == most {
			return e, path, err
		}
		a = f.attempt(n, out)
	}
}

// broken says whether a transfer error need not come again.
func (f *Flight) broken(err error) bool { return f.want.Broken != nil && f.want.Broken(err) }

// attempt says how to go on: from where the last transfer broke off, if what is
// there can be told to be of the same file.
func (f *Flight) attempt(n int, out *sink) Attempt {
	a := Attempt{N: n}
	if out.n == 0 {
		return a
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.meta.NoRange {
		return a
	}
	if a.IfRange = f.meta.validator(); a.IfRange != "" || f.want.SHA256 != "" {
		a.From = out.n
	}
	if f.want.SHA256 != "" {
		a.IfRange = "" // another mirror's file has other validators and the same digest
	}
	return a
}

func (f *Flight) limit() int64 {
	if f.want.Size > 0 {
		return f.want.Size
	}
	return f.want.Limit
}

func (f *Flight) transfer(ctx context.Context, out *sink, a Attempt) (Entry, string, error) {
	body, meta, err := f.want.Open(ctx, a)
	if err != nil {
		return Entry{}, "", mirrorError{err}
	}
	defer body.Close()
	if meta.NotModified {
		return f.unchanged()
	}
	if err := f.begins(out, meta, a); err != nil {
		return Entry{}, "", err
	}
	if _, err := io.CopyBuffer(out, mirrorBody{body}, make([]byte, 64<<10)); err != nil {
		var e *artifact.Error
		if errors.As(err, &e) || f.want.Broken == nil || !f.want.Broken(err) {
			return Entry{}, "", err
		}
		return Entry{}, "", mirrorError{fmt.Errorf("fetching %s: the transfer broke off after %d bytes: %w", f.want.Place, out.n, err)}
	}
	if err := f.lengths(out, meta); err != nil {
		return Entry{}, "", err
	}
	return f.commit(ctx, out, meta)
}

// begins says that an answer has begun: anew, or where it was to go on.
func (f *Flight) begins(out *sink, meta Meta, a Attempt) error {
	if meta.From == 0 {
		f.mu.Lock()
		shown := f.shown
		f.mu.Unlock()
		out.restart(shown)
	} else if meta.From != a.From || meta.Size >= 0 && f.meta.Size >= 0 && meta.Size != f.meta.Size || !meta.holds(a.IfRange) {
		return checksumError(f.want.Place, "it changed while it was being fetched")
	}
	f.update(func() {
		f.hidden = f.hidden && meta.From > 0
		f.started, f.meta = !f.hidden, meta
		if out.mark == 0 {
			f.written = out.n
		}
	})
	return nil
}

// lengths compares what came with what was wanted and what was announced.
func (f *Flight) lengths(out *sink, meta Meta) error {
	switch {
	case f.want.Size > 0 && out.n != f.want.Size:
		return checksumError(f.want.Place, fmt.Sprintf("%d bytes were served, not %d", out.n, f.want.Size))
	case meta.Size >= 0 && out.n != meta.Size:
		return checksumError(f.want.Place, fmt.Sprintf("%d bytes were served, %d were announced", out.n, meta.Size))
	case out.n < out.mark:
		return checksumError(f.want.Place, "it changed while it was being fetched")
	}
	return nil
}

// commit verifies what was received and gives it its name.
func (f *Flight) commit(ctx context.Context, out *sink, meta Meta) (Entry, string, error) {
	sum := hex.EncodeToString(out.sum.Sum(nil))
	if f.want.SHA256 != "" && sum != f.want.SHA256 {
		return Entry{}, "", mismatch(f.want.Place, f.want.SHA256, sum)
	}
	if f.want.Verify != nil {
		if err := f.want.Verify(ctx, out.file.Name()); err != nil {
			return Entry{}, "", err
		}
	}
	path := f.store.blobPath(sum)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return Entry{}, "", diskError(path, err)
	}
	id, err := out.file.commit(path, out.n)
	if err != nil {
		return Entry{}, "", diskError(path, err)
	}
	f.store.setVerified(sum, id)
	e := Entry{
		Version: 1, Key: f.want.Key, Digest: artifact.Digest("sha256:" + sum), Size: out.n,
		ETag: meta.ETag, LastModified: meta.LastModified, ContentType: meta.ContentType, Fetched: time.Now().UTC(),
	}
	if f.want.Key == "" {
		return e, path, nil
	}
	return e, path, f.store.putEntry(e)
}

func (f *Flight) unchanged() (Entry, string, error) {
	if f.want.Previous == nil {
		return Entry{}, "", checksumError(f.want.Place, "it is said not to have changed, but was never fetched")
	}
	e := *f.want.Previous
	e.Fetched = time.Now().UTC()
	path, _, ok := f.store.Blob(e.Digest, 0)
	if !ok {
		return Entry{}, "", checksumError(f.want.Place, "the copy kept of it is gone")
	}
	return e, path, f.store.putEntry(e)
}

// sink writes and hashes a transfer. Begun anew, it checks that the bytes
// already shown to followers come again.
type sink struct {
	file   *incoming
	sum    hash.Hash
	n      int64
	limit  int64
	mark   int64  // bytes received by an earlier attempt
	before []byte // their hash
	flight *Flight

	earlier bool // the first bytes were received by an earlier flight
}

// restart begins anew. What came before must come again, unless it came in an
// earlier flight and nobody was shown it.
func (k *sink) restart(shown bool) {
	if k.n > k.mark && (shown || !k.earlier) {
		k.mark, k.before = k.n, k.sum.Sum(nil)
	}
	k.n, k.earlier = 0, false
	k.sum.Reset()
}

// Write implements io.Writer.
func (k *sink) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		part := p
		if k.n < k.mark && k.n+int64(len(p)) > k.mark {
			part = p[:k.mark-k.n]
		}
		if k.limit > 0 && k.n+int64(len(part)) > k.limit {
			return total, checksumError(k.flight.want.Place, fmt.Sprintf("more than %d bytes were served", k.limit))
		}
		if _, err := k.file.WriteAt(part, k.n); err != nil {
			return total, diskError(k.file.Name(), err)
		}
		k.sum.Write(part)
		k.n += int64(len(part))
		if k.n == k.mark && !bytes.Equal(k.sum.Sum(nil), k.before) {
			return total, checksumError(k.flight.want.Place, "it changed while it was being fetched")
		}
		total, p = total+len(part), p[len(part):]
	}
	if k.n > k.mark {
		k.flight.update(func() { k.flight.written = k.n })
		if now := time.Now(); k.file.due(k.n, now) {
			k.file.note(k, k.flight.meta, now)
		}
	}
	return total, nil
}

// Follow reads a flight's bytes as they arrive. It waits until the answer has
// begun; an answer that is an error, or that the store has already, is given
// as such. Reading fails when the transfer does. complete is called before the
// last bytes are given out.
func (f *Flight) Follow(ctx context.Context, complete func(Entry)) (io.ReadCloser, Meta, error) {
	if err := f.await(ctx, func() bool { return f.started || f.done }); err != nil {
		return nil, Meta{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		if f.err != nil {
			return nil, Meta{}, f.err
		}
		return nil, Meta{}, ErrComplete
	}
	file, err := os.Open(f.file)
	if err != nil {
		return nil, Meta{}, ErrComplete // renamed just now: the end is near
	}
	if st, err := file.Stat(); err != nil || !os.SameFile(st, f.info) {
		_ = file.Close()
		return nil, Meta{}, ErrComplete // likewise, and another process fetches it again
	}
	f.shown = true
	return &follower{ctx: ctx, flight: f, file: file, complete: complete}, f.meta, nil
}

// ErrComplete tells a caller of Follow that there is nothing to follow any
// more: Wait gives the file.
var ErrComplete = errors.New("the file is complete")

type follower struct {
	ctx      context.Context
	flight   *Flight
	file     *os.File
	off      int64
	complete func(Entry)
}

// Read implements io.Reader.
func (r *follower) Read(p []byte) (int, error) {
	f := r.flight
	visible, end := int64(0), false
	err := f.await(r.ctx, func() bool {
		visible, end = f.written-holdBack, f.done
		if f.done {
			visible = f.written
		}
		return end || r.off < visible
	})
	if err != nil {
		return 0, err
	}
	if end && f.err != nil {
		return 0, f.err
	}
	if end && r.complete != nil {
		r.complete(f.entry)
		r.complete = nil
	}
	if r.off >= visible {
		return 0, io.EOF
	}
	if int64(len(p)) > visible-r.off {
		p = p[:visible-r.off]
	}
	n, err := r.file.ReadAt(p, r.off)
	r.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Close implements io.Closer.
func (r *follower) Close() error { return r.file.Close() }
