// Package store is a pull-through cache: blobs by sha256, and what was last
// seen at a URL. Nothing enters it that was not read to its end and checked.
// Files are written beside and renamed, so that a kill at any moment leaves
// the store as it was; there is no fsync, since whatever is lost can be
// fetched again and every blob is hashed before a process first uses it.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/wholefile"
)

// Store is a directory of blobs. It is safe for concurrent use, by several
// processes too.
type Store struct {
	dir string

	mu       sync.Mutex
	verified map[string]FileID    // by hex digest: files hashed or written by this process
	flights  map[string]*Flight   // by flight key
	entries  map[string]keptEntry // by key: what was read, while its file stays what it was
}

// keptEntry is an entry and what its file was when it was read.
type keptEntry struct {
	Entry
	file os.FileInfo
}

// entriesKept bounds how many entries are held in memory.
const entriesKept = 4096

// Open uses a directory, made when first written to. What killed processes left
// is removed after a day, and after a week what can be gone on with.
func Open(dir string) *Store {
	s := &Store{dir: dir, verified: map[string]FileID{}, flights: map[string]*Flight{}, entries: map[string]keptEntry{}}
	s.sweep(time.Now())
	return s
}

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

func (s *Store) blobPath(hexsum string) string {
	return filepath.Join(s.dir, "sha256", hexsum[:2], hexsum)
}

// Entry is what was last seen at a URL.
type Entry struct {
	Version      int             `json:"version"` // 1
	Key          string          `json:"key"`
	Digest       artifact.Digest `json:"digest"`
	Size         int64           `json:"size"`
	ETag         string          `json:"etag,omitempty"`
	LastModified string          `json:"lastModified,omitempty"`
	ContentType  string          `json:"contentType,omitempty"`
	Fetched      time.Time       `json:"fetched"` // or last found unchanged
}

// Blob finds a blob. A file that is not what its name says is removed and not
// found. size 0 is any.
func (s *Store) Blob(d artifact.Digest, size int64) (path string, n int64, ok bool) {
	hexsum := d.Hex()
	if len(hexsum) != 64 {
		return "", 0, false
	}
	path = s.blobPath(hexsum)
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() || size > 0 && st.Size() != size {
		return "", 0, false
	}
	if !s.IsVerified(d, st) {
		sum, hashed, err := hashFile(path)
		if err != nil || sum != hexsum {
			_ = os.Remove(path)
			return "", 0, false
		}
		s.setVerified(hexsum, hashed)
	}
	Used(path, st.ModTime(), time.Now())
	return path, st.Size(), true
}

// IsVerified says whether a blob's file is the one this process hashed or wrote.
func (s *Store) IsVerified(d artifact.Digest, st os.FileInfo) bool {
	s.mu.Lock()
	known, ok := s.verified[d.Hex()]
	s.mu.Unlock()
	return ok && known == IDOf(st)
}

func (s *Store) setVerified(hexsum string, id FileID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified[hexsum] = id
}

// hashFile is a file's digest in hex, and which file it was.
func hashFile(path string) (string, FileID, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", FileID{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", FileID{}, err
	}
	st, err := f.Stat()
	if err != nil {
		return "", FileID{}, err
	}
	return hex.EncodeToString(h.Sum(nil)), IDOf(st), nil
}

func (s *Store) entryPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, "urls", hex.EncodeToString(sum[:])+".json")
}

// Entry finds what was last seen under a key, if its blob is still there. A
// damaged entry is none.
func (s *Store) Entry(key string) (e Entry, path string, ok bool) {
	if e, ok = s.readEntry(key); !ok {
		return Entry{}, "", false
	}
	path, n, ok := s.Blob(e.Digest, 0)
	if !ok || n != e.Size {
		return Entry{}, "", false
	}
	return e, path, true
}

// readEntry reads what was last seen under a key. Another process may write it
// anew, by a rename: its file is then another.
func (s *Store) readEntry(key string) (Entry, bool) {
	path := s.entryPath(key)
	st, err := os.Stat(path)
	if err != nil {
		return Entry{}, false
	}
	s.mu.Lock()
	kept, ok := s.entries[key]
	s.mu.Unlock()
	if ok && os.SameFile(kept.file, st) && kept.file.ModTime().Equal(st.ModTime()) && kept.file.Size() == st.Size() {
		return kept.Entry, true
	}
	var e Entry
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &e) != nil || e.Version != 1 || e.Key != key {
		return Entry{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= entriesKept {
		clear(s.entries)
	}
	s.entries[key] = keptEntry{e, st}
	return e, true
}

func (s *Store) putEntry(e Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return WriteFile(s.entryPath(e.Key), b)
}

// Forget drops what was seen under a key, and its blob.
func (s *Store) Forget(key string) {
	if e, path, ok := s.Entry(key); ok {
		s.mu.Lock()
		delete(s.verified, e.Digest.Hex())
		s.mu.Unlock()
		_ = os.Remove(path) // a leftover is found out by its entry's absence
	}
	_ = os.Remove(s.entryPath(key))
}

// WriteFile writes a small file at once or not at all.
func WriteFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return diskError(dir, err)
	}
	if err := wholefile.Write(path, b, wholefile.Options{}); err != nil {
		return diskError(path, err)
	}
	return nil
}

func diskError(path string, err error) error {
	e := &artifact.Error{
		Kind: artifact.KindFault, Op: "writing the cache", Place: path, Err: err,
		Remedy: "give a writable directory with --cache",
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Remedy = "make room on that disk or give another directory with --cache; the cache may be removed at any time"
	}
	return e
}

// checksumError says that a mirror served something else than was asked for.
func checksumError(place, message string) error {
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "fetching", Place: place, Message: message,
		Remedy: "the mirror is broken or has been tampered with: nothing of it was kept; try again or use another mirror",
	}
}

func mismatch(place, want, got string) error {
	return checksumError(place, fmt.Sprintf("wrong checksum: sha256:%s was asked for, sha256:%s was served", want, got))
}
