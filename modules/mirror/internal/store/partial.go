package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drydock/modules/wholefile"
)

// A transfer is written to a file of its own name, beside a note of how much of
// it was received, from where, and what that hashes to. When the process ends
// before the transfer does, killed or not, the next one that wants the file reads
// the note, hashes what is there, and asks for the rest. What the note does not
// vouch for is not gone on with, and the whole is checked as ever.

const (
	// A note is written when so many bytes, or so much time, came after the last.
	noteBytes = 4 << 20
	noteTime  = 500 * time.Millisecond
	// keepFrom is how many bytes are worth a note.
	keepFrom = 64 << 10
	// partialFor is how long a transfer waits to be gone on with.
	partialFor = 7 * 24 * time.Hour
	// leftoverFor is how long after its last byte a file nobody goes on with is
	// taken for a killed process's.
	leftoverFor = 24 * time.Hour
)

// note is what is known of the beginning of a file.
type note struct {
	Version      int    `json:"version"` // 1
	Key          string `json:"key"`     // of the flight
	Source       string `json:"source"`  // which mirror said what follows
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	ContentType  string `json:"contentType,omitempty"`
	Size         int64  `json:"size"`   // of the whole; -1: not said
	Bytes        int64  `json:"bytes"`  // received
	SHA256       string `json:"sha256"` // of these
}

// incoming is the file a transfer is written to.
type incoming struct {
	*os.File
	whole *wholefile.File // a file nobody goes on with; nil: one with a note
	key   string
	noted time.Time
	upTo  int64 // bytes in the last note
	done  bool  // it has become a blob
}

func (s *Store) partials() string { return filepath.Join(s.dir, "partial") }

func notePath(path string) string { return path + ".json" }

// receive opens the file of a flight. It is this process's alone; where another
// one has it, or files cannot be locked, it is one that nobody goes on with.
func (s *Store) receive(key string) (*incoming, error) {
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(s.partials(), hex.EncodeToString(sum[:]))
	if f := openAlone(path); f != nil {
		return &incoming{File: f, key: key, noted: time.Now()}, nil
	}
	whole, err := wholefile.Begin(s.tmp(), wholefile.Options{Mode: 0o644, DirMode: 0o755, Pattern: "get-*"})
	if err != nil {
		return nil, diskError(s.tmp(), err)
	}
	return &incoming{File: whole.File, whole: whole, key: key}, nil
}

// openAlone opens or makes a file and locks it; nil when that cannot be done. Its
// name is looked at again: another process may have made it a blob meanwhile.
func openAlone(path string) *os.File {
	if os.MkdirAll(filepath.Dir(path), 0o755) != nil { //nolint:gosec // as the rest of the store
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // likewise
	if err != nil {
		return nil
	}
	ours, err := f.Stat()
	if err == nil && ours.Mode().IsRegular() && lockFile(f) {
		if named, err := os.Lstat(path); err == nil && os.SameFile(ours, named) {
			return f
		}
	}
	_ = f.Close()
	return nil
}

// begun is what is there of a file, with the hash of it; ok is false when there
// is nothing to go on with, and then the file is empty.
func (in *incoming) begun() (n note, sum hash.Hash, ok bool) {
	if in.whole != nil {
		return note{}, nil, false
	}
	b, err := os.ReadFile(notePath(in.Name()))
	if err == nil && json.Unmarshal(b, &n) == nil && n.Version == 1 && n.Key == in.key && n.Bytes > 0 {
		sum = sha256.New()
		got, err := io.Copy(sum, io.NewSectionReader(in, 0, n.Bytes))
		ok = err == nil && got == n.Bytes && hex.EncodeToString(sum.Sum(nil)) == n.SHA256 && in.Truncate(n.Bytes) == nil
	}
	if !ok {
		in.forget()
	}
	return n, sum, ok
}

// resume takes over what another process, or an earlier flight, received of the
// file.
func (f *Flight) resume(out *sink) Attempt {
	n, sum, ok := out.file.begun()
	meta := Meta{Size: n.Size, ETag: n.ETag, LastModified: n.LastModified, ContentType: n.ContentType, Source: n.Source}
	known := n.Source == f.want.Place && meta.validator() != ""
	full := n.Bytes == n.Size || f.want.Size > 0 && n.Bytes >= f.want.Size || out.limit > 0 && n.Bytes > out.limit
	if !ok || full || !known && f.want.SHA256 == "" {
		out.file.forget()
		return Attempt{}
	}
	out.n, out.sum, out.earlier, out.file.upTo = n.Bytes, sum, true, n.Bytes
	f.update(func() { f.meta, f.hidden = meta, !known })
	a := Attempt{From: n.Bytes}
	if known {
		a.IfRange = meta.validator()
	}
	return a
}

// anew forgets what was received; false when somebody has seen it.
func (f *Flight) anew(out *sink) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shown {
		return false
	}
	f.started, f.hidden, f.written, f.meta = false, false, 0, Meta{}
	out.file.forget()
	out.n, out.mark, out.before, out.earlier = 0, 0, nil, false
	out.sum.Reset()
	return true
}

// forget begins the file anew.
func (in *incoming) forget() {
	if in.whole == nil {
		_ = os.Remove(notePath(in.Name()))
	}
	_ = in.Truncate(0) // it is cut to its length in the end, too
	in.upTo = 0
}

// note writes down what was received, if it can be gone on with: by its digest,
// which is in the key, or by what the mirror tells files apart by.
func (in *incoming) note(k *sink, meta Meta, now time.Time) {
	if in.whole != nil || meta.NoRange || k.n < keepFrom || k.n <= in.upTo || k.flight.want.SHA256 == "" && meta.strong(now) == "" {
		return
	}
	b, err := json.Marshal(note{
		Version: 1, Key: in.key, Source: meta.Source, ETag: meta.ETag, LastModified: meta.LastModified, ContentType: meta.ContentType,
		Size: meta.Size, Bytes: k.n, SHA256: hex.EncodeToString(k.sum.Sum(nil)),
	})
	if err == nil && WriteFile(notePath(in.Name()), b) == nil { // else the next process begins anew
		in.noted, in.upTo = now, k.n
	}
}

// due says whether it is time for a note.
func (in *incoming) due(n int64, now time.Time) bool {
	return in.whole == nil && (n-in.upTo >= noteBytes || now.Sub(in.noted) >= noteTime)
}

// commit makes n bytes the blob at path.
func (in *incoming) commit(path string, n int64) (FileID, error) {
	st, err := in.Stat()
	if err == nil && st.Size() != n {
		if err = in.Truncate(n); err == nil {
			st, err = in.Stat()
		}
	}
	if err != nil {
		return FileID{}, err
	}
	if in.whole != nil {
		return IDOf(st), in.whole.Commit(path)
	}
	if err := in.Chmod(0o644); err != nil { //nolint:gosec // as every blob
		return FileID{}, err
	}
	// named first and let go of then: nobody else may have it in between
	if err := os.Rename(in.Name(), path); err != nil {
		return FileID{}, err
	}
	in.done = true
	_ = os.Remove(notePath(in.Name()))
	return IDOf(st), in.Close()
}

// end lets go of the file, which stays if it is to be gone on with. After commit
// it does nothing.
func (in *incoming) end(keep bool) {
	switch {
	case in.whole != nil:
		in.whole.Discard()
	case in.done:
	default:
		if !keep || in.upTo == 0 {
			_ = os.Remove(notePath(in.Name()))
			_ = os.Remove(in.Name())
		}
		_ = in.Close()
	}
}

// strong is the validator that tells a file from any other the mirror had by its
// name, another day too: a strong ETag, or a time of change that was past when
// the file was sent (RFC 9110, 8.8.2.2); "" without one.
func (m Meta) strong(now time.Time) string {
	v := m.validator()
	if v == "" || v == m.ETag {
		return v
	}
	if at, err := http.ParseTime(v); err != nil || now.Sub(at) < time.Minute {
		return ""
	}
	return v
}

// removePartial removes a transfer; false when somebody is at it.
func removePartial(path string) (bool, error) {
	f := openAlone(path)
	if f == nil {
		return false, nil
	}
	defer f.Close()
	_ = os.Remove(notePath(path))
	return true, os.Remove(path)
}

// sweep removes what processes left that were killed: transfers nobody went on
// with for long, and files nobody can go on with.
func (s *Store) sweep(now time.Time) {
	left, _ := os.ReadDir(s.partials()) // there may be none
	for _, e := range left {
		path := filepath.Join(s.partials(), e.Name())
		if st, err := e.Info(); err != nil || now.Sub(st.ModTime()) < partialFor {
			continue
		}
		of, isNote := strings.CutSuffix(path, notePath(""))
		if _, err := os.Lstat(of); isNote && os.IsNotExist(err) {
			_ = os.Remove(path)
		} else if !isNote {
			_, _ = removePartial(path) // else the next one does
		}
	}
	left, _ = os.ReadDir(s.tmp())
	for _, e := range left {
		if st, err := e.Info(); err == nil && now.Sub(st.ModTime()) > leftoverFor {
			_ = os.Remove(filepath.Join(s.tmp(), e.Name()))
		}
	}
}
